"""Export of rows to CSV, Parquet or JSON lines, for results and interactions of hub and device."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lineside_runtime.errors import ConfigError, DiskFullError, MissingExtraError
from lineside_runtime.files import fsync_folder, is_disk_full

BATCH_ROWS = 10_000

ColumnTypes = Mapping[str, type[int] | type[float] | type[str]]
"""Names and types of the columns, in their order."""

TableRow = Sequence[Any]
"""The values of one row, in the order of the columns; ``None`` for none."""


def export_table(rows: Iterator[TableRow], path: Path, columns: ColumnTypes, *, escape_formulas: bool = True) -> int:
    """Writes rows into a file, which appears under its name when it is whole; returns how many.

    Args:
        path: Ends with ``.csv``, ``.parquet`` or ``.jsonl``.
        escape_formulas: In CSV a text that begins like a formula gets an apostrophe before it.

    Raises:
        ConfigError: The name ends otherwise.
        DiskFullError: There is no room.
    """

    def as_csv(rows: Iterator[TableRow], path: Path, columns: ColumnTypes) -> int:
        return _write_csv(rows, path, columns, _cell if escape_formulas else _unchanged)

    writers = {".csv": as_csv, ".parquet": _write_parquet, ".jsonl": _write_json_lines}
    if path.suffix not in writers:
        raise ConfigError(
            f"export to {path.name}",
            expected="a name that ends with .csv, .parquet or .jsonl",
            action="Give another name: its end chooses the format.",
        )
    temporary = path.with_name(f".{path.name}.part")
    try:
        written = writers[path.suffix](rows, temporary, columns)
        temporary.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(path=str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return written


def _write_csv(rows: Iterator[TableRow], path: Path, columns: ColumnTypes, as_cell: Callable[[object], object]) -> int:
    written = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for written, row in enumerate(rows, start=1):  # noqa: B007 - counts
            writer.writerow(map(as_cell, row))
    return written


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _unchanged(value: object) -> object:
    return value


def _write_json_lines(rows: Iterator[TableRow], path: Path, columns: ColumnTypes) -> int:
    encoder = msgspec.json.Encoder()
    written = 0
    with path.open("wb") as file:
        for written, row in enumerate(rows, start=1):  # noqa: B007 - counts
            file.write(encoder.encode(dict(zip(columns, row, strict=True))) + b"\n")
    return written


def _write_parquet(rows: Iterator[TableRow], path: Path, columns: ColumnTypes) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[export]'; or export to .csv."
        raise MissingExtraError("Parquet needs pyarrow", action=action) from error
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in columns.items()])
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            arrays = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            written += len(batch)
    return written
