"""Write rows of devices into the database exactly once; the acknowledgement is the watermark of the device.

Invariants:

- A row is keyed by ``(device, epoch, seq)``; a repeat changes nothing.
- The acknowledgement is the highest contiguous ``seq`` that is committed, and is sent after the commit.
- An unreadable row is stored unchanged (``quarantine``) and acknowledged, because its device would otherwise send it
  for ever and block all later rows.

`Sink` has the statements for SQLite (`ResultsSink`) and PostgreSQL (`lineside_hub.results.postgres.PostgresSink`);
only how rows are inserted differs.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import operator
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.results.streams import RESULTS, RowBatch, RowStream
from lineside_link.messages import ResultsAck
from lineside_runtime.errors import BadInputFormatError, DatabaseError

_OF_KEY = "device = :device AND epoch = :epoch"
_QUARANTINE_COLUMNS = ("device", "epoch", "seq", "raw", "reason", "received_at_ns")

Key = tuple[str, str]
"""Device and epoch."""

Bad = tuple[str, str, int, bytes, str, int]
"""One row of the table of unreadable rows."""


@dataclasses.dataclass(slots=True)
class _Mark:
    """Progress of a device's database.

    Attributes:
        seq: The watermark: all rows up to it are committed.
        highest: The highest committed row; above ``seq`` there is a gap before it.
    """

    seq: int
    highest: int


class Sink(abc.ABC):
    """Writes batches of one stream and computes acknowledgements.

    Attributes:
        conflicts: Repeats with another content.
        new_bytes: Bytes of each device's messages with new rows in the last write.
    """

    def __init__(self, stream: RowStream = RESULTS) -> None:
        self.repeats = 0
        self.conflicts = 0
        self.new_bytes: collections.Counter[str] = collections.Counter()
        self._stream = stream
        self._content = operator.attrgetter(*stream.content)
        self._marks: dict[Key, _Mark] = {}

    def write(self, batches: Sequence[RowBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Writes batches; returns the acknowledgements to send after the commit, and events for the timeline."""
        self.new_bytes.clear()
        return self._write(batches) if batches else ({}, [])

    def forget(self) -> None:
        """Discards cached watermarks after a rolled back transaction."""
        self._marks.clear()

    def _store(self, batches: Sequence[RowBatch], now_ns: int) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Inserts new rows and moves the watermarks, inside a transaction."""
        events: list[TimelineEvent] = []
        self._insert([batch for batch in batches if batch.rows], now_ns, events)
        for batch in batches:
            if batch.unreadable:
                self._quarantine([(batch.device, batch.epoch, *bad, now_ns) for bad in batch.unreadable], events)
        moved: dict[Key, int] = {}
        acks: dict[str, ResultsAck] = {}
        for batch in batches:
            seq = self._advance(batch, moved, events, now_ns)
            acks[batch.device] = ResultsAck(epoch=batch.epoch, seq=seq)
        if moved:
            marks = [{"device": key[0], "epoch": key[1], "seq": seq, "at_ns": now_ns} for key, seq in moved.items()]
            self._execute_many(
                f"INSERT INTO {self._stream.watermarks} (device, epoch, seq, at_ns) "
                "VALUES (:device, :epoch, :seq, :at_ns) "
                "ON CONFLICT (device, epoch) DO UPDATE SET seq = excluded.seq, at_ns = excluded.at_ns",
                marks,
            )
        return acks, events

    def _advance(self, batch: RowBatch, moved: dict[Key, int], events: list[TimelineEvent], now_ns: int) -> int:
        key = (batch.device, batch.epoch)
        known = self._marks.get(key)
        if known is None:
            seq, highest = self._load_mark(key)
            known = self._marks[key] = _Mark(seq or 0, highest)
            if seq is None:
                moved[key] = 0
        came = {row.seq for row in batch.rows} | {bad[0] for bad in batch.unreadable}
        if came and max(came) > known.seq:
            self.new_bytes[batch.device] += batch.size
        known.highest = max(known.highest, *came) if came else known.highest
        seq = known.seq
        while seq + 1 in came:
            seq += 1
        if seq < batch.through and batch.after <= known.seq:
            # The device has only these rows: the hub was restored from a backup older than its acknowledgement.
            detail = f"epoch {batch.epoch}: rows between {seq + 1} and {batch.through} no longer exist on the device"
            events.append(TimelineEvent(at_ns=now_ns, device=batch.device, kind="forgotten", detail=detail))
            seq = batch.through
            known.highest = max(known.highest, seq)
        if seq < known.highest:
            seq = _contiguous(self._above(key, seq), seq)
        if seq != known.seq:
            known.seq = moved[key] = seq
        return seq

    def _compare(self, batch: RowBatch, now_ns: int, events: list[TimelineEvent]) -> None:
        """Drops and reports repeats with another content: they are of a second database under the same epoch."""
        known = self._stored(batch)
        for row in batch.rows:
            content, came = known.get(row.seq), self._content(row)
            if content is not None and self._stream.comparable(content) != self._stream.comparable(came):
                self.conflicts += 1
                detail = f"epoch {batch.epoch} seq {row.seq}: {content[0]} is there, {came[0]} came and is dropped"
                events.append(
                    TimelineEvent(
                        at_ns=now_ns, device=batch.device, kind="conflict", code=DatabaseError.code, detail=detail
                    )
                )

    @abc.abstractmethod
    def close(self) -> None:
        """Closes connections of its own."""

    @abc.abstractmethod
    def _write(self, batches: Sequence[RowBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """As `write`, of at least one batch."""

    @abc.abstractmethod
    def _insert(self, batches: list[RowBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        """Inserts the rows that the table does not have."""

    @abc.abstractmethod
    def _execute(self, text: str, parameters: Mapping[str, object]) -> Any:
        """Runs one statement with named parameters; returns its cursor."""

    @abc.abstractmethod
    def _execute_many(self, text: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Runs one statement for each row of parameters."""

    def _stored(self, batch: RowBatch) -> dict[int, tuple[object, ...]]:
        """Returns the content of those rows of a batch that the table has, by ``seq``."""
        seqs, content = ", ".join(str(row.seq) for row in batch.rows), ", ".join(self._stream.content)
        text = f"SELECT seq, {content} FROM {self._stream.name} WHERE {_OF_KEY} AND seq IN ({seqs})"
        found = self._execute(text, {"device": batch.device, "epoch": batch.epoch})
        return {row[0]: tuple(row)[1:] for row in found}

    def _quarantine(self, rows: list[Bad], events: list[TimelineEvent]) -> None:
        """Puts the rows into quarantine whose ``seq`` the stream's table does not have."""
        columns, marks = ", ".join(_QUARANTINE_COLUMNS), ", ".join(f":{name}" for name in _QUARANTINE_COLUMNS)
        insert = f"INSERT INTO {self._stream.quarantine} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        is_there = f"SELECT 1 FROM {self._stream.name} WHERE {_OF_KEY} AND seq = :seq"
        for bad in rows:
            values = dict(zip(_QUARANTINE_COLUMNS, bad, strict=True)) | {"reason": bad[4].replace("\0", "\\0")}
            key = {name: values[name] for name in ("device", "epoch", "seq")}
            if self._execute(is_there, key).fetchone() is None and self._execute(insert, values).rowcount:
                events.append(quarantined(bad))

    def _load_mark(self, key: Key) -> tuple[int | None, int]:
        """Returns the watermark, if there is one, and the highest row."""
        parameters = {"device": key[0], "epoch": key[1]}
        found = self._execute(f"SELECT seq FROM {self._stream.watermarks} WHERE {_OF_KEY}", parameters).fetchone()
        highest = (
            self._execute(f"SELECT coalesce(max(seq), 0) FROM {table} WHERE {_OF_KEY}", parameters).fetchone()[0]
            for table in (self._stream.name, self._stream.quarantine)
        )
        return (found[0] if found else None), max(highest)

    def _above(self, key: Key, seq: int) -> Iterator[int]:
        """Yields the rows above ``seq`` that are in the tables, in ascending order."""
        names = (self._stream.name, self._stream.quarantine)
        tables = (f"SELECT seq FROM {table} WHERE {_OF_KEY} AND seq > :seq" for table in names)
        found = self._execute(f"{' UNION '.join(tables)} ORDER BY seq", {"device": key[0], "epoch": key[1], "seq": seq})
        return (row[0] for row in found)


def quarantined(bad: Bad) -> TimelineEvent:
    """Returns the event of an unreadable row."""
    device, epoch, seq, _, reason, now_ns = bad
    detail = f"epoch {epoch} seq {seq} is kept in quarantine: {reason}"
    return TimelineEvent(at_ns=now_ns, device=device, kind="malformed", code=BadInputFormatError.code, detail=detail)


class ResultsSink(Sink):
    """Writes into the hub's own SQLite, inside the caller's transaction."""

    def __init__(self, database: Database, stream: RowStream = RESULTS) -> None:
        super().__init__(stream)
        self._connection: sqlite3.Connection = database.connection
        self._insert_row = (
            f"INSERT INTO {stream.name} ({', '.join(stream.columns)}) "
            f"VALUES ({', '.join('?' for _ in stream.columns)}) ON CONFLICT (device, epoch, seq) DO NOTHING"
        )

    def _write(self, batches: Sequence[RowBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Leaves the commit to the caller."""
        return self._store(batches, time.time_ns())

    def close(self) -> None:
        """Does nothing: the connection is the caller's."""

    def _insert(self, batches: list[RowBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        for batch in batches:
            values = (self._stream.values(batch.device, batch.epoch, row, now_ns) for row in batch.rows)
            new = self._connection.executemany(self._insert_row, values).rowcount
            if new < len(batch.rows):
                self.repeats += len(batch.rows) - new
                self._compare(batch, now_ns, events)

    def _execute(self, text: str, parameters: Mapping[str, object]) -> sqlite3.Cursor:
        return self._connection.execute(text, parameters)

    def _execute_many(self, text: str, rows: Sequence[Mapping[str, object]]) -> None:
        self._connection.executemany(text, rows)


def _contiguous(above: Iterator[int], start: int) -> int:
    seq = start
    for found in above:
        if found != seq + 1:
            break
        seq += 1
    return seq
