"""Device and hub together: what was pushed arrives whole and trusted, and a full disk loses nothing."""

from __future__ import annotations

import functools
import random
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lineside.cli import main
from lineside_hub.config import ResultsConfig
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.results.inbox import WAITING_MAX, WAITING_MAX_BYTES, Inbox, MessageKind
from lineside_hub.rollouts.push import push
from lineside_link.clock import ClockFloor
from lineside_link.messages import (
    MESSAGE_MAX_BYTES,
    Desired,
    Problem,
    Reported,
    ResultRow,
    Results,
    ResultsAck,
    decode,
    encode,
)
from lineside_link.topics import Topics
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import fetch_files
from lineside_link.trust import TrustStore
from lineside_runtime.bundle import Bundle, parse_manifest
from tests.peers import wait_for
from tests.worlds.hub import HubProcess
from tests.worlds.results_device import ResultsDevice

GROUP = "line-a"
TOPICS = Topics("test")
ONE_BROKER = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
"""For what doesn't depend on the kind of broker."""


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
        wait_for(functools.partial(desires, device, pushed.gen), what="the desired state")
        desired = decode(device.messages[topic], Desired).bundle
        assert desired is not None
        manifest = parse_manifest(store.fetch_target(desired.target, desired.sha256))
        folder = tmp_path / f"slot-{number}"
        fetch_files(repo, manifest, folder)
        for name in bundle.manifest.files:
            assert (folder / name).read_bytes() == (bundle.path / name).read_bytes()


def desires(device: ResultsDevice, gen: int) -> bool:
    """Whether the device has heard this generation of its group's desired state."""
    message = device.messages.get(TOPICS.group_desired(GROUP))
    return message is not None and decode(message, Desired).gen == gen


def limit_files(process: HubProcess, size: int) -> None:
    """Lets no file of the process grow beyond ``size`` bytes, as a full disk would, while it runs."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@ONE_BROKER
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
    inbox = Inbox(repository.folder, lambda _stream, _device, ack: acks.append(ack))
    for _ in range(WAITING_MAX + 1):
        inbox.offer("results", "cam-01", b"{}")
    assert inbox.counters["dropped"] == 1
    assert "dropped" in caplog.text
    inbox.start()
    inbox.close()
    assert not inbox.is_alive()
    assert acks == []
    assert inbox.counters["malformed"] == WAITING_MAX
    assert caplog.text.count("Results message of cam-01") == 1


def many_rows(first: int, count: int) -> bytes:
    rows = (ResultRow(seq=seq, part_id=f"p{seq}", verdict="pass") for seq in range(first, first + count))
    return encode(Results(epoch="e", rows=tuple(rows)))


def test_a_device_beyond_its_quota_is_refused_and_the_others_are_not(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    config = 'folder = "."\n[link]\nurl = "mqtt://127.0.0.1"\nsite = "t0"\n[results]\ndevice_max_bytes = {}\n'
    size = len(many_rows(1, 100))
    (repository.folder / "hub.toml").write_text(config.format(2 * size))
    acks: list[tuple[str, int]] = []
    for start in range(2):  # what it has sent is remembered over a start
        quota = ResultsConfig(device_max_bytes=2 * size)
        inbox = Inbox(repository.folder, lambda _, device, ack: acks.append((device, ack.seq)), quota)
        inbox.start()
        for first in (1, 101, 201) if start == 0 else (201,):
            assert inbox.offer("results", "cam-1", many_rows(first, 100))
            assert inbox.offer("results", "cam-1", many_rows(1, 100)), "a repeat costs nothing"
            wait_for(inbox._waiting.empty, what="the writer")
        assert inbox.offer("results", "cam-2", many_rows(1, 1))
        inbox.close()
        assert inbox.counters["over_quota"] >= 1
    assert max(seq for device, seq in acks if device == "cam-1") < 300
    assert ("cam-2", 1) in acks
    assert main(["hub", "status", "--hub", str(repository.folder)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("? of "), "no hub runs that hears which devices are connected"
    assert "! cam-1 has sent 0.00 of" in said and "is refused: raise results.device_max_bytes" in said
    with Database.open(repository.folder) as database:
        assert [(event.device, event.code) for event in database.events(kind="quota")] == [("cam-1", 4031)] * 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("up", {"device": "cam-1", "up": True, "boot_id": "b" * 300}),
        ("up", {"device": "cam-1", "up": True, "boot_id": "b", "devices": ["x"] * 65}),
        ("reported", {"device": "cam-1", "waiting": "w" * 5000}),
        ("reported", {"device": "cam-1", "drift": {"alarms": [{"name": "n", "since_ns": 0}] * 257}}),
    ],
)
def test_a_field_that_is_too_long_is_refused(
    repository: Repository, kind: MessageKind, message: dict[str, object]
) -> None:
    inbox = Inbox(repository.folder, lambda *_: None)
    inbox.offer(kind, "cam-1", msgspec.json.encode(message))
    inbox.start()
    inbox.close()
    assert inbox.counters["malformed"] == 1
    with Database.open(repository.folder) as database:
        assert database.query("SELECT * FROM devices") == []


def test_a_long_part_id_goes_into_quarantine_and_a_long_error_is_cut(repository: Repository) -> None:
    acks: list[int] = []
    inbox = Inbox(repository.folder, lambda _stream, _device, ack: acks.append(ack.seq))
    rows = (ResultRow(seq=1, part_id="p" * 300, verdict="pass"), ResultRow(seq=2, part_id="p", verdict="pass"))
    inbox.offer("results", "cam-1", encode(Results(epoch="e", rows=rows)))
    problem = Problem(code=1, error="E", message="m" * 5000)
    inbox.offer("reported", "cam-1", encode(Reported(device="cam-1", error=problem)))
    inbox.start()
    inbox.close()
    assert acks == [2]
    with Database.open(repository.folder) as database:
        assert [row["seq"] for row in database.query("SELECT seq FROM quarantine")] == [1]
        [kept] = database.query("SELECT reported FROM devices")
    assert len(kept["reported"]) < 3000


def test_messages_that_wait_are_bounded_in_bytes_too(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(repository.folder, lambda *_: None)
    assert not inbox.offer("results", "cam-01", b"B" * (MESSAGE_MAX_BYTES + 1))
    assert inbox.counters["too_large"] == 1
    full = WAITING_MAX_BYTES // MESSAGE_MAX_BYTES
    assert all(inbox.offer("results", "cam-01", b"B" * MESSAGE_MAX_BYTES) for _ in range(full))
    assert not inbox.offer("results", "cam-01", b"{}")
    assert inbox.counters["dropped"] == 1
    assert f"{WAITING_MAX_BYTES} bytes in {full} messages wait" in caplog.text
    inbox.start()
    inbox.close()
    assert inbox.counters["malformed"] == full, "what waited was read, and made room"
