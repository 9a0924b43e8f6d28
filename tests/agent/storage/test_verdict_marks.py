"""Operators' marks are kept and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.verdict_marks import VerdictMarks, add
from lineside_link.messages import MARKS_MAX, NOTE_MAX, ResultRow
from lineside_runtime.errors import ConfigError, InputNotFoundError, StoreError

NAMES = ("A-1", 'quoted "A-1"', "A-1", "B-2")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    store = RecordStore(folder)
    for number, name in enumerate(NAMES):
        store.record(ResultRow(seq=0, part_id=name, source="cam", sequence=number, verdict="pass"))
    assert store.flush(60.0)
    store.close()
    return folder


def test_the_last_record_of_the_part_is_marked_and_the_agent_notices_once(state: Path) -> None:
    watch = VerdictMarks(state)
    assert watch.poll() is None
    marked = add(state, "A-1", wrong=True, note="rim")
    assert (marked.mark.seq, marked.sequence, marked.verdict, marked.mark.note) == (3, 2, "pass", "rim")
    assert watch.poll() == (marked.mark,)
    assert watch.poll() is None
    other = add(state, NAMES[1], wrong=True)
    assert other.mark.seq == 2
    again = add(state, "A-1", wrong=False)
    assert watch.poll() == (other.mark, again.mark), "the last word on each record"
    assert VerdictMarks(state).poll() == (other.mark, again.mark), "after a restart too"


def test_a_part_that_is_not_there_is_an_error(state: Path, tmp_path: Path) -> None:
    for folder, part in ((state, "A"), (state, "C"), (tmp_path, "A-1")):
        with pytest.raises(InputNotFoundError):
            add(folder, part, wrong=True)
    assert not (state / "marks.json").exists()


def test_a_note_that_would_make_every_report_long_is_refused(state: Path) -> None:
    with pytest.raises(ConfigError, match="note"):
        add(state, "A-1", wrong=True, note="x" * (NOTE_MAX + 1))


def test_only_so_many_are_reported(state: Path) -> None:
    store = RecordStore(state)
    for number in range(MARKS_MAX + 1):
        store.record(ResultRow(seq=0, part_id=f"C-{number}", source="cam", sequence=100 + number, verdict="pass"))
    assert store.flush(60.0)
    store.close()
    for number in range(MARKS_MAX + 1):
        last = add(state, f"C-{number}", wrong=True)
    marks = VerdictMarks(state).poll()
    assert marks is not None
    assert (len(marks), marks[-1]) == (MARKS_MAX, last.mark)


def test_a_damaged_file_is_an_error_for_the_agent_and_is_set_aside_by_the_next_mark(state: Path) -> None:
    (state / "marks.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        VerdictMarks(state).poll()
    marked = add(state, "B-2", wrong=True)
    assert VerdictMarks(state).poll() == (marked.mark,)
    assert list(state.glob("marks.json.damaged-*"))


def test_the_command_says_whether_there_is_a_frame_to_look_at(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'device = "d"\nfolder = "state"\nbundle = "b"\n[camera]\ntype = "simulator"\n'
    (tmp_path / "agent.toml").write_text(text)
    command = ["agent", "mark", "B-2", "--config", str(tmp_path / "agent.toml"), "--wrong", "--json"]
    for has_frame in (False, True):
        assert main(command) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["has_frame"], said["hub"], said["marked"]["part_id"]) == (has_frame, False, "B-2")
        (state / "images" / "cam").mkdir(parents=True, exist_ok=True)
        (state / "images" / "cam" / "00000003.png").write_bytes(b"png")
