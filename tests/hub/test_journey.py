"""Device and hub together: what was pushed arrives whole and trusted, and a full disk loses nothing."""

from __future__ import annotations

import functools
import random
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_hub.inbox import WAITING_MAX, Inbox
from lineside_hub.push import push
from lineside_hub.repository import Repository
from lineside_link.clock import ClockFloor
from lineside_link.fetch import RepoClient
from lineside_link.messages import Desired, ResultsAck, decode
from lineside_link.topics import Topics
from lineside_link.trust import TrustStore
from lineside_runtime.bundle import Bundle, parse_manifest
from lineside_runtime.errors import SignatureError, TargetNotFoundError
from tests.peers import wait_for
from tests.worlds.hub import HubProcess
from tests.worlds.results_device import ResultsDevice

GROUP = "line-a"
TOPICS = Topics("test")


Trust = tuple[RepoClient, TrustStore]


@pytest.fixture
def trust(tmp_path: Path, repository: Repository, device: ResultsDevice) -> Trust:
    repo = RepoClient(device.link, TOPICS, device.name, timeout_s=1.0, stall_s=20.0)
    clock = ClockFloor(tmp_path / "clock")
    return repo, TrustStore(tmp_path / "trust", repository.root_bytes(), repo, clock)


def test_a_pushed_bundle_arrives_signed_and_whole(
    hub_process: HubProcess,
    repository: Repository,
    device: ResultsDevice,
    trust: Trust,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
) -> None:
    repo, store = trust
    topic = TOPICS.group_desired(GROUP)
    for number, size in enumerate((700_000, 300_001)):
        bundle = make_bundle(f"{number}.0.0", content=random.Random(size).randbytes(size))
        pushed = push(repository.folder, bundle.path, group=GROUP)
        wait_for(functools.partial(desires, device, pushed.gen), what="the wish")
        wish = decode(device.messages[topic], Desired).bundle
        assert wish is not None
        manifest = parse_manifest(store.refresh_and_fetch_manifest(wish.target, wish.sha256))
        folder = tmp_path / f"slot-{number}"
        repo.fetch_files(manifest, folder)
        for name in bundle.manifest.files:
            assert (folder / name).read_bytes() == (bundle.path / name).read_bytes()


def desires(device: ResultsDevice, gen: int) -> bool:
    """Whether the device has heard this generation of its group's desired state."""
    message = device.messages.get(TOPICS.group_desired(GROUP))
    return message is not None and decode(message, Desired).gen == gen


def test_a_wish_that_nobody_signed_is_refused_by_the_device(
    hub_process: HubProcess,
    repository: Repository,
    device: ResultsDevice,
    trust: Trust,
    make_bundle: Callable[..., Bundle],
) -> None:
    _, store = trust
    ref = repository.publish(make_bundle("1.0.0"), GROUP)
    wait_for(lambda: device.send(1, 1) and device.acked == 1, what="the hub")
    with pytest.raises(TargetNotFoundError):
        store.refresh_and_fetch_manifest("line-a/evil-1.0.0.json", ref.sha256)
    assert store.refresh_and_fetch_manifest(ref.target, ref.sha256)


def test_another_repositorys_devices_trust_nothing_of_this_one(
    hub_process: HubProcess,
    repository: Repository,
    device: ResultsDevice,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
) -> None:
    other = Repository.create(tmp_path / "other", groups=[GROUP])
    ref = repository.publish(make_bundle("1.0.0"), GROUP)
    repo = RepoClient(device.link, TOPICS, device.name, timeout_s=1.0)
    store = TrustStore(tmp_path / "trust", other.root_bytes(), repo, ClockFloor(tmp_path / "clock"))
    wait_for(lambda: device.send(1, 1) and device.acked == 1, what="the hub")
    with pytest.raises(SignatureError):
        store.refresh_and_fetch_manifest(ref.target, ref.sha256)


def limit_files(process: HubProcess, size: int) -> None:
    """Lets no file of the process grow beyond ``size`` bytes, as a full disk would, while it runs."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_at_the_hub_loses_nothing(
    hub_process: HubProcess, repository: Repository, device: ResultsDevice
) -> None:
    wait_for(lambda: device.send(1, 10) and device.acked == 10, what="the hub")
    log = repository.folder / "hub.db-wal"
    limit_files(hub_process, log.stat().st_size + 60_000)
    sender = threading.Thread(target=lambda: device.deliver(2000))
    sender.start()
    wait_for(lambda: "messages not written" in hub_process.log, what="the full disk")
    assert "[4002]" in hub_process.log
    assert device.acked < 2000
    limit_files(hub_process, resource.RLIM_INFINITY)
    sender.join(60)
    assert device.acked == 2000


def test_a_flood_is_dropped_by_count_and_never_acknowledged(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    acks: list[ResultsAck] = []
    inbox = Inbox(repository.folder, lambda device, ack: acks.append(ack))
    for _ in range(WAITING_MAX + 1):
        inbox.offer("results", "cam-01", b"{}")
    assert inbox.counters["dropped"] == 1
    assert "dropped" in caplog.text
    inbox.start()
    inbox.close()
    assert not inbox.alive
    assert acks == []
    assert inbox.counters["malformed"] == WAITING_MAX
    assert caplog.text.count("Results message of cam-01") == 1
