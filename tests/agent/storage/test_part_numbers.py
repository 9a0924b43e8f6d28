"""Part numbers are always unique, and each one that a part has begun with has its row."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_agent.config import StoreConfig
from lineside_agent.storage.record_files import part_numbers
from lineside_agent.storage.record_files.commit_queue import WAITING_MAX
from lineside_agent.storage.record_files.part_numbers import AHEAD_LEAST, PartNumbers
from lineside_agent.storage.records import NAME, RecordStore
from lineside_link.messages import ResultRow
from tests.agent.storage.killed_line import kill_line
from tests.peers.small_disk import SmallDisk
from tests.peers.waiting import wait_for

LINE = """
import os, sys
from pathlib import Path
from lineside_agent.config import StoreConfig
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow
store = RecordStore(Path(sys.argv[1]), rules=StoreConfig(commit_every_s=float(sys.argv[2])))
number = store.resume("cam")
while True:
    store.begin("cam", number)
    os.write(1, f"{number}\\n".encode())  # the line hears first
    store.record(ResultRow(seq=0, part_id="", source="cam", sequence=number, verdict="pass"), wait=False)
    number += 1
    store.flush(60.0) if number % 7 == 0 and len(sys.argv) < 4 else None
    sys.stdin.readline() if number == int((sys.argv[3:] or [0])[0]) else None
"""

Restart = Callable[[], None]


@pytest.fixture
def restart_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restart:
    """Gives the next agent another boot id and an empty memory, as after a power cut."""

    def restart() -> None:
        boot = tmp_path / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        monkeypatch.setattr(part_numbers, "BOOT_ID", boot)
        memory = tmp_path / f"memory-{uuid.uuid4()}"
        memory.mkdir()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(memory))

    return restart


def row(sequence: int, source: str = "cam") -> ResultRow:
    return ResultRow(seq=0, part_id=f"p{sequence}", source=source, sequence=sequence, verdict="pass")


def judge(store: RecordStore, *numbers: int, source: str = "cam") -> None:
    for number in numbers:
        store.begin(source, number)
        store.record(row(number, source), wait=False)


def rows(store: RecordStore) -> list[ResultRow]:
    assert store.flush(60.0)
    return store.rows(0, 1_000_000)


def sequences(store: RecordStore) -> list[int]:
    return [found.sequence for found in rows(store)]


def reserved(folder: Path) -> int:
    """The first number that was certainly not used yet, from the database."""
    with contextlib.closing(sqlite3.connect(folder / NAME, timeout=10.0)) as connection:
        found = connection.execute("SELECT value FROM meta WHERE key = 'reserved:cam'").fetchone()
    return int(found[0]) if found else 0


def test_every_number_that_the_line_heard_has_its_row_after_a_kill_and_no_other(tmp_path: Path) -> None:
    heard: list[int] = []
    for kill_after in (3, 40, 95):
        heard += kill_line(LINE, tmp_path, "0.01", parts=kill_after)
    assert len(heard) == len(set(heard)), "no number goes out twice"
    store = RecordStore(tmp_path)
    first = store.resume("cam")
    found = sequences(store)
    assert found == list(range(first))
    assert set(heard) <= set(found)
    assert len(found) - len(heard) <= 3, "at each kill one part may have begun that the line had not heard of"
    missing = [each for each in rows(store) if each.error.startswith("unrecorded")]
    assert len(missing) <= 3, "at each kill the part under way"
    assert not any(each.unknown for each in missing)
    assert all(each.verdict == "fault" for each in missing)
    store.close()


def test_kill_after_ten_parts_leaves_no_row_of_a_part_that_never_existed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LINE, str(tmp_path), "30", "10"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    assert [int(child.stdout.readline()) for _ in range(10)] == list(range(10))
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    committed = 0  # by the line itself, which had time for more on a busy machine
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(tmp_path / NAME)) as found:
        [(committed,)] = found.execute("SELECT count(*) FROM records")
    store = RecordStore(tmp_path)
    assert store.resume("cam") == 10
    assert [(each.sequence, each.unknown) for each in rows(store)] == [(number, False) for number in range(10)]
    assert [each.verdict for each in rows(store)][:9] == ["pass"] * 9, "of the last one it may have noted nothing"
    assert store.counts.recorded + committed >= 9
    store.close()


def test_orderly_end_leaves_no_row_that_nobody_used(tmp_path: Path, restart_machine: Restart) -> None:
    first = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=0.0))
    assert first.resume("cam") == 0
    judge(first, *range(100))
    first.close()
    restart_machine()
    second = RecordStore(tmp_path)
    assert second.resume("cam") == 100
    assert sequences(second) == list(range(100))
    second.close()


def test_first_start_that_is_killed_before_its_first_part_leaves_no_row(tmp_path: Path) -> None:
    first = RecordStore(tmp_path)
    first.resume("cam")
    second = RecordStore(tmp_path)  # as after a kill: the first one was never closed
    assert second.resume("cam") == 0
    assert rows(second) == []
    second.close()
    first.close()


def test_numbers_of_which_nobody_knows_after_a_power_cut_are_no_production_figures(
    tmp_path: Path, restart_machine: Restart
) -> None:
    source = f"folder:{tmp_path}"
    first = RecordStore(tmp_path)
    first.resume(source)
    judge(first, 0, 1, 2, source=source)
    assert first.flush(60.0)
    restart_machine()
    second = RecordStore(tmp_path)
    assert second.resume(source) == AHEAD_LEAST
    found = rows(second)
    assert [each.sequence for each in found] == list(range(AHEAD_LEAST))
    assert [each.sequence for each in found if not each.unknown] == [0, 1, 2]
    assert {each.verdict for each in found if each.unknown} == {"fault"}, "what a hub reads that knows no `unknown`"
    assert not any("/" in each.part_id for each in found)
    assert second.counts.recorded == 0
    second.close()
    first.close()


def test_kill_right_behind_the_start_after_a_power_cut_makes_no_part_of_what_is_unknown(
    tmp_path: Path, restart_machine: Restart
) -> None:
    first = RecordStore(tmp_path)
    first.resume("cam")
    judge(first, 0, 1, 2)
    assert first.flush(60.0)
    restart_machine()
    killed = PartNumbers(tmp_path, lambda: False)  # of an agent whose rows never come
    assert killed.resume("cam", first=3, reserved=AHEAD_LEAST, is_replaced=False).until == AHEAD_LEAST
    killed.begin("cam", AHEAD_LEAST)
    second = RecordStore(tmp_path)
    assert second.resume("cam") == AHEAD_LEAST + 1
    assert [each.sequence for each in rows(second) if not each.unknown] == [0, 1, 2, AHEAD_LEAST]
    second.close()


def test_power_cut_takes_what_was_not_on_the_disk(tmp_path: Path, restart_machine: Restart) -> None:
    first = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=0.0))
    first.resume("cam")
    (file,) = (tmp_path / part_numbers.FOLDER).iterdir()
    on_disk = file.read_bytes()
    for number in range(0, 200, 20):  # all at once, a late commit would leave the ceiling to the file
        judge(first, *range(number, number + 20))
        assert first.flush(60.0)
    ceiling = reserved(tmp_path)
    file.write_bytes(on_disk)  # the kernel had not written the rest
    restart_machine()
    second = RecordStore(tmp_path)
    assert second.resume("cam") == ceiling > 200
    assert [each.sequence for each in rows(second) if not each.unknown] == list(range(200))
    second.close()


def test_numbers_that_an_older_agent_reserved_are_not_used_again(tmp_path: Path) -> None:
    first = RecordStore(tmp_path)
    for number in range(5):
        first.record(row(number))
    first.close()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection, connection:
        connection.execute("INSERT INTO meta VALUES ('reserved:cam', '32')")
    second = RecordStore(tmp_path)
    assert second.resume("cam") == 32
    assert [each.sequence for each in rows(second) if each.unknown] == list(range(5, 32))
    second.close()


def test_line_that_is_faster_than_its_commits_has_its_numbers_on_disk_before_it_uses_them(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=60.0))
    assert store.resume("cam") == 0
    judge(store, *range(AHEAD_LEAST - 2))
    wait_for(lambda: reserved(tmp_path) >= AHEAD_LEAST + AHEAD_LEAST // 2)
    store.close()


def filled_after_ten(disk: SmallDisk) -> RecordStore:
    """Returns a store with the records of ten parts, whose disk is then full."""
    store = RecordStore(disk.path, rules=StoreConfig(commit_every_s=0.0, free_min_bytes=0))
    store.resume("cam")
    judge(store, *range(10))
    assert store.flush(60.0)
    (disk.path / "ballast").unlink(missing_ok=True)
    disk.fill()
    return store


def test_numbers_are_unique_on_a_full_disk_even_after_a_power_cut(disk: SmallDisk, restart_machine: Restart) -> None:
    first = filled_after_ten(disk)
    judge(first, *range(10, 700))
    wait_for(lambda: first.problem is not None)
    assert first.numbers.problem == ""
    first.close(1.0)
    restart_machine()
    disk.empty()
    second = RecordStore(disk.path)
    assert second.resume("cam") >= 700
    found = rows(second)
    assert [each.sequence for each in found] == list(range(len(found)))
    assert [each.sequence for each in found if not each.unknown] == list(range(700))
    second.close()


def test_start_on_a_full_disk_without_room_for_the_numbers_says_so_and_goes_on_when_there_is(disk: SmallDisk) -> None:
    disk.fill()
    store = RecordStore(disk.path, rules=StoreConfig(free_min_bytes=0))
    store.resume("cam")
    assert "No space left" in store.numbers.problem
    disk.empty()
    wait_for(lambda: store.numbers.problem == "", what="numbers can be reserved again")
    store.close()


def test_parts_of_an_agent_that_ends_on_a_full_disk_have_their_rows_after_the_next_start(
    disk: SmallDisk, restart_machine: Restart
) -> None:
    first = filled_after_ten(disk)
    judge(first, *range(10, 30))
    first.close(1.0)
    restart_machine()
    disk.empty()
    second = RecordStore(disk.path)
    assert second.resume("cam") == 30
    found = rows(second)
    assert [each.sequence for each in found] == list(range(30))
    assert {each.error.partition(":")[0] for each in found[10:]} == {"unrecorded"}
    assert not any(each.unknown for each in found)
    second.close()


def test_file_of_the_numbers_that_cannot_be_written_is_tried_again_without_a_part(tmp_path: Path) -> None:
    first = RecordStore(tmp_path)
    first.resume("cam")
    first.close()
    (file,) = (tmp_path / part_numbers.FOLDER).iterdir()
    file.unlink()
    file.mkdir()
    second = RecordStore(tmp_path)
    assert second.resume("cam") == 0
    assert "directory" in second.numbers.problem
    file.rmdir()
    wait_for(lambda: second.numbers.problem == "", what="numbers can be reserved again")
    assert file.is_file()
    second.close()


def test_damaged_file_of_the_numbers_gives_none_twice(tmp_path: Path) -> None:
    first = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=0.0))
    first.resume("cam")
    judge(first, *range(40))
    assert first.flush(60.0)
    ceiling = reserved(tmp_path)
    (file,) = (tmp_path / part_numbers.FOLDER).iterdir()
    file.write_bytes(b"x" * file.stat().st_size)
    second = RecordStore(tmp_path)
    assert second.resume("cam") == ceiling > 40
    second.close()
    first.close()


def test_records_that_are_lost_on_a_full_disk_have_their_rows_when_there_is_room(disk: SmallDisk) -> None:
    store = RecordStore(disk.path, rules=StoreConfig(commit_every_s=0.0, free_min_bytes=0))
    store.resume("cam")
    judge(store, 0)
    assert store.flush(60.0)
    (disk.path / "ballast").unlink(missing_ok=True)
    disk.fill()
    judge(store, 1)
    wait_for(lambda: store.problem is not None)
    count = WAITING_MAX + 300
    judge(store, *range(2, count))
    lost = store.counts.lost
    assert lost > 0
    disk.empty()
    found = rows(store)
    assert [each.sequence for each in found] == list(range(count))
    assert sum(each.error.startswith("unrecorded") for each in found) == lost
    judge(store, count)
    assert sequences(store)[-1] == count
    store.close()


def test_numbers_go_on_when_the_database_is_damaged_and_its_parts_are_not_said_to_be_lost(tmp_path: Path) -> None:
    first = RecordStore(tmp_path, rules=StoreConfig(commit_every_s=0.0))
    first.resume("cam")
    judge(first, *range(20))
    first.close()
    for path in tmp_path.glob(f"{NAME}*"):
        path.write_bytes(b"no database at all" * 1000)
    second = RecordStore(tmp_path)
    assert second.counts.set_aside == 1
    assert second.resume("cam") == 20
    judge(second, 20)
    assert sequences(second) == [20]
    second.close()


def test_source_that_skips_numbers_says_of_none_that_a_part_had_it(tmp_path: Path) -> None:
    first = RecordStore(tmp_path)
    first.resume("cam", has_gaps=True)
    first.begin("cam", 5)
    second = RecordStore(tmp_path)
    assert second.resume("cam", has_gaps=True) == 6
    assert all(each.unknown for each in rows(second))
    second.close()


def test_sources_that_can_give_a_frame_again_reserve_nothing(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for sequence in range(50):
        store.record(row(sequence, "folder"))
    assert store.flush(60.0)
    wait_for(lambda: store.next_sequence("folder") == 50)
    again = RecordStore(tmp_path)
    assert again.next_sequence("folder") == 50
    again.close()
    store.close()
