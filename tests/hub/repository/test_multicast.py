"""One sending for many devices, over mosquitto with the hub's own access list."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_hub.config import IDENTITY_NAME, HubConfig, HubTransferConfig
from lineside_hub.repository.repository import Repository
from lineside_hub.server import Hub
from lineside_link.client.client import LinkClient
from lineside_link.topics import Topics
from lineside_link.transfer.assembly import FetchReport
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import ChunkSource, fetch_files
from lineside_runtime.bundle import CHUNK_BYTES, Bundle, verify_file
from tests.peers import SecureMosquitto, find_mosquitto, wait_for

GROUP, SITE = "line-a", "t0"
TOPICS = Topics(SITE)
DEVICES = 4
GATHER_S = 3.0
CHUNKS = 12

pytestmark = pytest.mark.peer


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SecureMosquitto]:
    running = SecureMosquitto(tmp_path / "broker", program=find_mosquitto(), site=SITE)
    running.start()
    yield running
    running.stop()


StartHub = Callable[..., Hub]


@pytest.fixture
def start_hub(broker: SecureMosquitto, repository: Repository) -> Iterator[StartHub]:
    hubs: list[Hub] = []

    def start(**transfer: Any) -> Hub:
        config = HubTransferConfig(**{"multicast_gather_s": GATHER_S, **transfer})
        hubs.append(Hub(HubConfig(str(repository.folder), broker.config(site=SITE), transfer=config)))
        hubs[-1].start()
        assert hubs[-1].link.wait_connected(60)
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


class Fleet:
    """Some devices that fetch at the same time."""

    def __init__(self, broker: SecureMosquitto, *, group: str = GROUP) -> None:
        self._broker = broker
        self._clients: list[LinkClient] = []
        self.reports: dict[str, FetchReport] = {}
        self.group = group

    def connect(self, name: str, **options: bool) -> RepoClient:
        credentials = self._broker.enroll(name, group=self.group)
        client = LinkClient(self._broker.config_with(credentials, site=SITE), name)
        repo = RepoClient(client, TOPICS, name, **options)
        client.start()
        assert client.wait_connected(60), client.last_error
        repo.metadata("timestamp.json")
        self._clients.append(client)
        return repo

    def fetch(self, repos: dict[str, RepoClient], bundle: Bundle, folder: Path, old: Bundle | None = None) -> None:
        source = ChunkSource(f"{GROUP}/{bundle.manifest.name}-{bundle.manifest.version}.json", bundle.digest, old)

        def one(name: str, repo: RepoClient) -> None:
            self.reports[name] = fetch_files(repo, bundle.manifest, folder / name, source=source)

        threads = [threading.Thread(target=one, args=item) for item in repos.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert set(self.reports) >= set(repos)
        for name in repos:
            for relative, entry in bundle.manifest.files.items():
                verify_file(folder / name / relative, entry)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def fleet(broker: SecureMosquitto) -> Iterator[Fleet]:
    made = Fleet(broker)
    yield made
    made.close()


@pytest.fixture
def bundle(repository: Repository, make_bundle: Callable[..., Bundle]) -> Bundle:
    made = make_bundle("1.0.0", content=random.Random(3).randbytes(CHUNKS * CHUNK_BYTES))
    repository.publish(made, GROUP)
    return made


def test_what_many_want_is_sent_once(
    start_hub: StartHub, repository: Repository, fleet: Fleet, bundle: Bundle, tmp_path: Path
) -> None:
    enrolled = {f"cam-{number}": GROUP for number in range(DEVICES)} | {"cam-other": "line-b"}
    identity = repository.folder / IDENTITY_NAME
    identity.mkdir()
    (identity / "enrolled.json").write_text(json.dumps(enrolled))
    hub = start_hub(multicast_from=3)
    assert fleet.connect("cam-other").join(bundle.digest, base="") is None, "its group has not this bundle"
    repos = {f"cam-{number}": fleet.connect(f"cam-{number}") for number in range(DEVICES)}
    alone = fleet.connect("cam-slow", multicast=False)
    served = hub.responder.counters["bytes"]
    fleet.fetch({**repos, "cam-slow": alone}, bundle, tmp_path / "slots")
    for name in repos:
        assert fleet.reports[name].multicast_bytes >= CHUNKS * CHUNK_BYTES * 0.9
    assert fleet.reports["cam-slow"].multicast_bytes == 0
    sent = hub.multicast.counters["bytes"] + hub.responder.counters["bytes"] - served
    assert sent <= 2.3 * bundle.manifest.size_bytes, "once for all, and once for the one that takes no part"


def test_what_few_want_is_asked_for_by_each(start_hub: StartHub, fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    hub = start_hub(multicast_from=3, multicast_gather_s=0.3)
    fleet.fetch({"cam-1": fleet.connect("cam-1")}, bundle, tmp_path / "slots")
    assert fleet.reports["cam-1"].multicast_bytes == 0
    assert hub.multicast.counters["declined"] == 1
    assert hub.multicast.counters["sendings"] == 0


def test_many_with_the_same_bundle_are_sent_its_patch_once(
    start_hub: StartHub,
    fleet: Fleet,
    bundle: Bundle,
    repository: Repository,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
) -> None:
    hub = start_hub(multicast_from=2)
    draw = random.Random(4)
    content = (bundle.path / "onnx-int8" / "model.onnx").read_bytes()
    changed = bytes((byte + (draw.random() < 0.3)) % 256 for byte in content)
    new = make_bundle("2.0.0", content=changed)
    repository.publish(new, GROUP)
    wait_for(lambda: hub.deltas.get(new.digest, bundle.digest)[0] == 200, 60, what="patches")
    repos = {f"cam-{number}": fleet.connect(f"cam-{number}") for number in range(3)}
    fleet.fetch(repos, new, tmp_path / "slots", old=bundle)
    for report in fleet.reports.values():
        assert report.patched == 1
    sent = hub.multicast.counters["bytes"]
    assert 0 < sent < new.manifest.size_bytes / 2, "a patch, not the file"
    assert all(report.multicast_bytes for report in fleet.reports.values())


def test_gaps_are_asked_for(
    start_hub: StartHub, fleet: Fleet, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = start_hub(multicast_from=2)
    send = hub.link.publish
    lost = set(bundle.manifest.files["onnx-int8/model.onnx"].chunks[::4])

    def lossy(topic: str, payload: bytes, **options: bool) -> bool:
        return True if topic.rpartition("/")[2] in lost else send(topic, payload, **options)

    monkeypatch.setattr(hub.link, "publish", lossy)
    repos = {f"cam-{number}": fleet.connect(f"cam-{number}") for number in range(3)}
    fleet.fetch(repos, bundle, tmp_path / "slots")
    for report in fleet.reports.values():
        assert 0 < report.multicast_bytes <= bundle.manifest.size_bytes - len(lost) * CHUNK_BYTES
        assert report.fetched_bytes == bundle.manifest.size_bytes


def test_a_forged_chunk_is_counted_and_asked_for(
    start_hub: StartHub, fleet: Fleet, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = start_hub(multicast_from=2)
    send = hub.link.publish
    victim = bundle.manifest.files["onnx-int8/model.onnx"].chunks[5]

    def forge(topic: str, payload: bytes, **options: bool) -> bool:
        forged = b"x" * len(payload) if topic.endswith(victim) else payload
        return send(topic, forged, **options)

    monkeypatch.setattr(hub.link, "publish", forge)
    repos = {f"cam-{number}": fleet.connect(f"cam-{number}") for number in range(2)}
    fleet.fetch(repos, bundle, tmp_path / "slots")
    assert [report.mismatches for report in fleet.reports.values()] == [1, 1]


def test_a_device_hears_no_chunks_of_another_group(start_hub: StartHub, broker: SecureMosquitto) -> None:
    hub = start_hub()
    stranger = LinkClient(broker.config_with(broker.enroll("cam-9", group="line-b"), site=SITE), "cam-9")
    heard: list[str] = []
    stranger.subscribe(f"{TOPICS.prefix}/chunk/#", lambda topic, _: heard.append(topic), qos=0)
    stranger.start()
    assert stranger.wait_connected(60), stranger.last_error
    for group in (GROUP, "line-b"):  # in this order on one connection, so the first would have come before the second
        hub.link.publish(TOPICS.chunk(f"{group}/x-1.json", "end"), b"{}", qos=0)
    wait_for(lambda: heard)
    stranger.close()
    assert heard == [TOPICS.chunk("line-b/x-1.json", "end")]
