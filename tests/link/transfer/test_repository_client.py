"""Pulling files over a real broker that drops, spoils, stalls and dies."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from lineside_hub.repository.repository import Repository
from lineside_link.client.client import LinkClient
from lineside_link.messages import RepoResponse, encode_framed
from lineside_link.transfer.pull_window import FetchStopped
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import fetch_files
from lineside_runtime.bundle import CHUNK_BYTES, Bundle, FileEntry, verify_file
from lineside_runtime.errors import BundleIntegrityError, DiskFullError, FetchError
from tests.link.repo import TOPICS, RepoPeer, Spoil, noise
from tests.peers import Broker, FaultProxy, SecureMosquitto, find_mosquitto, wait_for
from tests.worlds.bundles import make_opaque_bundle

MakeClient = Callable[..., LinkClient]

FILES = {
    "weights.bin": noise(20 * CHUNK_BYTES + 17),
    "labels.json": b'["scratch"]',
    "golden/empty": b"",
    "golden/exact": noise(2 * CHUNK_BYTES, seed=1),
    "zeros.bin": bytes(3 * CHUNK_BYTES),
}


@pytest.fixture
def bundle(peer: RepoPeer, tmp_path: Path) -> Bundle:
    made = make_opaque_bundle(tmp_path / "bundle", FILES)
    peer.repository.publish(made, "line")
    return made


def assert_whole(bundle: Bundle, folder: Path) -> None:
    for relative, entry in bundle.manifest.files.items():
        verify_file(folder / relative, entry)
    assert not list(folder.rglob("*.part"))


def only_chunks(change: Spoil) -> Spoil:
    """Spoils chunks and leaves small files alone."""
    return lambda head, body: change(head, body) if len(body) > 1000 else (head, body)


def test_metadata_comes_whole_and_in_order(repo: RepoClient, peer: RepoPeer) -> None:
    large = noise(9 * CHUNK_BYTES + 5)
    (peer.repository.folder / "metadata" / "7.large.json").write_bytes(large)
    assert repo.metadata("7.large.json") == large
    assert repo.metadata("timestamp.json").startswith(b"{")


def test_what_the_hub_has_not_is_an_error_with_its_status(repo: RepoClient) -> None:
    with pytest.raises(FetchError) as caught:
        repo.metadata("99.root.json")
    assert (caught.value.code, caught.value.status) == (4004, 404)


def test_a_file_that_claims_to_be_too_large_is_not_fetched(repo: RepoClient, peer: RepoPeer) -> None:
    (peer.repository.folder / "metadata" / "7.large.json").write_bytes(bytes(3 * CHUNK_BYTES))
    with pytest.raises(FetchError, match="at most 100 bytes"):
        repo.metadata("7.large.json", max_bytes=100)


def test_a_bundle_arrives_whole_and_its_progress_is_told(repo: RepoClient, bundle: Bundle, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    report = fetch_files(
        repo, bundle.manifest, tmp_path / "slot", on_progress=lambda done, total: progress.append((done, total))
    )
    assert_whole(bundle, tmp_path / "slot")
    assert report.fetched_bytes + report.reused_bytes == bundle.manifest.size_bytes
    assert report.reused_bytes == 2 * CHUNK_BYTES, "the same chunk of zeros was asked for once"
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert progress[-1] == (bundle.manifest.size_bytes, bundle.manifest.size_bytes)


def test_a_bundle_arrives_through_tls_and_the_access_list(make_client: MakeClient, tmp_path: Path) -> None:
    broker = SecureMosquitto(tmp_path / "broker", program=find_mosquitto())
    broker.start()
    peer = RepoPeer(Repository.create(tmp_path / "hub", groups=("line",)), broker.config())
    try:
        peer.start()
        bundle = make_opaque_bundle(tmp_path / "bundle", FILES)
        peer.repository.publish(bundle, "line")
        client = make_client(broker.config("cam-1"), "cam-1")
        repo = RepoClient(client, TOPICS, "cam-1")
        client.start()
        fetch_files(repo, bundle.manifest, tmp_path / "slot")
        assert_whole(bundle, tmp_path / "slot")
    finally:
        peer.close()
        broker.stop()


def test_many_small_files(repo: RepoClient, peer: RepoPeer, tmp_path: Path) -> None:
    made = make_opaque_bundle(
        tmp_path / "many", {f"part/{number}.bin": noise(50 + number, number) for number in range(300)}
    )
    peer.repository.publish(made, "line")
    fetch_files(repo, made.manifest, tmp_path / "slot")
    assert_whole(made, tmp_path / "slot")


def test_lost_answers_are_asked_for_again(repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path) -> None:
    count = itertools.count()
    peer.spoil = lambda head, body: None if next(count) % 3 == 0 else (head, body)
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert repo.counters["repeated"] >= 5


def test_a_busy_hub_is_waited_for(repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path) -> None:
    count = itertools.count()
    peer.spoil = lambda head, body: (
        (msgspec.structs.replace(head, status=503), b"") if next(count) < 5 else (head, body)
    )
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert repo.counters["busy"] == 5


def test_a_flipped_bit_is_counted_and_the_chunk_asked_for_again(
    repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = itertools.count()

    def flip(head: RepoResponse, body: bytes) -> tuple[RepoResponse, bytes]:
        return (head, bytes([body[0] ^ 1]) + body[1:]) if next(count) in (2, 5) else (head, body)

    peer.spoil = only_chunks(flip)
    report = fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert report.mismatches == 2
    assert repo.counters["mismatches"] == 2
    assert "another hash" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend"])
def test_a_chunk_that_stays_damaged_ends_the_fetch(
    repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path, damage: str
) -> None:
    changed = {
        "flip": lambda head, body: (head, body[:-1] + bytes([body[-1] ^ 0x80])),
        "truncate": lambda head, body: (head, body[:-1]),
        "extend": lambda head, body: (head, body + b"x" if len(body) < CHUNK_BYTES else b"x" + body[1:]),
    }[damage]
    peer.spoil = only_chunks(changed)
    with pytest.raises(BundleIntegrityError) as caught:
        fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert caught.value.code == 3002
    assert not (tmp_path / "slot" / "weights.bin").exists()


def test_a_chunk_that_is_rotten_at_the_hub_is_found_there_when_the_device_complains(
    repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = bundle.manifest.files["weights.bin"].chunks[7]
    path = peer.repository.folder / "chunks" / digest[:2] / digest
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FetchError, match="Publish the bundle") as caught:
        fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert caught.value.status == 404
    assert peer.repository.chunks.rotten == 1
    assert repo.counters["mismatches"] == 1, "it came once"
    assert "is rotten and not served" in caplog.text
    peer.repository.chunks.put(whole)
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")


def test_a_file_of_several_chunks_that_its_own_hash_denies_is_refused_when_it_is_opened(
    repo: RepoClient, bundle: Bundle, tmp_path: Path
) -> None:
    entry = bundle.manifest.files["weights.bin"]
    wrong = FileEntry(size=entry.size, sha256="0" * 64, chunks=entry.chunks)
    manifest = msgspec.structs.replace(bundle.manifest, files={"weights.bin": wrong})
    fetch_files(repo, manifest, tmp_path / "slot")
    with pytest.raises(BundleIntegrityError):
        verify_file(tmp_path / "slot" / "weights.bin", wrong)


def test_a_manifest_whose_chunk_does_not_make_its_file_is_refused(
    repo: RepoClient, bundle: Bundle, tmp_path: Path
) -> None:
    entry = bundle.manifest.files["labels.json"]
    wrong = FileEntry(size=entry.size, sha256="0" * 64, chunks=entry.chunks)
    manifest = msgspec.structs.replace(bundle.manifest, files={"labels.json": wrong})
    with pytest.raises(BundleIntegrityError):
        fetch_files(repo, manifest, tmp_path / "slot")
    assert not [path for path in (tmp_path / "slot").rglob("*") if path.is_file()]


def test_a_chunk_that_the_hub_has_lost_is_an_error_and_the_rest_is_kept(
    repo: RepoClient, peer: RepoPeer, bundle: Bundle, tmp_path: Path
) -> None:
    lost = bundle.manifest.files["weights.bin"].chunks[-1]
    [path] = [path for path in (peer.repository.folder / "chunks").rglob("*") if path.name.startswith(lost[:60])]
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(FetchError) as caught:
        fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert caught.value.status == 404
    path.write_bytes(data)
    report = fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert report.reused_bytes > 10 * CHUNK_BYTES


def test_stopping_keeps_what_is_there(repo: RepoClient, bundle: Bundle, tmp_path: Path) -> None:
    stop = threading.Event()

    def watch(done: int, total: int) -> None:
        if done > total // 2:
            stop.set()

    with pytest.raises(FetchStopped):
        fetch_files(repo, bundle.manifest, tmp_path / "slot", on_progress=watch, should_stop=stop.is_set)
    report = fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert 0 < report.fetched_bytes < bundle.manifest.size_bytes // 2 + 9 * CHUNK_BYTES


def test_damage_on_the_disk_between_two_runs_is_found(repo: RepoClient, bundle: Bundle, tmp_path: Path) -> None:
    slot = tmp_path / "slot"
    fetch_files(repo, bundle.manifest, slot)
    with (slot / "weights.bin").open("r+b") as file:
        file.seek(5 * CHUNK_BYTES + 100)
        file.write(b"rot")
    (slot / "labels.json").write_bytes(b"longer than before, and wrong")
    report = fetch_files(repo, bundle.manifest, slot)
    assert_whole(bundle, slot)
    assert report.fetched_bytes == CHUNK_BYTES + bundle.manifest.files["labels.json"].size


def test_a_fetch_that_is_done_asks_for_nothing(repo: RepoClient, bundle: Bundle, tmp_path: Path) -> None:
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    asked = repo.counters["asked"]
    report = fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert report.fetched_bytes == 0
    assert repo.counters["asked"] == asked


def _fetch_until_killed(url: str, manifest: bytes, folder: str) -> None:
    from lineside_link.config import LinkConfig
    from lineside_runtime.bundle import parse_manifest

    client = LinkClient(LinkConfig(url, "t0"), "cam-1")
    repo = RepoClient(client, TOPICS, "cam-1", window=2)
    client.start()

    def kill_half_way(done: int, total: int) -> None:
        if done > total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    fetch_files(repo, parse_manifest(manifest), Path(folder), on_progress=kill_half_way)


def test_a_killed_fetch_goes_on_where_it_was(
    peer: RepoPeer, bundle: Bundle, mosquitto: Broker, make_client: MakeClient, tmp_path: Path
) -> None:
    slot = tmp_path / "slot"
    process = multiprocessing.get_context("spawn").Process(
        target=_fetch_until_killed, args=(mosquitto.url, (bundle.path / "manifest.json").read_bytes(), str(slot))
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(slot.rglob("*.part")), "killed in the middle of a file"
    client = make_client(mosquitto.config(), "cam-1")
    repo = RepoClient(client, TOPICS, "cam-1")
    client.start()
    report = fetch_files(repo, bundle.manifest, slot)
    assert_whole(bundle, slot)
    assert report.fetched_bytes < bundle.manifest.size_bytes * 0.6


@pytest.fixture
def behind_proxy(
    peer: RepoPeer, mosquitto: Broker, make_client: MakeClient, fault_proxy: Callable[[int], FaultProxy]
) -> tuple[RepoClient, FaultProxy]:
    proxy = fault_proxy(mosquitto.port)
    client = make_client(mosquitto.config(port=proxy.port), "cam-1")
    repo = RepoClient(client, TOPICS, "cam-1", timeout_s=0.5, stall_s=60)
    client.start()
    assert client.wait_connected(60)
    return repo, proxy


def test_a_link_that_is_cut_again_and_again(
    behind_proxy: tuple[RepoClient, FaultProxy], bundle: Bundle, tmp_path: Path
) -> None:
    repo, proxy = behind_proxy
    proxy.cut_every(5 * CHUNK_BYTES)
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert proxy.accepted >= 4
    assert repo.counters["repeated"] >= 1


def test_bits_that_flip_on_the_wire_never_reach_a_file(
    behind_proxy: tuple[RepoClient, FaultProxy], bundle: Bundle, tmp_path: Path
) -> None:
    repo, proxy = behind_proxy
    proxy.flip(6)
    fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert_whole(bundle, tmp_path / "slot")
    assert repo.counters["mismatches"] >= 1


def test_a_broker_that_is_killed_in_between(
    repo: RepoClient, mosquitto: Broker, bundle: Bundle, tmp_path: Path
) -> None:
    killed = threading.Event()

    def kill_once(done: int, total: int) -> None:
        if done > total // 3 and not killed.is_set():
            killed.set()
            mosquitto.restart()

    fetch_files(repo, bundle.manifest, tmp_path / "slot", on_progress=kill_once)
    assert killed.is_set()
    assert_whole(bundle, tmp_path / "slot")


def test_a_hub_that_never_answers_ends_in_an_error(
    peer: RepoPeer, bundle: Bundle, mosquitto: Broker, make_client: MakeClient, tmp_path: Path
) -> None:
    peer.spoil = lambda head, body: None
    client = make_client(mosquitto.config(), "cam-2")
    repo = RepoClient(client, TOPICS, "cam-2", timeout_s=0.2, stall_s=1.0)
    client.start()
    with pytest.raises(FetchError, match="nothing arrived") as caught:
        fetch_files(repo, bundle.manifest, tmp_path / "slot")
    assert caught.value.code == 4004


def test_answers_that_nobody_asked_for_are_dropped(repo: RepoClient, peer: RepoPeer) -> None:
    for request_id in ("", "x", "nonce-1-1", "-"):
        peer.client.publish(
            TOPICS.repo_response("cam-1"), encode_framed(RepoResponse(id=request_id, status=200), b"x"), qos=0
        )
    wait_for(lambda: repo.counters.get("late", 0) == 4)
    assert repo.metadata("timestamp.json").startswith(b"{")


def test_several_threads_share_a_client(repo: RepoClient, bundle: Bundle, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def fetch(number: int) -> None:
        try:
            fetch_files(repo, bundle.manifest, tmp_path / f"slot{number}")
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    for number in range(3):
        assert_whole(bundle, tmp_path / f"slot{number}")


# A full disk.


def test_without_room_nothing_is_asked_for_and_nothing_is_left(
    repo: RepoClient, bundle: Bundle, tmp_path: Path
) -> None:
    huge = FileEntry(size=1 << 60, sha256="0" * 64, chunks=("1" * 64,))
    manifest = msgspec.structs.replace(bundle.manifest, files={**bundle.manifest.files, "huge.bin": huge})
    with pytest.raises(DiskFullError) as caught:
        fetch_files(repo, manifest, tmp_path / "slot")
    assert caught.value.code == 4002
    assert repo.counters.get("asked", 0) == 0
    assert not [path for path in (tmp_path / "slot").rglob("*") if path.is_file()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"a small disk needs the right to mount a tmpfs: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_room_is_taken_from_the_start_so_that_others_cannot_fill_it(
    repo: RepoClient, bundle: Bundle, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=4m")

    def fill(_done: int, _total: int) -> None:
        with (disk / "filler").open("ab", buffering=0) as file, pytest.raises(OSError, match="No space") as caught:
            while True:
                file.write(bytes(4096))
        assert caught.value.errno == errno.ENOSPC

    fetch_files(repo, bundle.manifest, disk / "slot", on_progress=fill)
    assert_whole(bundle, disk / "slot")


def test_a_disk_without_inodes_is_a_full_disk_and_is_left_clean(
    repo: RepoClient, bundle: Bundle, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=8m,nr_inodes=5")
    with pytest.raises(DiskFullError):
        fetch_files(repo, bundle.manifest, disk / "slot")
    assert not list(disk.rglob("*.part"))


def test_the_device_side_imports_no_host_package() -> None:
    code = (
        "import lineside_link.trust, lineside_link.transfer.repository_client, sys;"
        "print([name for name in ('torch', 'ray', 'onnx', 'amqtt', 'rich', 'jinja2') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_changed_file_under_way_is_noticed(repo: RepoClient, peer: RepoPeer) -> None:
    path = peer.repository.folder / "metadata" / "7.large.json"
    path.write_bytes(noise(3 * CHUNK_BYTES))
    pieces = repo.stream("metadata", "7.large.json", max_bytes=1 << 20)
    next(pieces)
    path.write_bytes(noise(3 * CHUNK_BYTES + 1, seed=2))
    with pytest.raises(FetchError, match="changed while it was read"):
        list(pieces)
