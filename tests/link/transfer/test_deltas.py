"""Patches: what goes in comes out, others' programs agree, and nothing in a patch is believed."""

from __future__ import annotations

import bz2
import random
import struct
import subprocess
from pathlib import Path

import bsdiff4
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_link.messages import Patch, PatchFormat
from lineside_link.transfer import deltas
from lineside_runtime.errors import DeltaError
from tests.link.repo import noise
from tests.peers.programs import find_program

FORMATS: tuple[PatchFormat, ...] = ("zstd", "bsdiff4")
OLD = noise(200_000)


def changed(seed: int = 1) -> bytes:
    """``OLD`` with a part moved, some bytes changed and some new."""
    data = bytearray(OLD[50_000:] + OLD[:40_000] + noise(3_000, seed=9))
    draw = random.Random(seed)
    for _ in range(200):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "old"
    path.write_bytes(OLD)
    return path


def applied(kind: PatchFormat, base: Path | None, patch: bytes, size: int) -> bytes:
    return b"".join(deltas.apply(kind, base, patch, size))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_patch_makes_the_new_file_and_is_small(kind: PatchFormat, base: Path) -> None:
    new = changed()
    patch = deltas.make(kind, OLD, new)
    assert len(patch) < len(new) // 10
    assert applied(kind, base, patch, len(new)) == new


def test_a_file_without_a_base_is_compressed_as_a_whole() -> None:
    new = bytes(300_000) + noise(1000)
    patch = deltas.make("zstd", b"", new)
    assert len(patch) < 2000
    assert applied("zstd", None, patch, len(new)) == new


@settings(max_examples=60, deadline=None)
@given(old=st.binary(max_size=300), new=st.binary(max_size=300), kind=st.sampled_from(FORMATS))
def test_any_two_files(tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, kind: PatchFormat) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(old)
    assert applied(kind, path, deltas.make(kind, old, new), len(new)) == new


@pytest.mark.peer
def test_others_programs_read_our_patches(base: Path, tmp_path: Path) -> None:
    zstd, bspatch = find_program("zstd", "zstd"), find_program("bspatch", "bsdiff")
    new, patch, out = changed(), tmp_path / "patch", tmp_path / "out"
    patch.write_bytes(deltas.make("zstd", OLD, new))
    subprocess.run([zstd, "-q", "-d", f"--patch-from={base}", str(patch), "-o", str(out)], check=True)
    assert out.read_bytes() == new
    patch.write_bytes(deltas.make("bsdiff4", OLD, new))
    subprocess.run([bspatch, str(base), str(out), str(patch)], check=True)
    assert out.read_bytes() == new


@pytest.mark.peer
def test_we_read_others_programs_patches(base: Path, tmp_path: Path) -> None:
    zstd, bsdiff = find_program("zstd", "zstd"), find_program("bsdiff", "bsdiff")
    new, target, patch = changed(), tmp_path / "new", tmp_path / "patch"
    target.write_bytes(new)
    subprocess.run([zstd, "-q", "-19", f"--patch-from={base}", str(target), "-o", str(patch)], check=True)
    assert applied("zstd", base, patch.read_bytes(), len(new)) == new
    subprocess.run([bsdiff, str(base), str(target), str(patch)], check=True)
    assert applied("bsdiff4", base, patch.read_bytes(), len(new)) == new


# What somebody in the hub's place could send.


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bomb_is_stopped_at_the_size_that_was_signed(kind: PatchFormat, base: Path) -> None:
    bomb = deltas.make(kind, OLD, bytes(4 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(DeltaError) as caught:
        applied(kind, base, bomb, 100_000)
    assert caught.value.code == 4010


@pytest.mark.parametrize("kind", FORMATS)
def test_a_patch_that_makes_too_little_is_refused(kind: PatchFormat, base: Path) -> None:
    with pytest.raises(DeltaError):
        applied(kind, base, deltas.make(kind, OLD, b"short"), 100_000)


def _bsdiff(control: bytes, diff: bytes, extra: bytes, size: int, *, lie: int = 0) -> bytes:
    blocks = [bz2.compress(part) for part in (control, diff, extra)]
    head = b"BSDIFF40" + struct.pack("<qqq", len(blocks[0]) + lie, len(blocks[1]), size)
    return head + b"".join(blocks)


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"BSDIFF40",
        b"not a patch at all, but long enough to have a header",
        _bsdiff(b"", bytes(10), b"", 10, lie=1 << 40),
        _bsdiff(b"", bytes(10), b"", 10, lie=-(1 << 40)),
        _bsdiff(b"x", bytes(10), b"", 10),
        _bsdiff(struct.pack("<qqq", 1 << 40, 0, 0), bytes(10), b"", 10),
        _bsdiff(struct.pack("<qqq", 10, 1 << 40, 0), bytes(10), b"", 10),
        _bsdiff(struct.pack("<qqq", 0, 0, 1 << 40) * 2, bytes(10), b"", 10),
        _bsdiff(b"", bytes(4), b"", 10),
        _bsdiff(bytes(24 * 100_000), bytes(10), b"", 10),
    ],
)
def test_a_forged_bsdiff_patch_is_refused(base: Path, patch: bytes) -> None:
    with pytest.raises(DeltaError):
        applied("bsdiff4", base, patch, 10)


WHOLE = OLD[1000:5000] + noise(50, seed=3)
PATCHES = {kind: deltas.make(kind, OLD[:5000], WHOLE) for kind in FORMATS}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_patch_is_one_error_or_other_bytes_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, kind: PatchFormat, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "old"
    path.write_bytes(OLD[:5000])
    patch = bytearray(PATCHES[kind])
    for place, value in changes:
        patch[place % len(patch)] = value
    try:
        assert len(applied(kind, path, bytes(patch), len(WHOLE))) == len(WHOLE)
    except DeltaError as error:
        assert error.code == 4010


@settings(max_examples=200, deadline=None)
@given(
    triples=st.lists(st.tuples(*[st.integers(-(1 << 63) + 1, (1 << 63) - 1) | st.integers(-20, 20)] * 3), max_size=4),
    diff=st.integers(0, 40),
)
def test_any_control_block_is_survived(
    tmp_path_factory: pytest.TempPathFactory, triples: list[tuple[int, int, int]], diff: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "old"
    path.write_bytes(OLD[:30])
    control = b"".join(bsdiff4.core.encode_int64(number) for triple in triples for number in triple)
    try:
        assert len(applied("bsdiff4", path, _bsdiff(control, bytes(diff), bytes(40 - diff), 40), 40)) == 40
    except DeltaError as error:
        assert error.code == 4010


@pytest.mark.parametrize(
    ("kind", "patch_bytes", "new_bytes", "base_bytes", "fits"),
    [
        ("zstd", 10, 1000, 1000, True),
        ("zstd", 1000, 1000, 1000, False),
        ("zstd", 0, 1000, 1000, False),
        ("zstd", 10, deltas.ZSTD_MAX_BYTES + 1, 1000, False),
        ("zstd", 10, 1000, deltas.ZSTD_MAX_BYTES + 1, False),
        ("bsdiff4", 10, deltas.BSDIFF_MAX_BYTES, 1000, True),
        ("bsdiff4", 10, deltas.BSDIFF_MAX_BYTES + 1, 1000, False),
    ],
)
def test_bounds_are_looked_at_first(
    kind: PatchFormat, patch_bytes: int, new_bytes: int, base_bytes: int, fits: bool
) -> None:
    patch = Patch(file="0" * 64, base="1" * 64, format=kind, size=patch_bytes, sha256="2" * 64, chunks=())
    assert deltas.fits(patch, new_bytes, base_bytes) is fits
