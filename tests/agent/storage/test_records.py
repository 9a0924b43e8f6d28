"""The records, with real SQLite files, a really full disk, and a real kill."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.line_io.events import Verdict
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files.commit_queue import WAITING_MAX
from lineside_agent.storage.records import NAME, RecordStore
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import DatabaseError, DiskFullError
from tests.peers.waiting import wait_for

Open = Callable[..., RecordStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    opened: list[RecordStore] = []

    def make(**arguments: Any) -> RecordStore:
        opened.append(RecordStore(tmp_path, **arguments))
        return opened[-1]

    yield make
    for store in opened:
        store.close(0.5)


def row(sequence: int, *, source: str = "cam", verdict: Verdict = "pass") -> ResultRow:
    return ResultRow(seq=0, part_id=f"p{sequence}", source=source, sequence=sequence, verdict=verdict)


def fill(store: RecordStore, *sequences: int) -> None:
    for sequence in sequences:
        assert store.record(row(sequence))
    assert store.flush(60.0)


def test_rows_come_back_in_order_with_contiguous_numbers(open_store: Open) -> None:
    store = open_store()
    fill(store, 0, 1, 2, 3)
    rows = store.rows(0, 10)
    assert [(found.seq, found.part_id) for found in rows] == [(1, "p0"), (2, "p1"), (3, "p2"), (4, "p3")]
    assert [found.seq for found in store.rows(2, 1)] == [3]


def test_frame_that_comes_twice_is_recorded_once(open_store: Open) -> None:
    store = open_store()
    fill(store, 0, 1, 1, 2)
    assert [(found.seq, found.sequence) for found in store.rows(0, 10)] == [(1, 0), (2, 1), (3, 2)]
    assert (store.counts.recorded, store.counts.repeated) == (3, 1)


def test_next_start_goes_on_after_the_last_record_of_its_source(open_store: Open) -> None:
    first = open_store()
    fill(first, 0, 1, 2)
    first.close()
    second = open_store()
    assert (second.next_sequence("cam"), second.next_sequence("other")) == (3, 0)
    assert second.epoch == first.epoch
    fill(second, 3)
    assert second.rows(3, 10)[0].seq == 4


def test_watermark_is_kept_and_bounded(open_store: Open) -> None:
    store = open_store()
    fill(store, 0, 1, 2)
    store.acknowledge("another epoch", 3)
    store.acknowledge(store.epoch, 2)
    wait_for(lambda: store.watermark == 2)
    store.acknowledge(store.epoch, 99)  # rows that were never written
    fill(store, 3)
    assert (store.watermark, store.pending) == (2, 2)
    store.close()
    assert open_store().watermark == 2


def test_rows_of_a_commit_that_is_not_counted_yet_are_not_sent(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    fill(store, 0, 1, 2)
    monkeypatch.setattr(store, "_last_seq", 2)  # as between the commit and the lock
    assert [found.seq for found in store.rows(0, 10)] == [1, 2], "the hub would confirm a row that is not known here"


def test_watermark_may_go_back_for_a_hub_that_was_restored(open_store: Open) -> None:
    store = open_store()
    fill(store, 0, 1, 2)
    store.acknowledge(store.epoch, 3)
    wait_for(lambda: store.pending == 0)
    store.acknowledge(store.epoch, 1)
    wait_for(lambda: store.pending == 2)
    assert [found.seq for found in store.rows(store.watermark, 10)] == [2, 3]


def test_commit_is_durable_and_write_ahead(open_store: Open, tmp_path: Path) -> None:
    fill(open_store(), 0)
    with sqlite3.connect(tmp_path / NAME) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (found,) = connection.execute("SELECT count(*) FROM records").fetchone()
    connection.close()
    assert found == 1


@pytest.mark.parametrize("damage", ["noise", "pages"])
def test_damaged_database_is_set_aside_and_the_line_goes_on(open_store: Open, tmp_path: Path, damage: str) -> None:
    first = open_store()
    fill(first, *range(200))
    first.close()
    path = tmp_path / NAME
    data = bytearray(path.read_bytes())
    data[: 100 if damage == "noise" else 0] = b"x" * (100 if damage == "noise" else 0)
    data[4096:12288] = b"\xff" * 8192
    path.write_bytes(data)
    second = open_store()
    fill(second, 0)
    assert second.epoch != first.epoch
    assert second.counts.set_aside == 1
    (aside,) = [found for found in tmp_path.glob(f"{NAME}.damaged-*") if not found.name.endswith(("-wal", "-shm"))]
    assert aside.read_bytes() == bytes(data)


def test_database_damaged_under_way_is_set_aside_and_no_record_is_lost(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    fill(store, *range(300))
    old = store.epoch
    with sqlite3.connect(tmp_path / NAME) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray((tmp_path / NAME).read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / NAME).write_bytes(data)
    fill(store, 300)
    assert store.epoch != old
    assert [found.sequence for found in store.rows(0, 10)] == [300]


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Files of this process may not grow beyond a size: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_keeps_records_in_memory_until_there_is_room(
    open_store: Open, full_disk: Callable[[int], None], tmp_path: Path
) -> None:
    store = open_store()
    fill(store, 0)
    full_disk(1024)
    for sequence in range(1, 20):
        assert store.record(row(sequence), wait=False)
    wait_for(lambda: isinstance(store.problem, DiskFullError))
    assert store.problem is not None
    assert store.problem.code == 4002
    assert store.pending == 20
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert store.flush(60.0)
    assert store.problem is None
    assert [found.sequence for found in store.rows(0, 100)] == list(range(20))
    assert store.counts.lost == 0


def test_full_disk_and_full_memory_lose_live_records_loudly(
    open_store: Open, full_disk: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    fill(store, 0)
    full_disk(1024)
    kept = [store.record(row(sequence), wait=False) for sequence in range(1, WAITING_MAX + 300)]
    assert store.counts.lost == kept.count(False) > 0
    assert "is lost" in caplog.text
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert store.flush(60.0)
    assert [found.seq for found in store.rows(0, 5000)] == list(range(1, kept.count(True) + 2))


def test_finite_source_waits_for_room(open_store: Open, full_disk: Callable[[int], None]) -> None:
    store = open_store()
    full_disk(1024)
    count = WAITING_MAX + 150

    def write() -> None:
        for sequence in range(count):
            store.record(row(sequence), wait=True)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: store.problem is not None and store.pending >= WAITING_MAX)
    assert writer.is_alive()
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    writer.join(60.0)
    assert store.flush(60.0)
    assert (store.last_seq, store.counts.lost) == (count, 0)


def test_image_is_kept_by_verdict_and_named_by_sequence(open_store: Open, tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, StoreConfig(keep_images="bad"))
    store = open_store(archive=archive)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    verdicts: tuple[Verdict, ...] = ("pass", "reject", "fault")
    for sequence, verdict in enumerate(verdicts):
        store.record(row(sequence, verdict=verdict), Frame(image=image, source="cam", sequence=sequence))
    assert store.flush(60.0)
    assert sorted(path.name for path in (tmp_path / "images" / "cam").iterdir()) == ["00000001.png", "00000002.png"]


def test_image_that_finds_no_room_is_counted_and_its_record_stays(
    open_store: Open, full_disk: Callable[[int], None], tmp_path: Path
) -> None:
    store = open_store(archive=ImageArchive(tmp_path, StoreConfig(keep_images="all")))
    fill(store, 0)
    noise = np.random.default_rng(1).integers(0, 255, (400, 400), np.uint8)
    full_disk(100_000)
    store.record(row(1), Frame(image=noise, source="cam", sequence=1))
    assert store.flush(60.0)
    assert store.counts.images_lost == 1
    assert store.last_seq == 2


WRITER = """
import sys
from pathlib import Path
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
store = RecordStore(Path(sys.argv[1]))
sequence = store.next_sequence("cam")
while True:
    store.record(ResultRow(seq=0, part_id=str(sequence), source="cam", sequence=sequence, verdict="pass"))
    sequence += 1
    if sequence % 50 == 0 and store.flush(60.0):
        print(sequence, flush=True)
"""


def test_killed_writer_leaves_every_flushed_record_once_and_no_gap(tmp_path: Path, open_store: Open) -> None:
    flushed = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(4):
            flushed = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    rows = open_store().rows(0, 100_000)
    assert len(rows) >= flushed
    assert [(found.seq, found.sequence) for found in rows] == [(n + 1, n) for n in range(len(rows))]


def test_database_that_somebody_else_holds_is_not_set_aside(open_store: Open, tmp_path: Path) -> None:
    first = open_store()
    fill(first, 0)
    first.close()
    holder = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    holder.execute("UPDATE meta SET value = '0' WHERE key = 'acked'")
    with pytest.raises(DatabaseError, match="locked") as caught:
        open_store()
    assert caught.value.code == 4001
    holder.close()
    assert open_store().next_sequence("cam") == 1
    assert not list(tmp_path.glob(f"{NAME}.damaged-*"))
