from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lineside_hub.repository.chunks import ChunkStore
from lineside_runtime.bundle import CHUNK_BYTES
from lineside_runtime.errors import BundleIntegrityError


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    (tmp_path / "chunks").mkdir()
    return ChunkStore(tmp_path / "chunks")


def test_a_chunk_comes_back_under_its_own_hash(store: ChunkStore, tmp_path: Path) -> None:
    digest = store.put(b"abc")
    assert digest == hashlib.sha256(b"abc").hexdigest()
    assert store.get(digest) == b"abc"
    assert (tmp_path / "chunks" / digest[:2] / digest).read_bytes() == b"abc"


def test_an_unknown_chunk_is_absent(store: ChunkStore) -> None:
    assert store.get("0" * 64) is None
    assert store.rotten == 0


@pytest.mark.parametrize("damage", [b"", b"abd", b"abc" * 100_000])
def test_a_rotten_chunk_is_not_served_and_healed_by_the_next_put(
    store: ChunkStore, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    digest = store.put(b"abc")
    (tmp_path / "chunks" / digest[:2] / digest).write_bytes(damage)
    assert store.get(digest) is None
    assert store.rotten == 1
    assert "rotten" in caplog.text
    store.put(b"abc")
    assert store.get(digest) == b"abc"


def test_a_chunk_has_a_largest_size(store: ChunkStore) -> None:
    assert store.get(store.put(b"x" * CHUNK_BYTES)) == b"x" * CHUNK_BYTES
    with pytest.raises(BundleIntegrityError, match="too large"):
        store.put(b"x" * (CHUNK_BYTES + 1))


def test_who_compares_the_hash_himself_gets_a_chunk_as_it_stands(store: ChunkStore, tmp_path: Path) -> None:
    digest = store.put(b"abc")
    assert store.get_unchecked(digest) == b"abc"
    assert store.get_unchecked("0" * 64) is None
    path = tmp_path / "chunks" / digest[:2] / digest
    path.write_bytes(b"abd")
    assert store.get_unchecked(digest) == b"abd"
    path.write_bytes(b"x" * (CHUNK_BYTES + 1))
    assert store.get_unchecked(digest) is None, "nothing larger than a chunk is sent"
    assert store.rotten == 1
