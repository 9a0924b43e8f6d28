"""Results as rows of a table: the columns that the hub keeps, and that hub and device print and export."""

from __future__ import annotations

import csv
import datetime
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_link.messages import ResultRow
from lineside_runtime.errors import ConfigError, MissingExtraError
from lineside_runtime.files import fsync_folder

BATCH_ROWS = 10_000

RESULT_COLUMNS = (
    "device",
    "epoch",
    "seq",
    "part_id",
    "source",
    "sequence",
    "captured_at_ns",
    "verdict",
    "detections",
    "bundle",
    "bundle_sha256",
    "requested_device",
    "used_device",
    "latency_ms",
    "width",
    "height",
    "error",
    "received_at_ns",
    "recipe",
    "requested_variant",
    "used_variant",
    "views",
)
"""Of the hub's table ``results``."""

COLUMNS = (*RESULT_COLUMNS, "frame")
"""Of a listing: the table's, and the image that was kept of the part; empty for none. At the hub it is named by its
sha256, on a device by its path in the state folder."""

Row = Sequence[Any]
"""One result, in the order of `COLUMNS`."""

UNSURE = "unsure"
"""The verdict under which the table holds a reject that is a doubt, with ``doubtful`` as its detections."""

UNKNOWN = "unknown"
"""The verdict under which the table holds a number of which nobody knows whether a part had it. It counts nowhere."""

_INTEGERS = frozenset({"seq", "sequence", "captured_at_ns", "width", "height", "received_at_ns"})
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")


def as_kept(row: ResultRow) -> ResultRow:
    """Returns the row as the table holds it: an unsure one with its own verdict, and what it was unsure of."""
    if row.unknown:
        unknown: dict[str, Any] = {"verdict": UNKNOWN}
        return msgspec.structs.replace(row, **unknown)
    if not row.unsure:
        return row
    changes: dict[str, Any] = {"verdict": UNSURE, "detections": row.detections or row.doubtful}
    return msgspec.structs.replace(row, **changes)


def values_of(device: str, epoch: str, row: ResultRow, received_at_ns: int) -> tuple[Any, ...]:
    """Returns the values of `RESULT_COLUMNS`.

    Args:
        device: Which saw it.
        epoch: Of the device's database.
        row: From `as_kept`.
        received_at_ns: When the hub got it; 0 on the device.
    """
    return (
        device,
        epoch,
        row.seq,
        row.part_id,
        row.source,
        row.sequence,
        row.captured_at_ns,
        row.verdict,
        msgspec.json.encode(row.detections).decode() if row.detections else "[]",
        row.bundle,
        row.bundle_sha256,
        row.requested_device,
        row.used_device,
        row.latency_ms,
        row.width,
        row.height,
        row.error,
        received_at_ns,
        row.recipe,
        row.requested_variant,
        row.used_variant,
        msgspec.json.encode(row.views).decode() if row.views else "[]",
    )


def moment(text: str, *, now: datetime.datetime | None = None) -> int:
    """Reads a time: ``2026-11-24``, ``2026-11-24T06:00``, with or without offset, or ``90m``, ``2h``, ``7d`` ago.

    Args:
        text: Without an offset it is UTC.
        now: For the times that are counted back.

    Returns:
        Unix time in ns.

    Raises:
        ConfigError: It is no time.
    """
    if match := _AGO.fullmatch(text):
        at = now or datetime.datetime.now(datetime.timezone.utc)
        return int((at.timestamp() - float(match[1]) * _UNITS[match[2]]) * 1e9)
    try:
        read = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        expected = "such as 2026-11-24, 2026-11-24T06:00+01:00, 90m, 2h or 7d"
        raise ConfigError(f"time {text!r}", expected=expected) from error
    return int((read if read.tzinfo else read.replace(tzinfo=datetime.timezone.utc)).timestamp() * 1e9)


def export_rows(rows: Iterator[Row], path: Path) -> int:
    """Writes results into a file, which appears under its name when it is whole.

    Args:
        rows: In the order of `COLUMNS`.
        path: Ends with ``.csv`` or ``.parquet``. In CSV a text that begins like a formula gets an apostrophe before it.

    Returns:
        How many.

    Raises:
        ConfigError: The name ends otherwise.
        MissingExtraError: Parquet without pyarrow.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"export to {path.name}", expected="a name that ends with .csv or .parquet")
    temporary = path.with_name(f".{path.name}.part")
    try:
        written = writers[path.suffix](rows, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return written


def _write_csv(rows: Iterator[Row], path: Path) -> int:
    written = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for written, row in enumerate(rows, start=1):  # noqa: B007 - counts
            writer.writerow(map(_cell, row))
    return written


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _write_parquet(rows: Iterator[Row], path: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[export]'; or export to .csv."
        raise MissingExtraError("Parquet needs pyarrow", action=action) from error
    kinds = {name: pa.int64() for name in _INTEGERS} | {"latency_ms": pa.float64()}
    schema = pa.schema([pa.field(name, kinds.get(name, pa.string()), nullable=False) for name in COLUMNS])
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            written += len(batch)
    return written
