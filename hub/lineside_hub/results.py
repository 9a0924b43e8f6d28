"""Results into the database, exactly once; the answer is what a device may forget.

Invariants:

- A row is keyed by ``(device, epoch, seq)``; a repeat changes nothing.
- The acknowledgement is the highest ``seq`` up to which every row is there, and is sent after the commit.
- A row that cannot be read is kept as it came (``quarantine``) and counts as received, because its device
  would send it for ever and everything after it would wait. A message without readable rows changes nothing.
"""

from __future__ import annotations

import sqlite3
import time

import msgspec

from lineside_hub.database import Database, Event
from lineside_link.messages import VERSION, ResultRow, Results, ResultsAck
from lineside_runtime.errors import BadInputFormatError, DatabaseError

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises; the last for brackets without end, which would otherwise end the writer."""

_INSERT = (
    "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (device, epoch, seq) DO NOTHING"
)


class _Envelope(msgspec.Struct, frozen=True):
    """`lineside_link.messages.Results` with its rows unread, so that one bad row spoils no other."""

    epoch: str
    rows: tuple[msgspec.Raw, ...]
    v: int = VERSION


class _Seq(msgspec.Struct, frozen=True):
    seq: int


class Batch(msgspec.Struct, frozen=True):
    """A message of results, read.

    Attributes:
        device: Who sent it.
        epoch: Of the device's database.
        rows: What could be read.
        unreadable: ``(seq, raw, reason)`` of what could not.
    """

    device: str
    epoch: str
    rows: list[ResultRow]
    unreadable: list[tuple[int, bytes, str]]


def read_batch(device: str, payload: bytes) -> Batch:
    """Reads a message of results, row by row.

    Args:
        device: Whose topic it came on.
        payload: `lineside_link.messages.Results` as JSON.

    Raises:
        BadInputFormatError: It is no such message, or a row has not even a ``seq``.
    """
    try:
        envelope = msgspec.json.decode(payload, type=_Envelope)
    except _UNREADABLE as error:
        raise BadInputFormatError(f"{Results.__name__} message of {device}: {error}", action="") from error
    if abs(envelope.v - VERSION) > 1 or not 0 < len(envelope.epoch) <= 64:
        raise BadInputFormatError(f"results of {device}: version {envelope.v}, epoch {envelope.epoch!r}", action="")
    batch = Batch(device, envelope.epoch, [], [])
    for raw in envelope.rows:
        _read_row(batch, bytes(raw))
    return batch


def _read_row(batch: Batch, raw: bytes) -> None:
    try:
        row = msgspec.json.decode(raw, type=ResultRow)
        _check_integers(row)
        batch.rows.append(row)
    except (*_UNREADABLE, BadInputFormatError) as error:
        batch.unreadable.append((_seq_of(batch.device, raw), raw, str(error)))


def _check_integers(row: ResultRow) -> None:
    for name in ("seq", "sequence", "captured_at_ns", "width", "height"):
        value = getattr(row, name)
        if not (1 if name == "seq" else -(2**63)) <= value < 2**63:
            raise BadInputFormatError(f"{name} out of range", actual=value, action="")


def _seq_of(device: str, raw: bytes) -> int:
    try:
        seq = msgspec.json.decode(raw, type=_Seq).seq
    except _UNREADABLE as error:
        raise BadInputFormatError(f"results of {device}: a row without seq: {error}", action="") from error
    if not 1 <= seq < 2**63:
        raise BadInputFormatError(f"results of {device}: seq out of range", actual=seq, action="")
    return seq


class ResultsSink:
    """Writes batches inside the caller's transaction.

    Attributes:
        repeats: Rows that were there already.
        conflicts: Repeats that say something else than what is there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.repeats = 0
        self.conflicts = 0

    def write(self, batch: Batch) -> ResultsAck:
        """Inserts what is new and moves the watermark.

        Returns:
            What to tell the device once the transaction is committed.
        """
        now_ns = time.time_ns()
        for row in batch.rows:
            self._insert(batch, row, now_ns)
        for seq, raw, reason in batch.unreadable:
            self._quarantine(batch, (seq, raw, reason), now_ns)
        return ResultsAck(epoch=batch.epoch, seq=self._advance(batch.device, batch.epoch, now_ns))

    def _insert(self, batch: Batch, row: ResultRow, now_ns: int) -> None:
        values = (
            batch.device,
            batch.epoch,
            row.seq,
            row.part_id,
            row.source,
            row.sequence,
            row.captured_at_ns,
            row.verdict,
            msgspec.json.encode(row.detections).decode(),
            row.bundle,
            row.bundle_sha256,
            row.requested_device,
            row.used_device,
            row.latency_ms,
            row.width,
            row.height,
            row.error,
            now_ns,
        )
        if self._database.connection.execute(_INSERT, values).rowcount == 0:
            self._compare(batch, row, now_ns)

    def _compare(self, batch: Batch, row: ResultRow, now_ns: int) -> None:
        """A repeat with another content is a second database under the same epoch: kept out, and said."""
        self.repeats += 1
        there = self._database.connection.execute(
            "SELECT part_id, captured_at_ns, verdict FROM results WHERE device = ? AND epoch = ? AND seq = ?",
            (batch.device, batch.epoch, row.seq),
        ).fetchone()
        if tuple(there) != (row.part_id, row.captured_at_ns, row.verdict):
            self.conflicts += 1
            detail = (
                f"epoch {batch.epoch} seq {row.seq}: {there['part_id']} is there, {row.part_id} came and is dropped"
            )
            event = Event(at_ns=now_ns, device=batch.device, kind="conflict", code=DatabaseError.code, detail=detail)
            self._database.add_event(event)

    def _quarantine(self, batch: Batch, unreadable: tuple[int, bytes, str], now_ns: int) -> None:
        seq, raw, reason = unreadable
        key = (batch.device, batch.epoch, seq)
        execute = self._database.connection.execute
        if execute("SELECT 1 FROM results WHERE device = ? AND epoch = ? AND seq = ?", key).fetchone():
            return
        inserted = execute("INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?, ?)", (*key, raw, reason, now_ns))
        if inserted.rowcount:
            detail = f"epoch {batch.epoch} seq {seq} is kept in quarantine: {reason}"
            event = Event(
                at_ns=now_ns, device=batch.device, kind="malformed", code=BadInputFormatError.code, detail=detail
            )
            self._database.add_event(event)

    def _advance(self, device: str, epoch: str, now_ns: int) -> int:
        connection = self._database.connection
        key = (device, epoch)
        found = connection.execute("SELECT seq FROM watermarks WHERE device = ? AND epoch = ?", key).fetchone()
        before = found["seq"] if found else 0
        seq = _contiguous(connection, key, before)
        if seq != before or found is None:
            connection.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, ?)", (*key, seq, now_ns))
        return seq


def _contiguous(connection: sqlite3.Connection, key: tuple[str, str], start: int) -> int:
    seq = start
    found = connection.execute(
        "SELECT seq FROM results WHERE device = ?1 AND epoch = ?2 AND seq > ?3 "
        "UNION SELECT seq FROM quarantine WHERE device = ?1 AND epoch = ?2 AND seq > ?3 ORDER BY seq",
        (*key, start),
    )
    for row in found:
        if row[0] != seq + 1:
            break
        seq += 1
    return seq
