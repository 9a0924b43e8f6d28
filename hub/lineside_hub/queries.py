"""Asking the results: by part, device, bundle and time, and out into CSV or Parquet, row by row.

The same statement serves SQLite and PostgreSQL; only a batch of rows is in memory at a time.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
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
from lineside_hub.frames.place import frame_place
from lineside_hub.results import COLUMNS as RESULT_COLUMNS
from lineside_hub.results import UNKNOWN
from lineside_runtime.errors import ConfigError, MissingExtraError
from lineside_runtime.files import fsync_folder, write_atomic

BATCH_ROWS = 10_000

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")

_INTEGERS = frozenset({"seq", "sequence", "captured_at_ns", "width", "height", "received_at_ns"})

COLUMNS = (*RESULT_COLUMNS, "frame")
"""Of what is found: the table's, and the sha256 of the frame that was kept of it; empty for none."""

Row = Sequence[Any]
"""One result, in the order of `COLUMNS`."""


_ORDER = ("captured_at_ns", "device", "epoch", "seq")
_WITH_FRAMES = "LEFT JOIN frames f ON f.device = r.device AND f.epoch = r.epoch AND f.seq = r.seq"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which results; what is empty or ``None`` restricts nothing.

    Attributes:
        part_id: Of the part.
        device: Which saw it.
        bundle: That judged: ``name@version``, or a name for all of its versions.
        since_ns: Captured then or later, Unix time in ns.
        until_ns: Captured before.
        limit: So many of them at most, the newest.
        with_frame: Only those of which a frame is here.
        unknown: Also numbers of which nobody knows whether a part had them, as after a power cut.
    """

    part_id: str = ""
    device: str = ""
    bundle: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    limit: int | None = None
    with_frame: bool = False
    unknown: bool = False

    def sql(self) -> tuple[str, dict[str, object]]:
        """Returns the statement and its named parameters; oldest first."""
        conditions = {
            "r.part_id = :part_id": self.part_id,
            "r.device = :device": self.device,
            "r.bundle = :bundle" if "@" in self.bundle else "r.bundle LIKE :bundle_any ESCAPE '!'": self.bundle,
            "r.captured_at_ns >= :since_ns": self.since_ns,
            "r.captured_at_ns < :until_ns": self.until_ns,
            "f.sha256 IS NOT NULL": "yes" if self.with_frame else "",
            f"r.verdict <> '{UNKNOWN}'": "" if self.unknown else "yes",
        }
        used = [text for text, value in conditions.items() if value not in ("", None)]
        where = f" WHERE {' AND '.join(used)}" if used else ""
        columns = ", ".join(f"r.{name}" for name in RESULT_COLUMNS)
        text = f"SELECT {columns}, coalesce(f.sha256, '') AS frame FROM results r {_WITH_FRAMES}{where}"
        if self.limit is not None:
            newest = ", ".join(f"r.{name} DESC" for name in _ORDER)
            text = f"SELECT * FROM ({text} ORDER BY {newest} LIMIT :limit) AS r"
        text += f" ORDER BY {', '.join(f'r.{name}' for name in _ORDER)}"
        name = re.sub(r"([!%_])", r"!\1", self.bundle)
        parameters = {**msgspec.structs.asdict(self), "bundle_any": f"{name}@%"}
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
    """Returns how many results of each device the hub has, numbers of which nothing is known left out.

    Args:
        config: The hub's.

    Raises:
        DatabaseError: They can't be read.
    """
    text = f"SELECT device, count(*) FROM results WHERE verdict <> '{UNKNOWN}' GROUP BY device"
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
        path: Ends with ``.csv`` or ``.parquet``. In CSV a text that begins like a formula gets an apostrophe before it.

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


class FramesWritten(msgspec.Struct, frozen=True, kw_only=True):
    """What an export of frames wrote.

    Attributes:
        folder: Where they are, each under the name that stands in the column ``frame``.
        frames: How many; those that several results share are there once.
        missing: How many a row speaks of and are gone: removed meanwhile, or restored without them.
    """

    folder: Path
    frames: int
    missing: int


def export_frames(config: HubConfig, query: Query, folder: Path) -> FramesWritten:
    """Writes the frames of results into a folder, as ``<sha256>.png``.

    Args:
        config: The hub's.
        query: Which results.
        folder: Is made if need be; frames that are there already are left alone.

    Raises:
        DatabaseError: Results or frames can't be read.
        DiskFullError: There is no room.
    """
    place = frame_place(config)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict.fromkeys(row[-1] for row in results(config, msgspec.structs.replace(query, with_frame=True)))
    missing = 0
    for sha256 in wanted:
        path = folder / f"{sha256}.png"
        if path.exists():
            continue
        data = place.read(sha256)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            missing += 1
        else:
            write_atomic(path, data)
    return FramesWritten(folder=folder, frames=len(wanted) - missing, missing=missing)


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
