"""Kept images make room by bytes and age: what the hub has first, and what goes unsent is counted."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.images import Archive
from lineside_agent.retention import Retention
from lineside_agent.store import NAME, Store
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame

DAY_NS = 86_400 * 1_000_000_000


class Kept:
    """A store with images, and what takes them away."""

    def __init__(self, folder: Path) -> None:
        self.archive = Archive(folder, "all")
        self.store = Store(folder, archive=self.archive)
        self.settings = StoreConfig(keep_images="all")
        self.retention = Retention(
            self.store, self.archive.folder, settings=lambda: self.settings, stop=threading.Event()
        )

    def keep(self, *sequences: int) -> None:
        for sequence in sequences:
            image = np.random.default_rng(sequence).integers(0, 255, (32, 32), np.uint8)
            row = ResultRow(seq=0, part_id=str(sequence), source="cam", sequence=sequence, verdict="pass")
            self.store.record(row, Frame(image=image, source="cam", sequence=sequence))
        assert self.store.flush(20.0)

    def files(self) -> list[int]:
        return sorted(int(path.stem) for path in self.archive.folder.rglob("*.png"))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.store.close()


def test_a_record_and_its_image_are_known_together(kept: Kept) -> None:
    kept.keep(0, 1, 2)
    images = kept.store.images
    assert (images.kept, images.unsent) == (3, 3)
    assert images.size == sum(path.stat().st_size for path in kept.archive.folder.rglob("*.png"))
    assert kept.store.first_unsent_image() is None, "the hub has no record yet"
    kept.store.acknowledge(kept.store.epoch, 2)
    kept.keep(3)
    first = kept.store.first_unsent_image()
    assert first is not None
    assert (first.seq, (kept.archive.folder / first.path).stat().st_size) == (1, first.size)
    assert kept.store.note_images(kept.store.epoch, sent=[1])
    second = kept.store.first_unsent_image()
    assert second is not None
    assert second.seq == 2
    assert kept.store.note_images(kept.store.epoch, sent=[2, 2])
    assert kept.store.first_unsent_image() is None, "its record is not at the hub"
    assert kept.store.images.unsent == 2
    assert kept.store.note_images("another epoch", sent=[3])
    assert kept.store.images.unsent == 2


def test_counts_are_those_of_the_file_after_a_restart(kept: Kept, tmp_path: Path) -> None:
    kept.keep(0, 1, 2)
    kept.store.note_images(kept.store.epoch, sent=[1], removed=[2])
    before = kept.store.images
    kept.store.close()
    again = Store(tmp_path)
    assert again.images == before
    assert (before.kept, before.unsent) == (2, 1)
    again.close()


def test_too_many_bytes_take_what_the_hub_has_first(kept: Kept) -> None:
    kept.keep(*range(20))
    size = kept.store.images.size // 20
    kept.store.note_images(kept.store.epoch, sent=[10, 11, 12])
    kept.settings = msgspec.structs.replace(kept.settings, images_max_bytes=18 * size)
    kept.retention.sweep(time.time_ns())
    assert kept.store.images.size <= 18 * size
    assert not {9, 10, 11} & set(kept.files()), "sequence is seq - 1"
    assert (kept.retention.dropped, kept.retention.unsent) == (3, 0)
    kept.settings = msgspec.structs.replace(kept.settings, images_max_bytes=5 * size)
    kept.retention.sweep(time.time_ns())
    assert kept.files() == [16, 17, 18, 19] or kept.files() == [15, 16, 17, 18, 19]
    assert kept.retention.unsent == kept.retention.dropped - 3
    assert kept.store.images.kept == len(kept.files())
    assert len(kept.store.rows(0, 100)) == 20, "records stay"


def test_old_images_go_and_those_of_a_clock_that_was_not_set_do_not(kept: Kept, tmp_path: Path) -> None:
    kept.keep(0, 1, 2)
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute("UPDATE images SET at_ns = ? WHERE seq = 1", (1_000_000_000,))  # 1970
        connection.execute("UPDATE images SET at_ns = ? WHERE seq = 2", (time.time_ns() - 40 * DAY_NS,))
        connection.commit()
    kept.retention.sweep(time.time_ns())
    assert kept.files() == [0, 2]
    assert kept.store.images.kept == 2


def test_a_file_that_is_gone_is_no_trouble(kept: Kept) -> None:
    kept.keep(0, 1, 2, 3)
    for path in kept.archive.folder.rglob("0000000[01].png"):
        path.unlink()
    kept.settings = msgspec.structs.replace(kept.settings, images_max_bytes=1)
    kept.retention.sweep(time.time_ns())
    assert kept.files() == []
    assert kept.store.images == (0, 0, 0)


def test_files_that_no_record_knows_go_by_age(kept: Kept) -> None:
    kept.keep(0)
    (kept.archive.folder / "old").mkdir()
    for name, days in (("stale", 40), ("fresh", 1)):
        path = kept.archive.folder / "old" / f"{name}.png"
        path.write_bytes(b"of an earlier agent")
        at_ns = time.time_ns() - days * DAY_NS
        os.utime(path, ns=(at_ns, at_ns))
    kept.retention._remove_strays(time.time_ns())
    assert {path.name for path in kept.archive.folder.rglob("*.png")} == {"00000000.png", "fresh.png"}


def test_a_database_of_an_earlier_agent_gets_its_table(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.record(ResultRow(seq=0, part_id="a", source="cam", sequence=0, verdict="pass"))
    first.close()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute("DROP TABLE images")
        connection.commit()
    kept = Kept(tmp_path)
    kept.keep(1)
    assert [row.seq for row in kept.store.rows(0, 10)] == [1, 2]
    assert kept.store.images.kept == 1
    kept.store.close()


def test_images_leave_room_for_the_records(kept: Kept) -> None:
    kept.archive.use(StoreConfig(keep_images="all", keep_free_bytes=1 << 60))
    kept.keep(0, 1)
    assert (kept.store.last_seq, kept.store.counts.images_lost, kept.files()) == (2, 2, [])
    kept.archive.use(StoreConfig(keep_images="all", keep_free_bytes=0))
    kept.keep(2)
    assert kept.files() == [2]
