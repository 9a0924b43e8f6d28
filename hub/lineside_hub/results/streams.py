"""What devices send in numbered rows, each kind to a table of its own: results and interactions.

Reads their messages. An unreadable row does not affect the others of its message.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from lineside_link.interaction_table import INTERACTION_ROW_COLUMNS, INTERACTION_TYPES, interaction_values
from lineside_link.messages import VERSION, InteractionRow, InteractionRows, ResultRow, Results
from lineside_link.result_table import (
    COLUMN_TYPES,
    INTEGER_COLUMNS,
    RESULT_COLUMNS,
    ROW_COLUMNS,
    UNKNOWN,
    UNSURE,
    as_stored,
    values_of,
)
from lineside_link.table_export import ColumnTypes
from lineside_runtime.decoding import JsonDecoder, decode_json
from lineside_runtime.errors import BadInputFormatError

StreamName = Literal["results", "interactions"]

_INT64 = 2**63

RowT = TypeVar("RowT")


class _ResultRow(ResultRow, frozen=True, kw_only=True, gc=False):
    """A row without garbage collection: thousands wait for a commit, and they have no reference cycles."""


class _InteractionRow(InteractionRow, frozen=True, kw_only=True, gc=False):
    """As `_ResultRow`."""


class _Batch(msgspec.Struct, Generic[RowT], frozen=True):
    """A message, decoded as a whole; the usual case."""

    epoch: str
    rows: list[RowT]
    v: int = VERSION
    after: int = 0
    through: int = -1


class _Envelope(msgspec.Struct, frozen=True):
    """A message with undecoded rows, so that one bad row does not affect the others."""

    epoch: str
    rows: tuple[msgspec.Raw, ...]
    v: int = VERSION
    after: int = 0
    through: int = -1


class _Seq(msgspec.Struct, frozen=True):
    seq: int


@dataclasses.dataclass(frozen=True, slots=True)
class RowStream:
    """One kind of rows.

    Attributes:
        name: Of the stream and of its table.
        quarantine: Table of unreadable rows.
        message: Class of the message, for errors.
        decode: Reads a whole message.
        stored: Returns a row as the table holds it.
        columns: Of the table, in the order of ``values``.
        values: Returns the values of a row from device, epoch, row and time of receipt.
        row_types: Columns that come from the row, and their types.
        content: Columns in which a repeat must agree with the stored row.
        comparable: Makes values of ``content`` comparable with those that an older hub stored.
    """

    name: StreamName
    quarantine: str
    watermarks: str
    message: str
    row: type[ResultRow] | type[InteractionRow]
    decode: Callable[[bytes], Any]
    stored: Callable[[Any], Any]
    columns: Sequence[str]
    values: Callable[[str, str, Any, int], tuple[Any, ...]]
    row_types: ColumnTypes
    content: tuple[str, ...]
    comparable: Callable[[tuple[object, ...]], tuple[object, ...]]

    def in_range(self, row: Any) -> bool:
        """Whether the integers of a row fit into the table, and its ``seq`` is one."""
        values = _INTEGERS[self.name](row)
        return bool(row.seq >= 1 and min(values) >= -_INT64 and max(values) < _INT64)


def _as_older_hub(content: tuple[object, ...]) -> tuple[object, ...]:
    """Content as an older hub stored it: unsure rows as rejects and unknown ones as faults."""
    before = {UNSURE: "reject", UNKNOWN: "fault"}
    return (*content[:2], before.get(str(content[2]), content[2]))


RESULTS = RowStream(
    name="results",
    quarantine="quarantine",
    watermarks="watermarks",
    message=Results.__name__,
    row=ResultRow,
    decode=JsonDecoder(_Batch[_ResultRow]).decode,
    stored=as_stored,
    columns=RESULT_COLUMNS,
    values=values_of,
    row_types={name: COLUMN_TYPES[name] for name in ROW_COLUMNS},
    content=("part_id", "captured_at_ns", "verdict"),
    comparable=_as_older_hub,
)

INTERACTIONS = RowStream(
    name="interactions",
    quarantine="interaction_quarantine",
    watermarks="interaction_watermarks",
    message=InteractionRows.__name__,
    row=InteractionRow,
    decode=JsonDecoder(_Batch[_InteractionRow]).decode,
    stored=lambda row: row,
    columns=("device", "epoch", *INTERACTION_ROW_COLUMNS, "received_at_ns"),
    values=interaction_values,
    row_types=INTERACTION_TYPES,
    content=("item_id", "user_id", "at_ns"),
    comparable=lambda content: content,
)

STREAMS: dict[StreamName, RowStream] = {stream.name: stream for stream in (RESULTS, INTERACTIONS)}

_INTEGERS = {
    "results": operator.attrgetter(*INTEGER_COLUMNS),
    "interactions": operator.attrgetter(*(name for name, kind in INTERACTION_TYPES.items() if kind is int)),
}


class RowBatch(msgspec.Struct, frozen=True):
    """A decoded message of rows.

    Attributes:
        unreadable: ``(seq, raw, reason)`` of each unreadable row.
        after: See `lineside_link.messages.Results`.
        through: See `lineside_link.messages.Results`.
        size: Of the message, in bytes.
    """

    device: str
    epoch: str
    rows: list[Any]
    unreadable: list[tuple[int, bytes, str]]
    after: int = 0
    through: int = -1
    size: int = 0
    stream: StreamName = "results"


def read_batch(device: str, payload: bytes, stream: RowStream = RESULTS) -> RowBatch:
    """Reads a message of rows.

    Args:
        device: Whose topic it came on.
        payload: `lineside_link.messages.Results` or `lineside_link.messages.InteractionRows` as JSON.
    """
    try:
        whole = stream.decode(payload)
    except msgspec.DecodeError:
        return _read_rows(device, payload, stream)
    _check_envelope(device, whole, stream)
    if not all(map(stream.in_range, whole.rows)):
        return _read_rows(device, payload, stream)
    rows = list(map(stream.stored, whole.rows))
    return RowBatch(device, whole.epoch, rows, [], *_span(whole), len(payload), stream.name)


def _read_rows(device: str, payload: bytes, stream: RowStream) -> RowBatch:
    try:
        envelope = decode_json(payload, type=_Envelope)
    except msgspec.DecodeError as error:
        raise BadInputFormatError(f"{stream.message} message of {device}: {error}", action="") from error
    _check_envelope(device, envelope, stream)
    batch = RowBatch(device, envelope.epoch, [], [], *_span(envelope), len(payload), stream.name)
    for raw in envelope.rows:
        _read_row(batch, bytes(raw), stream)
    return batch


def _span(message: Any) -> tuple[int, int]:
    """Returns ``after`` and ``through``; values that make no sense are ignored."""
    return (message.after, message.through) if 0 <= message.after <= message.through < _INT64 else (0, -1)


def _check_envelope(device: str, message: Any, stream: RowStream) -> None:
    if abs(message.v - VERSION) > 1 or not 0 < len(message.epoch) <= 64:
        said = f"{stream.name} of {device}: version {message.v}, epoch {message.epoch!r}"
        raise BadInputFormatError(said, action="")


def _read_row(batch: RowBatch, raw: bytes, stream: RowStream) -> None:
    try:
        row = decode_json(raw, type=stream.row)
        if not stream.in_range(row):
            raise BadInputFormatError("an integer is out of range", expected="64 bits, and seq from 1", action="")
        batch.rows.append(stream.stored(row))
    except (msgspec.DecodeError, BadInputFormatError) as error:
        batch.unreadable.append((_seq_of(batch.device, raw, stream), raw, str(error)))


def _seq_of(device: str, raw: bytes, stream: RowStream) -> int:
    try:
        seq = decode_json(raw, type=_Seq).seq
    except msgspec.DecodeError as error:
        raise BadInputFormatError(f"{stream.name} of {device}: a row without seq: {error}", action="") from error
    if not 1 <= seq < _INT64:
        raise BadInputFormatError(f"{stream.name} of {device}: seq out of range", actual=seq, action="")
    return seq
