"""Results as rows of a table, for the hub's database and for listings and exports of hub and device.

Columns, their types and values follow from `ResultRow`.
"""

from __future__ import annotations

import datetime
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import msgspec

from lineside_link.messages import ResultRow
from lineside_link.table_export import export_table
from lineside_runtime.errors import ConfigError

_NOT_STORED = frozenset({"near_miss", "unsure", "doubtful", "unknown"})
"""Fields that `as_stored` puts into verdict and detections, or that only the device needs."""

ROW_COLUMNS = tuple(name for name in ResultRow.__struct_fields__ if name not in _NOT_STORED)
"""Columns that come from `ResultRow`: a field that is added there is the last column."""

_RECEIVED = ROW_COLUMNS.index("error") + 1

RESULT_COLUMNS = ("device", "epoch", *ROW_COLUMNS[:_RECEIVED], "received_at_ns", *ROW_COLUMNS[_RECEIVED:])
"""Of the hub's table ``results``."""

COLUMNS = (*RESULT_COLUMNS, "frame")
"""Of a listing: the table's columns and the kept image, empty for none: its sha256 at the hub, its path in the state
folder on a device."""

_HINTS = get_type_hints(ResultRow)
_JSON_INDEXES = tuple(index for index, name in enumerate(ROW_COLUMNS) if get_origin(_HINTS[name]) is tuple)

COLUMN_TYPES: dict[str, type[int] | type[float] | type[str]] = {
    name: _HINTS[name] if _HINTS.get(name) in (int, float) else str for name in COLUMNS
} | {"received_at_ns": int}
"""``int``, ``float`` or ``str`` of each column; tuples are JSON text."""

INTEGER_COLUMNS = tuple(name for name in ROW_COLUMNS if COLUMN_TYPES[name] is int)

Row = Sequence[Any]
"""One result, in the order of `COLUMNS`."""

UNSURE = "unsure"
"""Verdict in the table of a reject because the bundle was unsure; its detections are then ``doubtful``."""

UNKNOWN = "unknown"
"""Verdict in the table of a reserved number that may have had no part. It is counted nowhere."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")


def as_stored(row: ResultRow) -> ResultRow:
    """Returns the row as the table holds it: unsure and unknown rows have their own verdict."""
    changes: dict[str, Any] = {}
    if row.unknown:
        changes = {"verdict": UNKNOWN}
    elif row.unsure:
        changes = {"verdict": UNSURE, "detections": row.detections or row.doubtful}
    return msgspec.structs.replace(row, **changes) if changes else row


_row_values = operator.attrgetter(*ROW_COLUMNS)


def values_of(device: str, epoch: str, row: ResultRow, received_at_ns: int) -> tuple[Any, ...]:
    """Returns the values of `RESULT_COLUMNS`.

    Args:
        received_at_ns: When the hub received it; 0 on the device.
    """
    values = list(_row_values(row))
    for index in _JSON_INDEXES:
        values[index] = msgspec.json.encode(values[index]).decode() if values[index] else "[]"
    return (device, epoch, *values[:_RECEIVED], received_at_ns, *values[_RECEIVED:])


_NS_MAX = 2**63 - 1024
"""The largest 64-bit integer that is a float."""


def moment(text: str, *, now: datetime.datetime | None = None) -> int:
    """Reads a time: ``2026-11-24``, ``2026-11-24T06:00``, with or without offset, or ``90m``, ``2h``, ``7d`` ago.

    Args:
        text: Without an offset it is UTC.
        now: For the times that are counted back.

    Returns:
        Unix time in ns; for a time before 1677 or after 2262, the first or last that a column of results holds.

    Raises:
        ConfigError: It is no time.
    """
    if match := _AGO.fullmatch(text):
        at = now or datetime.datetime.now(datetime.timezone.utc)
        return _nanoseconds(at.timestamp() - float(match[1]) * _UNITS[match[2]])
    try:
        read = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        expected = "such as 2026-11-24, 2026-11-24T06:00+01:00, 90m, 2h or 7d"
        raise ConfigError(f"time {text!r}", expected=expected, action="Give such a time.") from error
    return _nanoseconds((read if read.tzinfo else read.replace(tzinfo=datetime.timezone.utc)).timestamp())


def _nanoseconds(unix_s: float) -> int:
    return int(max(-_NS_MAX, min(_NS_MAX, unix_s * 1e9)))


def export_rows(rows: Iterator[Row], path: Path) -> int:
    """Writes results into a file, which appears under its name when it is whole; returns how many.

    Args:
        rows: In the order of `COLUMNS`.
        path: As in `lineside_link.table_export.export_table`, whose errors are raised too.
    """
    return export_table(rows, path, COLUMN_TYPES)
