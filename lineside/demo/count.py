"""Results received by the hub, counted from its database and the list of source frames."""

from __future__ import annotations

import collections
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec


class DemoRow(msgspec.Struct, frozen=True, kw_only=True):
    """A result at the hub."""

    seq: int
    part_id: str
    sequence: int
    captured_at_ns: int
    verdict: str
    detections: tuple[tuple[str, float, float, float, float, float], ...]
    bundle: str
    requested_device: str
    used_device: str
    latency_ms: float
    error: str


class DemoEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the hub's timeline."""

    at_ns: int
    kind: str
    bundle: str
    code: int | None
    detail: str


class DemoCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of frames and results; an independent script repeats them.

    Attributes:
        inspected: Frames with a verdict at the hub.
        lost: Frames without a record at the hub.
        duplicates: Records at the hub beyond the first of a frame.
        synced: Records at the hub.
        faults: Records without a verdict.
    """

    frames: int
    inspected: int
    lost: int
    duplicates: int
    synced: int
    faults: int


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10.0)
    connection.row_factory = sqlite3.Row
    try:
        yield connection
    finally:
        connection.close()


def copy_database(database: Path, copy: Path) -> None:
    """Copies a database that may be in use, with its write-ahead log."""
    with _reading(database) as connection, contextlib.closing(sqlite3.connect(copy)) as target:
        connection.backup(target)


def synced(database: Path) -> int:
    """Returns how many results the hub has committed; 0 while there is no database."""
    if not database.exists():
        return 0
    with _reading(database) as connection:
        return int(connection.execute("select count(*) from results").fetchone()[0])


def rows(database: Path) -> list[DemoRow]:
    """Returns all results, in the order of their frames."""
    with _reading(database) as connection:
        found = connection.execute("select * from results order by sequence, seq").fetchall()
    fields = DemoRow.__struct_fields__
    return [
        msgspec.convert({**{name: row[name] for name in fields}, "detections": json.loads(row["detections"])}, DemoRow)
        for row in found
    ]


def events(database: Path) -> list[DemoEvent]:
    """Returns the hub's timeline, oldest first."""
    if not database.exists():
        return []
    with _reading(database) as connection:
        found = connection.execute("select at_ns, kind, bundle, code, detail from events order by at_ns").fetchall()
    return [
        DemoEvent(
            at_ns=row["at_ns"],
            kind=row["kind"],
            bundle=row["bundle"] or "",
            code=row["code"],
            detail=row["detail"] or "",
        )
        for row in found
    ]


def count(results: list[DemoRow], frames: int, part_ids: tuple[str, ...]) -> DemoCounts:
    """Counts verdicts, losses and repeats.

    Args:
        frames: Number of frames of the source.
        part_ids: Of the frames; if empty, sequence numbers are compared.
    """
    named = bool(part_ids)
    wanted: set[str | int] = set(part_ids) if named else set(range(frames))
    seen = collections.Counter(row.part_id if named else row.sequence for row in results)
    judged = {row.part_id if named else row.sequence for row in results if row.verdict != "fault"}
    return DemoCounts(
        frames=frames,
        inspected=len(judged & wanted),
        lost=len(wanted - set(seen)),
        duplicates=sum(seen.values()) - len(seen),
        synced=len(results),
        faults=sum(row.verdict == "fault" for row in results),
    )
