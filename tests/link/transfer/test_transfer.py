"""A bundle that comes by patches over a real broker, and whole where a patch won't do."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_hub.repository.deltas import DeltaMaker, list_path
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import Deltas, decode, encode
from lineside_link.transfer.repository_client import RepoClient
from lineside_link.transfer.transfer import ChunkSource, fetch_files
from lineside_runtime.bundle import CHUNK_BYTES, Bundle, open_bundle, parse_manifest, verify_file
from tests.link.repo import TOPICS, RepoPeer, noise
from tests.peers import Broker, wait_for
from tests.worlds.bundles import make_opaque_bundle

MakeClient = Callable[..., LinkClient]

WEIGHTS = noise(12 * CHUNK_BYTES + 17)
OLD_FILES = {"weights.bin": WEIGHTS, "labels.json": b'["scratch"]', "same.bin": noise(3 * CHUNK_BYTES, seed=2)}


def touched(data: bytes, share: float = 0.001) -> bytes:
    """Some of all of it moved a little."""
    moved = bytearray(data)
    for place in (*random.Random(4).sample(range(len(data)), int(share * len(data))), -1):
        moved[place] ^= 1
    return bytes(moved)


NEW_FILES = {**OLD_FILES, "weights.bin": touched(WEIGHTS), "labels.json": b'["scratch", "dent"]'}


@pytest.fixture
def maker(peer: RepoPeer) -> Iterator[DeltaMaker]:
    running = DeltaMaker(peer.repository.folder)
    running.start()
    peer.offer_deltas(running)
    yield running
    running.close()


@pytest.fixture
def old(peer: RepoPeer, tmp_path: Path) -> Bundle:
    made = make_opaque_bundle(tmp_path / "old", OLD_FILES)
    peer.repository.publish(made, "line")
    return made


@pytest.fixture
def new(peer: RepoPeer, tmp_path: Path) -> Bundle:
    made = make_opaque_bundle(tmp_path / "new", NEW_FILES, version="2.0.0")
    peer.repository.publish(made, "line")
    return made


def source(new: Bundle, old: Bundle | None) -> ChunkSource:
    return ChunkSource(f"line/{new.manifest.name}-{new.manifest.version}.json", new.digest, old)


def made_patches(maker: DeltaMaker, new: Bundle, old: Bundle) -> Deltas:
    """Waits until the hub has them."""
    wait_for(lambda: maker.get(new.digest, old.digest)[0] == 200, 60, what="patches")
    return decode(maker.get(new.digest, old.digest)[1], Deltas)


def assert_whole(bundle: Bundle, folder: Path) -> None:
    for relative, entry in bundle.manifest.files.items():
        verify_file(folder / relative, entry)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == set(bundle.manifest.files), "nothing else is left"


def test_a_new_version_comes_as_a_patch(
    repo: RepoClient, maker: DeltaMaker, old: Bundle, new: Bundle, tmp_path: Path
) -> None:
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 1
    assert report.fallbacks == ()
    assert report.fetched_bytes < len(WEIGHTS) // 20
    wait_for(lambda: maker.made == 1)


def test_without_a_base_it_comes_whole(repo: RepoClient, maker: DeltaMaker, new: Bundle, tmp_path: Path) -> None:
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, None))
    assert_whole(new, tmp_path / "slot")
    assert report.fetched_bytes == new.manifest.size_bytes
    assert report.patched == 0


def test_a_base_that_the_hub_never_published_still_gives_its_equal_chunks(
    repo: RepoClient, maker: DeltaMaker, new: Bundle, tmp_path: Path
) -> None:
    stranger = make_opaque_bundle(tmp_path / "stranger", OLD_FILES, version="0.9.0")
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, stranger))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0
    assert report.fetched_bytes == len(NEW_FILES["weights.bin"]) + len(NEW_FILES["labels.json"])


def test_a_base_that_has_rotted_is_noticed_and_the_file_comes_whole(
    repo: RepoClient,
    maker: DeltaMaker,
    old: Bundle,
    new: Bundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rotten = bytearray(WEIGHTS)
    rotten[5 * CHUNK_BYTES] ^= 1
    (old.path / "weights.bin").write_bytes(rotten)
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0
    (fallback,) = report.fallbacks
    assert fallback.startswith("weights.bin: ")
    assert "comes whole instead of by a patch" in caplog.text


def test_a_patch_that_lies_costs_a_detour_and_nothing_else(
    repo: RepoClient, peer: RepoPeer, maker: DeltaMaker, old: Bundle, new: Bundle, tmp_path: Path
) -> None:
    (patch,) = made_patches(maker, new, old).patches
    body = b"BSDIFF40 and not more"
    digest = peer.repository.chunks.put(body)
    lies: dict[str, dict[str, Any]] = {
        "truncated": {"size": len(body), "sha256": digest, "chunks": (digest,)},
        "of another file": {"format": "bsdiff4" if patch.format == "zstd" else "zstd"},
        "huge": {"size": 1 << 40},
        "of no known base": {"base": "3" * 64},
    }
    repo.metadata("timestamp.json")
    for what, lie in lies.items():
        told = Deltas(patches=(msgspec.structs.replace(patch, **lie),))
        list_path(peer.repository.folder, new.digest, old.digest).write_bytes(encode(told))
        report = fetch_files(repo, new.manifest, tmp_path / what, source=source(new, old))
        assert_whole(new, tmp_path / what)
        assert report.patched == 0, what
        assert len(report.fallbacks) == (what in ("truncated", "of another file")), what


def test_a_hub_that_knows_no_patches_is_not_asked_for_them(
    repo: RepoClient, old: Bundle, new: Bundle, tmp_path: Path
) -> None:
    repo.metadata("timestamp.json")
    assert repo.knows == {"batches", "pieces"}
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0


def test_who_will_not_wait_gets_whole_files(
    peer: RepoPeer, mosquitto: Broker, make_client: MakeClient, old: Bundle, new: Bundle, tmp_path: Path
) -> None:
    stopped = DeltaMaker(peer.repository.folder)  # its thread is not started: nothing is ever made
    peer.offer_deltas(stopped)
    client = make_client(mosquitto.config(), "cam-3")
    repo = RepoClient(client, TOPICS, "cam-3", delta_wait_s=0.6)
    client.start()
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0
    assert stopped.get(new.digest, old.digest)[0] == 202


def _patch_until_killed(url: str, new_path: str, old_path: str, folder: str, when: str) -> None:
    from lineside_link.transfer import assembly, deltas

    client = LinkClient(LinkConfig(url, "t0"), "cam-1")
    repo = RepoClient(client, TOPICS, "cam-1", window=1)
    client.start()
    repo.metadata("timestamp.json")
    new = open_bundle(new_path)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if when == "patch":  # its first chunk is on the disk
        put = assembly.Assembly.put

        def put_and_die(self: assembly.Assembly, digest: str, body: bytes | memoryview) -> bool:
            put(self, digest, body)
            die()
            return True

        assembly.Assembly.put = put_and_die  # type: ignore[method-assign]  # in a child that is killed
    else:  # half of the new file is written
        apply = deltas.apply

        def half(*arguments: object) -> Iterator[bytes]:
            whole = b"".join(apply(*arguments))  # type: ignore[arg-type]  # in a child that is killed
            yield whole[: len(whole) // 2]
            die()

        deltas.apply = half  # type: ignore[assignment]  # in a child that is killed
    fetch_files(repo, new.manifest, Path(folder), source=source(new, open_bundle(old_path)))


@pytest.mark.parametrize("when", ["patch", "apply"])
def test_a_device_killed_amid_a_patch_goes_on(
    repo: RepoClient,
    maker: DeltaMaker,
    mosquitto: Broker,
    peer: RepoPeer,
    old: Bundle,
    tmp_path: Path,
    when: str,
) -> None:
    large = {**NEW_FILES, "weights.bin": touched(WEIGHTS, 0.2)}  # its patch has several chunks
    new = make_opaque_bundle(tmp_path / "new3", large, version="3.0.0")
    peer.repository.publish(new, "line")
    (patch,) = made_patches(maker, new, old).patches
    assert len(patch.chunks) > 1
    slot = tmp_path / "slot"
    process = multiprocessing.get_context("spawn").Process(
        target=_patch_until_killed, args=(mosquitto.url, str(new.path), str(old.path), str(slot), when)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(slot.rglob(".*.part")), "killed in between"
    repo.metadata("timestamp.json")
    report = fetch_files(repo, parse_manifest((new.path / "manifest.json").read_bytes()), slot, source=source(new, old))
    assert_whole(new, slot)
    assert report.patched == 1
    assert report.fetched_bytes < patch.size, "what was there was not fetched again"


def test_a_hub_that_ends_while_it_makes_patches_makes_them_after_its_next_start(
    peer: RepoPeer, old: Bundle, new: Bundle
) -> None:
    first = DeltaMaker(peer.repository.folder)
    first.start()
    assert first.get(new.digest, old.digest)[0] == 202
    first.close()
    assert not first.failed
    second = DeltaMaker(peer.repository.folder)
    second.start()
    assert made_patches(second, new, old).patches
    second.close()


def test_a_patch_that_cannot_be_made_is_said_once_and_whole_files_come(
    repo: RepoClient, peer: RepoPeer, maker: DeltaMaker, old: Bundle, new: Bundle, tmp_path: Path
) -> None:
    for digest in old.manifest.files["weights.bin"].chunks[:1]:
        next((peer.repository.folder / "chunks").rglob(digest)).unlink()
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0
    assert maker.failed == {(new.digest, old.digest)}


def test_without_room_for_the_patch_the_file_comes_whole(
    repo: RepoClient,
    maker: DeltaMaker,
    old: Bundle,
    new: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The files' own room is taken first, so the patch is the first that doesn't fit."""
    import shutil

    made_patches(maker, new, old)
    usage = shutil.disk_usage(tmp_path)
    answers = iter([usage])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: next(answers, usage._replace(free=1000)))
    repo.metadata("timestamp.json")
    report = fetch_files(repo, new.manifest, tmp_path / "slot", source=source(new, old))
    assert_whole(new, tmp_path / "slot")
    assert report.patched == 0
    assert "no room" in report.fallbacks[0]
