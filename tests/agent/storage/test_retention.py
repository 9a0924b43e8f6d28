"""A disk that really fills up, and the limits that prevent it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files import database
from lineside_agent.storage.record_files.database import DAMAGED_MAX
from lineside_agent.storage.records import NAME, RecordStore
from lineside_link.age_limit import LEAST
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import DiskFullError
from tests.peers.small_disk import SmallDisk
from tests.peers.waiting import wait_for

NOISE = np.random.default_rng(1).integers(0, 255, (400, 400, 3), np.uint8)
RULES = StoreConfig(free_min_bytes=0, commit_every_s=0.0)


def row(sequence: int, *, source: str = "cam", captured_at_ns: int = 0) -> ResultRow:
    return ResultRow(
        seq=0, part_id=f"p{sequence}", source=source, sequence=sequence, verdict="pass", captured_at_ns=captured_at_ns
    )


def fill(store: RecordStore, *sequences: int, source: str = "cam", captured_at_ns: int = 0) -> None:
    for sequence in sequences:
        assert store.record(row(sequence, source=source, captured_at_ns=captured_at_ns))
    assert store.flush(60.0)


def tidied(store: RecordStore, removed: int) -> None:
    store.retention.request()
    wait_for(lambda: store.retention.removed >= removed and not store.retention.is_requested)


def test_images_make_way_for_verdicts_on_a_full_disk(disk: SmallDisk) -> None:
    archive = ImageArchive(disk.path, StoreConfig(keep_images="all", free_min_bytes=0))
    store = RecordStore(disk.path, archive=archive, rules=RULES)
    for sequence in range(10):
        store.record(row(sequence), Frame(NOISE, source="cam", sequence=sequence))
    assert store.flush(60.0)
    assert archive.counts.kept == 10
    disk.fill()
    fill(store, *range(10, 2000))
    assert (store.last_seq, store.counts.lost) == (2000, 0)
    assert archive.counts.removed == 10
    store.close()


def test_without_images_the_oldest_records_make_way_and_none_is_lost(disk: SmallDisk) -> None:
    store = RecordStore(disk.path, rules=RULES)
    fill(store, *range(4000))
    tidied(store, 0)
    wait_for(lambda: (disk.path / "ballast").exists())
    disk.fill()
    for start in range(4000, 10_000, 500):
        fill(store, *range(start, start + 500))
    disk.fill()  # what the ballast gave is somebody else's now
    for start in range(10_000, 30_000, 500):
        fill(store, *range(start, start + 500))
    assert (store.last_seq, store.counts.lost) == (30_000, 0)
    assert store.retention.removed > 10_000
    assert store.rows(29_998, 10)[-1].sequence == 29_999
    disk.empty()
    store.retention.request()
    wait_for(lambda: (disk.path / "ballast").exists())
    store.close()


def test_records_that_the_hub_has_not_are_never_deleted(disk: SmallDisk) -> None:
    store = RecordStore(disk.path, rules=RULES, confirmed_only=True)
    fill(store, *range(500))
    disk.fill()
    store.record(row(500))
    wait_for(lambda: isinstance(store.problem, DiskFullError) or store.last_seq == 501)
    for sequence in range(501, 30_000):
        if store.problem is not None and not store.record(row(sequence), wait=False):
            break
        store.record(row(sequence), wait=False)
    assert store.retention.removed == 0
    disk.empty()
    assert store.flush(60.0)
    assert len(store.rows(0, 100_000)) == store.last_seq
    store.close()


@pytest.mark.parametrize("before", ["closed", "killed"])
def test_agent_that_starts_on_a_full_disk_goes_on_where_it_was(disk: SmallDisk, before: str, tmp_path: Path) -> None:
    first = RecordStore(disk.path, rules=RULES, confirmed_only=True)
    fill(first, *range(20))
    epoch = first.epoch
    if before == "killed":  # its write-ahead log is still there
        left = {path.name: path.read_bytes() for path in disk.path.iterdir() if path.name.startswith(NAME)}
    first.close()
    if before == "killed":
        for name, data in left.items():
            (disk.path / name).write_bytes(data)
        (disk.path / f"{NAME}-shm").unlink(missing_ok=True)
    (disk.path / "ballast").unlink(missing_ok=True)
    disk.fill()
    second = RecordStore(disk.path, rules=RULES, confirmed_only=True)
    assert (second.epoch, second.next_sequence("cam"), second.last_seq) == (epoch, 20, 20)
    for sequence in range(20, 30):
        assert second.record(row(sequence), wait=False)
    disk.empty()
    assert second.flush(60.0)
    assert [found.sequence for found in second.rows(0, 100)] == list(range(30))
    assert second.counts.lost == 0
    second.close()


def test_first_start_of_all_may_be_on_a_full_disk(disk: SmallDisk) -> None:
    disk.fill()
    store = RecordStore(disk.path, rules=RULES)
    assert isinstance(store.problem, DiskFullError)
    epoch = store.epoch
    assert store.record(row(0), wait=False)
    disk.empty()
    assert store.flush(60.0)
    assert (store.epoch, store.next_sequence("cam")) == (epoch, 1) and not store.problem
    store.close()
    assert RecordStore(disk.path, rules=RULES).epoch == epoch


# -- bounds --------------------------------------------------------------------------------------------------------


def test_oldest_records_go_beyond_the_bound_in_bytes_and_numbers_go_on(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=RULES)
    fill(store, 0, source="rare")
    fill(store, *range(6000))
    store.use(StoreConfig(records_max_bytes=400_000))
    store.retention.request()
    wait_for(lambda: store.retention.used_bytes is not None and store.retention.used_bytes <= 400_000)
    rows = store.rows(0, 10_000)
    assert rows[0].source == "rare"  # the newest of its source stays, so that its numbers go on
    assert rows[-1].seq == 6001
    store.close()
    again = RecordStore(tmp_path, rules=RULES)
    assert (again.next_sequence("rare"), again.next_sequence("cam"), again.last_seq) == (1, 6000, 6001)
    again.close()


def test_old_records_go_beyond_the_bound_in_days(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(records_max_days=1.0, commit_every_s=0.0))
    fill(store, *range(LEAST), captured_at_ns=time.time_ns() - int(2 * 86400e9))
    fill(store, *range(LEAST, 80), captured_at_ns=time.time_ns())
    tidied(store, LEAST)
    assert [found.sequence for found in store.rows(0, 100)] == list(range(LEAST, 80))
    store.close()


def test_a_clock_that_is_ahead_deletes_few_records_a_sweep(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(records_max_days=1.0, commit_every_s=0.0))
    fill(store, 0, source="rare")
    fill(store, *range(10 * LEAST))
    for sweep in (1, 2):
        tidied(store, sweep * LEAST)
        assert store.retention.removed == sweep * LEAST
    assert [(found.source, found.sequence) for found in store.rows(0, 2)] == [("rare", 0), ("cam", 2 * LEAST)]
    store.close()


def test_with_a_hub_only_what_it_has_confirmed_goes(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(records_max_bytes=1, commit_every_s=0.0), confirmed_only=True)
    fill(store, *range(100))
    store.acknowledge(store.epoch, 40)
    wait_for(lambda: store.watermark == 40)
    tidied(store, 40)
    assert [found.seq for found in store.rows(0, 1000)] == list(range(41, 101))
    store.close()


def test_records_are_committed_together_within_their_time(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=60.0))
    for sequence in range(30):
        store.record(row(sequence))
    assert store.last_seq == 0
    assert store.flush(60.0)  # and at once for who asks
    assert store.last_seq == 30
    assert store.wait_change(0, 1.0) == 1
    store.close()


def test_close_writes_what_waits_for_its_time(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=60.0))
    store.record(row(0))
    store.close(30.0)
    assert store.last_seq == 1


def test_large_damaged_database_is_found_beside_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RecordStore(tmp_path, rules=RULES)
    fill(first, *range(3000))
    first.close()
    data = bytearray((tmp_path / NAME).read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 16384] = b"\xff" * 16384
    (tmp_path / NAME).write_bytes(data)
    monkeypatch.setattr(database, "CHECKED_AT_START_BYTES", 0)
    store = RecordStore(tmp_path, rules=RULES)
    wait_for(lambda: store.counts.set_aside == 1)
    fill(store, 3000)
    assert store.next_sequence("cam") == 3001
    store.close()


def test_damaged_databases_do_not_fill_the_disk(tmp_path: Path) -> None:
    for number in range(DAMAGED_MAX + 2):
        (tmp_path / NAME).write_bytes(b"no database at all" * 100 + bytes([number]))
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
        store = RecordStore(tmp_path, rules=RULES)
        assert store.counts.set_aside == 1
        store.close()
    aside = [path for path in tmp_path.glob(f"{NAME}.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
    assert len(aside) == DAMAGED_MAX


def test_live_images_beyond_what_may_wait_are_skipped_and_their_records_stay(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="all", free_min_bytes=0))
    store = RecordStore(tmp_path, archive=archive, rules=RULES)
    holder = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")  # the writer waits
    store.record(row(0))
    wait_for(lambda: store.problem is not None)
    for sequence in range(1, 40):
        assert store.record(row(sequence), Frame(NOISE[:8, :8], source="cam", sequence=sequence), wait=False)
    holder.execute("ROLLBACK")
    with contextlib.closing(holder):
        assert store.flush(60.0)
    assert store.last_seq == 40
    assert archive.counts.kept + archive.counts.skipped == 39
    assert archive.counts.skipped > 0
    store.close()
