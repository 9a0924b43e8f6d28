"""Numbers that are reserved ahead: after a power cut nothing vanishes without a trace."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from lineside_agent.config import StoreConfig
from lineside_agent.store import AHEAD_LEAST, NAME, Store
from lineside_link.messages import ResultRow
from tests.peers.waiting import wait_for

LINE = """
import os, sys
from pathlib import Path
from lineside_agent.config import StoreConfig
from lineside_agent.store import Store
from lineside_link.messages import ResultRow
store = Store(Path(sys.argv[1]), rules=StoreConfig(commit_every_s=0.01))
number = store.resume("cam")
while True:
    os.write(1, f"{number}\\n".encode())  # the line hears first
    store.record(ResultRow(seq=0, part_id="", source="cam", sequence=number, verdict="pass"), wait=False, is_live=True)
    number += 1
    store.flush(60.0) if number % 7 == 0 else None
"""


def row(sequence: int, source: str = "cam") -> ResultRow:
    return ResultRow(seq=0, part_id=f"p{sequence}", source=source, sequence=sequence, verdict="pass")


def sequences(store: Store) -> list[int]:
    assert store.flush(60.0)
    return [found.sequence for found in store.rows(0, 1_000_000)]


def reserved(folder: Path) -> int:
    """The first number that can't have been used yet, as it lies on disk."""
    with contextlib.closing(sqlite3.connect(folder / NAME, timeout=10.0)) as connection:
        (found,) = connection.execute("SELECT value FROM meta WHERE key = 'reserved:cam'").fetchone()
    return int(found)


def test_every_number_that_the_line_heard_has_its_row_after_a_kill(tmp_path: Path) -> None:
    heard: list[int] = []
    for kill_after in (3, 40, 95):
        child = subprocess.Popen([sys.executable, "-c", LINE, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        heard += [int(child.stdout.readline()) for _ in range(kill_after)]
        os.kill(child.pid, signal.SIGKILL)
        heard += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
        child.stdout.close()
        child.wait()
    assert len(heard) == len(set(heard)), "no number goes out twice"
    store = Store(tmp_path)
    first = store.resume("cam")
    found = sequences(store)
    assert found == list(range(first))
    assert set(heard) <= set(found)
    missing = [each for each in store.rows(0, 1_000_000) if each.error.startswith("unrecorded")]
    assert missing
    assert all(each.verdict == "fault" for each in missing)
    store.close()


def test_orderly_end_leaves_no_row_that_nobody_used(tmp_path: Path) -> None:
    first = Store(tmp_path, rules=StoreConfig(commit_every_s=0.0))
    assert first.resume("cam") == 0
    for sequence in range(100):
        first.record(row(sequence), is_live=True)
    first.close()
    second = Store(tmp_path)
    assert second.resume("cam") == 100
    assert sequences(second) == list(range(100))
    second.close()


def test_first_start_that_is_cut_off_before_its_first_frame_is_seen_too(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.resume("cam")
    second = Store(tmp_path)  # as after a kill: the first one was never closed
    assert second.resume("cam") == AHEAD_LEAST
    assert sequences(second) == list(range(AHEAD_LEAST))
    assert reserved(tmp_path) == 2 * AHEAD_LEAST, "what a kill left behind is no pace to reserve for"
    second.close()
    first.close()


def test_line_that_is_faster_than_its_commits_has_its_numbers_on_disk_before_it_uses_them(tmp_path: Path) -> None:
    store = Store(tmp_path, rules=StoreConfig(commit_every_s=60.0))
    assert store.resume("cam") == 0
    for sequence in range(AHEAD_LEAST - 2):
        store.record(row(sequence), is_live=True)
    wait_for(lambda: reserved(tmp_path) >= AHEAD_LEAST + AHEAD_LEAST // 2)
    store.close()


def test_sources_that_can_give_a_frame_again_reserve_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for sequence in range(50):
        store.record(row(sequence, "folder"))
    assert store.flush(60.0)
    wait_for(lambda: store.next_sequence("folder") == 50)
    again = Store(tmp_path)
    assert again.next_sequence("folder") == 50
    again.close()
    store.close()
