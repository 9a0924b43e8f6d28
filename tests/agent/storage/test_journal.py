"""Records that a kill takes nothing of: the journal in memory, with real stores and real kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_files.journal import NAMES, RecordJournal, memory_folder
from lineside_agent.storage.records import NAME, RecordStore
from lineside_link.messages import ResultRow
from tests.agent.storage.killed_line import kill_line

LINE = """
import os, sys
from pathlib import Path
from lineside_agent.config import StoreConfig
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
limit = int(sys.argv[2]) or None
store = RecordStore(Path(sys.argv[1]), rules=StoreConfig(commit_every_s=0.05, writes_max_bytes_a_day=limit))
number = store.resume("cam")
while True:
    store.begin("cam", number)
    row = ResultRow(seq=0, part_id=f"p{number}", source="cam", sequence=number, verdict="pass")
    store.note(row)
    os.write(1, f"{number}\\n".encode())  # the line is told
    store.record(row, wait=True)
    number += 1
"""


def row(sequence: int) -> ResultRow:
    return ResultRow(seq=0, part_id=f"p{sequence}", source="cam", sequence=sequence, verdict="pass")


@pytest.mark.parametrize("limit", [0, 1_000_000], ids=["without a limit", "with a limit"])
def test_each_told_verdict_has_its_record_whenever_the_process_is_killed(tmp_path: Path, limit: int) -> None:
    told: list[int] = []
    kills = [1, 40, 300]
    for parts in kills:
        told += kill_line(LINE, tmp_path, limit, parts=parts)
    store = RecordStore(tmp_path, rules=StoreConfig(writes_max_bytes_a_day=limit or None))
    begun = store.resume("cam")
    assert store.flush(60.0)
    rows = store.rows(0, 1_000_000)
    store.close()
    assert [each.sequence for each in rows] == list(range(begun)), "each number has one row"
    unrecorded = {each.sequence for each in rows if each.error}
    assert not unrecorded & set(told)
    assert len(unrecorded) <= len(kills), "at most the part under way"


def test_journal_of_another_database_is_not_taken(tmp_path: Path) -> None:
    kill_line(LINE, tmp_path, 0, parts=5)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
    store = RecordStore(tmp_path)
    assert store.flush(60.0)
    assert store.rows(0, 10) == []
    store.close()


def test_part_that_its_source_gives_again_is_not_noted(tmp_path: Path) -> None:
    """A folder gives it again with its image."""
    store = RecordStore(tmp_path)
    store.note(row(0))
    assert b"p0" not in b"".join((memory_folder(tmp_path) / name).read_bytes() for name in NAMES)
    store.close()


KILLED = """
import sys
from pathlib import Path
import numpy as np
from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
folder, rules = Path(sys.argv[1]), StoreConfig(keep_images="all", commit_every_s=60)
archive = ImageArchive(folder, rules)
store = RecordStore(folder, archive=archive, rules=rules, confirmed_only=True)
store.resume("cam")
store.begin("cam", 0)
frame = Frame(np.zeros((8, 8, 3), np.uint8), captured_at_ns=1, source="cam", part_id="p0", sequence=0)
store.record(ResultRow(seq=0, part_id="p0", source="cam", sequence=0, verdict="pass"), frame)
while not archive.path("cam", 0).exists():
    pass
print("kept", flush=True)
sys.stdin.read()
"""


def test_image_that_was_kept_before_a_kill_is_sent_after_it(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"kept\n"
    child.kill()
    child.communicate()
    rules = StoreConfig(keep_images="all")
    store = RecordStore(tmp_path, archive=ImageArchive(tmp_path, rules), rules=rules, confirmed_only=True)
    assert store.flush(60.0)
    store.acknowledge(store.epoch, 1)
    found = store.first_unsent_image(0)
    assert found is not None
    assert (found.seq, found.path) == (1, "cam/00000000.png")
    store.close()


def test_orderly_end_leaves_nothing_in_memory(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.record(row(0))
    place = memory_folder(tmp_path)
    assert place != tmp_path and (place / NAMES[0]).exists()
    store.close()
    assert not place.exists()


def test_line_that_a_kill_has_cut_ends_the_journal(tmp_path: Path) -> None:
    journal = RecordJournal(tmp_path)
    journal.begin("e", [])
    for number in range(3):
        journal.note(row(number))
    content = (tmp_path / NAMES[1]).read_bytes()
    (tmp_path / NAMES[1]).write_bytes(content[:-5])
    epochs, rows = RecordJournal(tmp_path).read()
    assert (epochs, [each.sequence for each in rows]) == ({"e"}, [0, 1])


def test_pending_records_are_in_one_of_the_two_files_at_every_moment(tmp_path: Path) -> None:
    journal = RecordJournal(tmp_path)
    journal.begin("e", [row(0), row(1)])
    journal.note(row(2))
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    journal.settle([row(0)])
    assert [each.sequence for each in RecordJournal(tmp_path).read()[1]] == [1, 2]
    for name, content in before.items():  # the kill comes before the first file was emptied
        if content:
            (tmp_path / name).write_bytes(content)
    assert sorted(each.sequence for each in RecordJournal(tmp_path).read()[1]) == [0, 1, 2]


def test_memory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    monkeypatch.setattr("lineside_agent.storage.record_files.journal.SHARED_MEMORY", shared)
    place = memory_folder(tmp_path, "")
    assert place.is_relative_to(shared)
    place.parent.chmod(0o777)  # everybody may put files there
    assert memory_folder(tmp_path, "") == tmp_path
    run = tmp_path / "run"
    run.mkdir()
    assert memory_folder(tmp_path, f"{run}:/other") == run
