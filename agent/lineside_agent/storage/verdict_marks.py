"""An operator's mark that a verdict is wrong, so that a person reviews the frame.

The command writes ``marks.json``; the agent notices the change and includes all marks in every report, so that none is
lost with a broker.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_agent.storage.record_files import database
from lineside_agent.storage.records import NAME as RECORDS
from lineside_agent.storage.state_file import peek_state, read_state, write_state
from lineside_link.messages import MARKS_MAX, NOTE_MAX, Mark, ResultRow
from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.files import file_lock

log = logging.getLogger("lineside.agent")

NAME = "marks.json"
_LOCK = "marks.lock"


class OperatorMarks(msgspec.Struct, frozen=True, kw_only=True):
    """The marks on disk.

    Attributes:
        marks: Oldest first.
    """

    marks: tuple[Mark, ...] = ()


class MarkedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was marked.

    Attributes:
        verdict: Verdict that the line was told.
        sequence: Number of the frame at its source.
        captured_at_ns: Unix time of the capture.
    """

    part_id: str
    verdict: str
    source: str
    sequence: int
    captured_at_ns: int
    mark: Mark


def add(folder: Path, part_id: str, *, wrong: bool, note: str = "") -> MarkedRecord:
    """Marks the last verdict on a part as wrong, or removes the mark; the agent need not run.

    Raises:
        ConfigError: The note is too long.
        InputNotFoundError: There are no records, or none of this part.
        DatabaseError: They can't be read.
        DiskFullError: There is no room for the mark.
    """
    action = "Older records may have made way; `lineside relabel mark` at the hub knows them."
    missing = InputNotFoundError(f"no record of part {part_id!r} here", action=action)
    return _mark(folder, lambda opened, path: database.last_of_part(opened, path, part_id), missing, wrong, note)


def add_to_record(folder: Path, source: str, sequence: int, *, wrong: bool, note: str = "") -> MarkedRecord:
    """Marks the verdict on one frame, or removes the mark.

    Raises:
        LinesideError: As `add`.
    """
    missing = InputNotFoundError(f"no record of frame {sequence} of {source} here", action="It may have made way.")
    return _mark(folder, lambda opened, path: database.record_of(opened, path, source, sequence), missing, wrong, note)


def read_marks(folder: Path) -> tuple[Mark, ...]:
    """Returns the marks, oldest first.

    Raises:
        StoreError: They can't be read.
    """
    found = peek_state(folder / NAME, OperatorMarks)
    return () if found is None else found.marks


def _mark(
    folder: Path,
    find: Callable[[sqlite3.Connection, Path], tuple[str, ResultRow] | None],
    missing: InputNotFoundError,
    wrong: bool,
    note: str,
) -> MarkedRecord:
    if len(note) > NOTE_MAX:
        raise ConfigError("note", expected=f"at most {NOTE_MAX} characters", actual=len(note))
    if not (folder / RECORDS).is_file():
        raise InputNotFoundError(f"no records in {folder}", action="Start the agent with `lineside agent run` first.")
    with database.reading(folder / RECORDS) as connection:
        found = find(connection, folder / RECORDS)
    if found is None:
        raise missing
    epoch, row = found
    mark = Mark(epoch=epoch, seq=row.seq, at_ns=time.time_ns(), wrong=wrong, note=note)
    with file_lock(folder / _LOCK, mode=0o660):
        before = (read_state(folder / NAME, OperatorMarks) or OperatorMarks()).marks
        others = tuple(each for each in before if (each.epoch, each.seq) != (mark.epoch, mark.seq))
        write_state(folder / NAME, OperatorMarks(marks=(*others, mark)[-MARKS_MAX:]))
        if len(others) >= MARKS_MAX:
            log.warning("the oldest mark is not reported to the hub any more: only the last %d are", MARKS_MAX)
    return _marked_record(row, mark)


def _marked_record(row: ResultRow, mark: Mark) -> MarkedRecord:
    return MarkedRecord(
        part_id=row.part_id,
        verdict=row.verdict,
        source=row.source,
        sequence=row.sequence,
        captured_at_ns=row.captured_at_ns,
        mark=mark,
    )


class VerdictMarks:
    """Notices changes of the marks, for the agent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._seen_ns = 0

    def poll(self) -> tuple[Mark, ...] | None:
        """Returns all marks if the file has changed since the last call.

        Raises:
            StoreError: The file can't be read; it is not looked at again until it changes.
        """
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if changed_ns == self._seen_ns:
            return None
        self._seen_ns = changed_ns
        found = peek_state(self._path, OperatorMarks)
        return None if found is None else found.marks
