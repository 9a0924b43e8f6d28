"""Asking the results: by part, device, bundle and time, and out into CSV or Parquet, row by row.

The same statement serves SQLite and PostgreSQL; only a batch of rows is in memory at a time.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from lineside_hub.config import HubConfig
from lineside_hub.database import Database, mapped_errors
from lineside_hub.results import COLUMNS
from lineside_runtime.errors import ConfigError, MissingExtraError
from lineside_runtime.files import fsync_folder

BATCH_ROWS = 10_000

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")

_INTEGERS = frozenset({"seq", "sequence", "captured_at_ns", "width", "height", "received_at_ns"})

Row = Sequence[Any]
"""One result, in the order of `lineside_hub.results.COLUMNS`."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which results; what is empty or ``None`` restricts nothing.

    Attributes:
        part_id: Of the part.
        device: Which saw it.
        bundle: That judged: ``name@version``, or a name for all of its versions.
        since_ns: Captured then or later, Unix time in ns.
        until_ns: Captured before.
        limit: So many of them at most, the newest.
    """

    part_id: str = ""
    device: str = ""
    bundle: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None

    def sql(self) -> tuple[str, dict[str, object]]:
        """Returns the statement and its named parameters; oldest first."""
        conditions = {
            "part_id = :part_id": self.part_id,
            "device = :device": self.device,
            "bundle = :bundle" if "@" in self.bundle else "bundle LIKE :bundle_any ESCAPE '!'": self.bundle,
            "captured_at_ns >= :since_ns": self.since_ns,
            "captured_at_ns < :until_ns": self.until_ns,
        }
        used = [text for text, value in conditions.items() if value not in ("", None)]
        name = re.sub(r"([!%_])", r"!\1", self.bundle)
        parameters = {**msgspec.structs.asdict(self), "bundle_any": f"{name}@%"}
        where = f" WHERE {' AND '.join(used)}" if used else ""
        key = "captured_at_ns, device, epoch, seq"
        text = f"SELECT {', '.join(COLUMNS)} FROM results{where}"
        if self.limit is not None:
            newest = ", ".join(f"{column} DESC" for column in key.split(", "))
            text = f"SELECT * FROM ({text} ORDER BY {newest} LIMIT :limit) AS newest"
        text += f" ORDER BY {key}"
        return text, {name: value for name, value in parameters.items() if f":{name}" in text}


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


def results(config: HubConfig, query: Query) -> Iterator[Row]:
    """Yields the results of a hub, wherever it keeps them, oldest first.

    Args:
        config: The hub's.
        query: Which.

    Raises:
        DatabaseError: They can't be read.
    """
    text, parameters = query.sql()
    if config.results.url:
        from lineside_hub.postgres import select

        yield from select(config.results.url, text, parameters)
        return
    path = Path(config.folder)
    with closing(Database.open(path)) as database, mapped_errors(database.path):
        cursor: sqlite3.Cursor = database.connection.execute(text, parameters)
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield from (tuple(row) for row in rows)


def count_by_device(config: HubConfig) -> dict[str, int]:
    """Returns how many results of each device the hub has.

    Args:
        config: The hub's.

    Raises:
        DatabaseError: They can't be read.
    """
    text = "SELECT device, count(*) FROM results GROUP BY device"
    if config.results.url:
        from lineside_hub.postgres import select

        return {row[0]: int(row[1]) for row in select(config.results.url, text, {})}
    with closing(Database.open(Path(config.folder))) as database:
        return {row[0]: int(row[1]) for row in database.query(text)}


def export(config: HubConfig, query: Query, path: Path) -> int:
    """Writes results into a file, which appears under its name when it is whole.

    Args:
        config: The hub's.
        query: Which.
        path: Ends with ``.csv`` or ``.parquet``.

    Returns:
        How many.

    Raises:
        ConfigError: The name ends otherwise.
        MissingExtraError: Parquet without pyarrow.
        DatabaseError: The results can't be read.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise ConfigError(f"export to {path.name}", expected="a name that ends with .csv or .parquet")
    temporary = path.with_name(f".{path.name}.part")
    try:
        written = writers[path.suffix](results(config, query), temporary)
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
            writer.writerow(row)
    return written


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
