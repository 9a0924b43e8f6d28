"""Write results into the database exactly once; the acknowledgement is the watermark of the device.

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
import operator
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lineside_hub.results.database import Database, TimelineEvent
from lineside_link.messages import VERSION, ResultRow, Results, ResultsAck
from lineside_link.result_table import INTEGER_COLUMNS, RESULT_COLUMNS, UNKNOWN, UNSURE, as_stored, values_of
from lineside_runtime.decoding import JsonDecoder, decode_json
from lineside_runtime.errors import BadInputFormatError, DatabaseError

_INSERT = (
    f"INSERT INTO results ({', '.join(RESULT_COLUMNS)}) VALUES ({', '.join('?' for _ in RESULT_COLUMNS)}) "
    "ON CONFLICT (device, epoch, seq) DO NOTHING"
)

_OF_KEY = "device = :device AND epoch = :epoch"
_QUARANTINE_COLUMNS = ("device", "epoch", "seq", "raw", "reason", "received_at_ns")
_INSERT_BAD = (
    f"INSERT INTO quarantine ({', '.join(_QUARANTINE_COLUMNS)}) "
    f"VALUES ({', '.join(f':{name}' for name in _QUARANTINE_COLUMNS)}) ON CONFLICT DO NOTHING"
)
_WRITE_MARK = (
    "INSERT INTO watermarks (device, epoch, seq, at_ns) VALUES (:device, :epoch, :seq, :at_ns) "
    "ON CONFLICT (device, epoch) DO UPDATE SET seq = excluded.seq, at_ns = excluded.at_ns"
)

_INT64 = 2**63

Key = tuple[str, str]
"""Device and epoch."""

Values = tuple[Any, ...]
"""One row of the table, in the order of `RESULT_COLUMNS`."""

Bad = tuple[str, str, int, bytes, str, int]
"""One row of ``quarantine``."""


class _Row(ResultRow, frozen=True, kw_only=True, gc=False):
    """A row without garbage collection: thousands wait for a commit, and they have no reference cycles."""


class _Batch(msgspec.Struct, frozen=True):
    """`lineside_link.messages.Results`, decoded as a whole; the usual case."""

    epoch: str
    rows: list[_Row]
    v: int = VERSION
    after: int = 0
    through: int = -1


class _Envelope(msgspec.Struct, frozen=True):
    """`lineside_link.messages.Results` with undecoded rows, so that one bad row does not affect the others."""

    epoch: str
    rows: tuple[msgspec.Raw, ...]
    v: int = VERSION
    after: int = 0
    through: int = -1


class _Seq(msgspec.Struct, frozen=True):
    seq: int


_decode = JsonDecoder(_Batch).decode
_integers = operator.attrgetter(*INTEGER_COLUMNS)


class ResultBatch(msgspec.Struct, frozen=True):
    """A decoded message of results.

    Attributes:
        unreadable: ``(seq, raw, reason)`` of each unreadable row.
        after: See `lineside_link.messages.Results`.
        through: See `lineside_link.messages.Results`.
        size: Of the message, in bytes.
    """

    device: str
    epoch: str
    rows: list[ResultRow]
    unreadable: list[tuple[int, bytes, str]]
    after: int = 0
    through: int = -1
    size: int = 0


def read_batch(device: str, payload: bytes) -> ResultBatch:
    """Reads a message of results.

    Args:
        device: Whose topic it came on.
        payload: `lineside_link.messages.Results` as JSON.
    """
    try:
        whole = _decode(payload)
    except msgspec.DecodeError:
        return _read_rows(device, payload)
    _check_envelope(device, whole.v, whole.epoch)
    if all(_in_range(row) for row in whole.rows):
        return ResultBatch(device, whole.epoch, [as_stored(row) for row in whole.rows], [], *_span(whole), len(payload))
    return _read_rows(device, payload)


def _read_rows(device: str, payload: bytes) -> ResultBatch:
    try:
        envelope = decode_json(payload, type=_Envelope)
    except msgspec.DecodeError as error:
        raise BadInputFormatError(f"{Results.__name__} message of {device}: {error}", action="") from error
    _check_envelope(device, envelope.v, envelope.epoch)
    batch = ResultBatch(device, envelope.epoch, [], [], *_span(envelope), len(payload))
    for raw in envelope.rows:
        _read_row(batch, bytes(raw))
    return batch


def _as_older_hub(content: tuple[object, ...]) -> tuple[object, ...]:
    """Content as an older hub stored it: unsure rows as rejects and unknown ones as faults."""
    before = {UNSURE: "reject", UNKNOWN: "fault"}
    return (before.get(str(content[2]), content[2]), *content[:2])


def _span(message: _Batch | _Envelope) -> tuple[int, int]:
    """Returns ``after`` and ``through``; values that make no sense are ignored."""
    return (message.after, message.through) if 0 <= message.after <= message.through < _INT64 else (0, -1)


def _check_envelope(device: str, version: int, epoch: str) -> None:
    if abs(version - VERSION) > 1 or not 0 < len(epoch) <= 64:
        raise BadInputFormatError(f"results of {device}: version {version}, epoch {epoch!r}", action="")


def _read_row(batch: ResultBatch, raw: bytes) -> None:
    try:
        row = decode_json(raw, type=ResultRow)
        _check_integers(row)
        batch.rows.append(as_stored(row))
    except (msgspec.DecodeError, BadInputFormatError) as error:
        batch.unreadable.append((_seq_of(batch.device, raw), raw, str(error)))


def _in_range(row: ResultRow) -> bool:
    values = _integers(row)
    return row.seq >= 1 and min(values) >= -_INT64 and max(values) < _INT64


def _check_integers(row: ResultRow) -> None:
    if not _in_range(row):
        raise BadInputFormatError("an integer is out of range", expected="64 bits, and seq from 1", action="")


def _seq_of(device: str, raw: bytes) -> int:
    try:
        seq = decode_json(raw, type=_Seq).seq
    except msgspec.DecodeError as error:
        raise BadInputFormatError(f"results of {device}: a row without seq: {error}", action="") from error
    if not 1 <= seq < 2**63:
        raise BadInputFormatError(f"results of {device}: seq out of range", actual=seq, action="")
    return seq


class _Mark:
    """Progress of a device's database.

    Attributes:
        seq: The watermark: all rows up to it are committed.
        highest: The highest committed row; above ``seq`` there is a gap before it.
    """

    __slots__ = ("highest", "seq")

    def __init__(self, seq: int, highest: int) -> None:
        self.seq = seq
        self.highest = highest


class Sink(abc.ABC):
    """Writes batches and computes acknowledgements.

    Attributes:
        conflicts: Repeats with another content.
        new_bytes: Bytes of each device's messages with new rows in the last write.
    """

    def __init__(self) -> None:
        self.repeats = 0
        self.conflicts = 0
        self.new_bytes: collections.Counter[str] = collections.Counter()
        self._marks: dict[Key, _Mark] = {}

    def forget(self) -> None:
        """Discards cached watermarks after a rolled back transaction."""
        self._marks.clear()

    def _store(self, batches: Sequence[ResultBatch], now_ns: int) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Inserts new rows and moves the watermarks, inside a transaction."""
        events: list[TimelineEvent] = []
        self.new_bytes.clear()
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
            self._execute_many(_WRITE_MARK, marks)
        return acks, events

    def _advance(self, batch: ResultBatch, moved: dict[Key, int], events: list[TimelineEvent], now_ns: int) -> int:
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

    def _compare(self, batch: ResultBatch, now_ns: int, events: list[TimelineEvent]) -> None:
        """Drops and reports repeats with another content: they are of a second database under the same epoch."""
        known = self._stored(batch)
        for row in batch.rows:
            content = known.get(row.seq)
            if content is not None and _as_older_hub(content) != _as_older_hub(
                (row.part_id, row.captured_at_ns, row.verdict)
            ):
                self.conflicts += 1
                detail = f"epoch {batch.epoch} seq {row.seq}: {content[0]} is there, {row.part_id} came and is dropped"
                events.append(
                    TimelineEvent(
                        at_ns=now_ns, device=batch.device, kind="conflict", code=DatabaseError.code, detail=detail
                    )
                )

    @abc.abstractmethod
    def write(self, batches: Sequence[ResultBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """Writes batches; returns the acknowledgements to send after the commit, and events for the timeline."""

    @abc.abstractmethod
    def _insert(self, batches: list[ResultBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        """Inserts the rows that the table does not have."""

    @abc.abstractmethod
    def _execute(self, text: str, parameters: Mapping[str, object]) -> Any:
        """Runs one statement with named parameters; returns its cursor."""

    @abc.abstractmethod
    def _execute_many(self, text: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Runs one statement for each row of parameters."""

    def _stored(self, batch: ResultBatch) -> dict[int, tuple[object, ...]]:
        """Returns ``(part_id, captured_at_ns, verdict)`` of those rows of a batch that the table has, by ``seq``."""
        seqs = ", ".join(str(row.seq) for row in batch.rows)
        text = f"SELECT seq, part_id, captured_at_ns, verdict FROM results WHERE {_OF_KEY} AND seq IN ({seqs})"
        found = self._execute(text, {"device": batch.device, "epoch": batch.epoch})
        return {row[0]: tuple(row)[1:] for row in found}

    def _quarantine(self, rows: list[Bad], events: list[TimelineEvent]) -> None:
        """Puts the rows into quarantine whose ``seq`` the table of results does not have."""
        for bad in rows:
            values = dict(zip(_QUARANTINE_COLUMNS, bad, strict=True)) | {"reason": bad[4].replace("\0", "\\0")}
            key = {name: values[name] for name in ("device", "epoch", "seq")}
            if self._execute(f"SELECT 1 FROM results WHERE {_OF_KEY} AND seq = :seq", key).fetchone() is not None:
                continue
            if self._execute(_INSERT_BAD, values).rowcount:
                events.append(quarantined(bad))

    def _load_mark(self, key: Key) -> tuple[int | None, int]:
        """Returns the watermark, if there is one, and the highest row."""
        parameters = {"device": key[0], "epoch": key[1]}
        found = self._execute(f"SELECT seq FROM watermarks WHERE {_OF_KEY}", parameters).fetchone()
        highest = (
            self._execute(f"SELECT coalesce(max(seq), 0) FROM {table} WHERE {_OF_KEY}", parameters).fetchone()[0]
            for table in ("results", "quarantine")
        )
        return (found[0] if found else None), max(highest)

    def _above(self, key: Key, seq: int) -> Iterator[int]:
        """Yields the rows above ``seq`` that are in the tables, in ascending order."""
        tables = (f"SELECT seq FROM {table} WHERE {_OF_KEY} AND seq > :seq" for table in ("results", "quarantine"))
        found = self._execute(f"{' UNION '.join(tables)} ORDER BY seq", {"device": key[0], "epoch": key[1], "seq": seq})
        return (row[0] for row in found)


def quarantined(bad: Bad) -> TimelineEvent:
    """Returns the event of an unreadable row."""
    device, epoch, seq, _, reason, now_ns = bad
    detail = f"epoch {epoch} seq {seq} is kept in quarantine: {reason}"
    return TimelineEvent(at_ns=now_ns, device=device, kind="malformed", code=BadInputFormatError.code, detail=detail)


class ResultsSink(Sink):
    """Writes into the hub's own SQLite, inside the caller's transaction."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._connection: sqlite3.Connection = database.connection

    def write(self, batches: Sequence[ResultBatch]) -> tuple[dict[str, ResultsAck], list[TimelineEvent]]:
        """As `Sink.write`; to be committed by the caller."""
        return self._store(batches, time.time_ns())

    def _insert(self, batches: list[ResultBatch], now_ns: int, events: list[TimelineEvent]) -> None:
        for batch in batches:
            values = (values_of(batch.device, batch.epoch, row, now_ns) for row in batch.rows)
            new = self._connection.executemany(_INSERT, values).rowcount
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
