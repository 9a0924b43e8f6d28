"""The tables of the records, and every SQL statement on them.

- ``seq`` is contiguous from 1 within the database's random ``epoch``, and assigned inside the transaction.
- ``(source, sequence)`` is unique: a frame that comes twice is recorded once.
- Of each source the newest row stays whatever the limits, and the very last row: numbers go on from there.
- A device that may write little has records in packs (`packs`), and copies of the newest rows.
- A row of ``unsent`` is written in its record's transaction, after the image file, and deleted when the hub has the
  image or refuses it. An image that the archive's limits delete in between is found missing at its turn, and is
  counted.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from lineside_agent.storage.record_files import packs
from lineside_link.messages import ResultRow
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DatabaseError, DiskFullError, StoreError

if TYPE_CHECKING:
    from sqlite_utils import Database

log = logging.getLogger("lineside.store")

PAGE_BYTES = 2048
"""A commit writes whole pages. KB a record at one, ten and fifty records a commit: 13.6, 2.6 and 1.2 with pages of 4096
bytes; 9.7, 2.1 and 1.1 with 2048; 8.1, 2.0 and 1.3 with 1024."""

BOUNDED_LOG_PAGES = 150
"""Pages of the log before a checkpoint, with a limit on a day's writes: SQLite's 1000 are a megabyte at once."""

CHECKED_AT_START_BYTES = 32 << 20
"""A larger database is checked while the line runs: reading it takes longer than a start may."""

DAMAGED_MAX = 3
"""Damaged databases that are kept for analysis."""

SUFFIXES = ("", "-wal", "-shm", packs.SUFFIX)
"""Suffixes of the files of one database, and of the folder of its packs."""

EVER_NS = 2**63 - 1
"""Later than any capture."""

TABLES = frozenset({"records", "idx_records_source_sequence", "unsent", "meta"})
"""The tables and the index that `_make_tables` makes, in one transaction."""

_importing = threading.Lock()

NO_ROOM_BYTES = 256 << 10
"""With less space free, a file that cannot be opened is one that cannot be made."""


class DatabaseFacts(NamedTuple):
    """State of the database.

    Attributes:
        epoch: Its random name.
        last_seq: The last assigned number.
        sequences: The last recorded sequence of each source.
        reserved: The first number of each source that was certainly not used yet; see `reserve`.
        unsent: Images that the hub does not have.
    """

    epoch: str
    last_seq: int
    acked: int
    sequences: Mapping[str, int]
    reserved: Mapping[str, int] = {}
    unsent: int = 0


class UnsentImage(NamedTuple):
    """A kept image that the hub does not have yet.

    Attributes:
        path: Below the archive's folder.
    """

    seq: int
    path: str


def connect(path: Path, *, is_bounded: bool = False, one_thread: bool = True) -> sqlite3.Connection:
    """Opens the database for writing, with a write-ahead log and durable commits.

    Args:
        is_bounded: Whether a day's writes are limited: then no checkpoint takes much of them at once.
        one_thread: Whether only this thread will use it; otherwise the caller sees to it that one does at a time.
    """
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=one_thread)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new one
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        if is_bounded:
            connection.execute(f"PRAGMA wal_autocheckpoint={BOUNDED_LOG_PAGES}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def open_schema(path: Path, epoch: str) -> DatabaseFacts:
    """Makes the tables where they are missing."""
    with contextlib.closing(connect(path)) as connection:
        if _size(path) <= CHECKED_AT_START_BYTES:
            check(connection)
        database = None if _has_tables(connection) else tables_of(connection)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if database is not None:
                _make_tables(database, epoch)
            packs.make_table(connection, path)
        return _facts(connection)


def read_facts(path: Path) -> DatabaseFacts | None:
    """Reads the state without writing a byte, as on a disk without room for the shared index of the WAL.

    Returns:
        ``None`` if there is no database yet.
    """
    if not _size(path):
        return None
    with contextlib.closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # so its index of the WAL is in memory
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('records', 'meta')").fetchone()
        return _facts(connection) if tables[0] == 2 else None


def check(connection: sqlite3.Connection) -> None:
    """Reads the whole database."""
    problems = [text for (text,) in connection.execute("PRAGMA quick_check(1)") if text != "ok"]
    if problems:
        raise sqlite3.DatabaseError(problems[0])


def _has_tables(connection: sqlite3.Connection) -> bool:
    """Returns whether the tables are made: then nothing needs sqlite-utils, whose import takes 3 MB."""
    return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master")} >= TABLES


def tables_of(connection: sqlite3.Connection) -> Database:
    """Returns the tables behind a connection, which the caller still has to close."""
    with _importing:
        if "sqlite_utils" not in sys.modules:
            _import_alone()
    from sqlite_utils import Database

    return Database(connection)


def _import_alone() -> None:
    """Imports sqlite-utils as if pandas were not installed, unless this process has imported pandas already.

    sqlite-utils imports pandas only to know its number types; with pyarrow behind it that kept 65 MB resident.
    """
    hide = "pandas" not in sys.modules
    if hide:
        sys.modules["pandas"] = None  # type: ignore[assignment]  # Python's own mark: to import it is an ImportError
    try:
        importlib.import_module("sqlite_utils")
    finally:
        if hide:
            del sys.modules["pandas"]


def _make_tables(database: Database, epoch: str) -> None:
    columns = {"seq": int, "source": str, "sequence": int, "verdict": str, "captured_at_ns": int, "body": bytes}
    database["records"].create(columns, pk="seq", not_null=set(columns), if_not_exists=True)
    database["records"].create_index(["source", "sequence"], unique=True, if_not_exists=True)
    database["unsent"].create({"seq": int, "path": str}, pk="seq", not_null={"path"}, if_not_exists=True)
    database["meta"].create({"key": str, "value": str}, pk="key", if_not_exists=True)
    for key, value in (("epoch", epoch), ("acked", "0")):
        database.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))


_RESERVED = "reserved:"

_NEWEST = """
WITH RECURSIVE sources (name) AS (
    SELECT min(source) FROM records
    UNION ALL
    SELECT (SELECT min(source) FROM records WHERE source > name) FROM sources WHERE name IS NOT NULL
)
SELECT name, (SELECT max(sequence) FROM records WHERE source = name) FROM sources WHERE name IS NOT NULL
"""
"""The newest record of each source by steps through the index: a plain GROUP BY reads all of it."""


def _facts(connection: sqlite3.Connection) -> DatabaseFacts:
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    last_seq = connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0]
    sequences = {str(source): int(sequence) for source, sequence in connection.execute(_NEWEST)}
    reserved = {key[len(_RESERVED) :]: int(value) for key, value in meta.items() if key.startswith(_RESERVED)}
    return DatabaseFacts(
        meta["epoch"], int(last_seq), int(meta["acked"]), sequences, reserved, count_unsent(connection)
    )


def insert(
    connection: sqlite3.Connection, rows: list[ResultRow], images: Mapping[tuple[str, int], str] | None = None
) -> int:
    """Inserts rows and images (path by source and sequence) in the caller's transaction; returns the last number."""
    seq = int(connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])
    for row in rows:
        if _insert_row(connection, seq + 1, row):
            seq += 1
            if images and (path := images.get((row.source, row.sequence))) is not None:
                insert_unsent(connection, UnsentImage(seq, path))
        else:
            log.warning("frame %d of %s is recorded already", row.sequence, row.source)
    return seq


def _insert_row(connection: sqlite3.Connection, seq: int, row: ResultRow) -> bool:
    columns = "seq, source, sequence, verdict, captured_at_ns, body"  # named: a newer agent may have added others
    query = f"INSERT OR IGNORE INTO records ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
    verdict = "unknown" if row.unknown else row.verdict
    body = msgspec.json.encode(row if row.seq == 0 else msgspec.structs.replace(row, seq=0))
    return bool(connection.execute(query, (seq, row.source, row.sequence, verdict, row.captured_at_ns, body)).rowcount)


def insert_packed(
    connection: sqlite3.Connection,
    path: Path,
    rows: list[ResultRow],
    images: Mapping[tuple[str, int], str] | None = None,
) -> int:
    """As `insert`, but writes the rows as one pack; of them only the newest of each source stands in ``records``."""
    seq = int(connection.execute("SELECT coalesce(max(seq), 0) FROM records").fetchone()[0])
    numbered, seq = packs.insert(connection, path, rows, seq)
    if not numbered:
        return seq
    newest = {row.source: row for row in sorted(numbered, key=lambda row: row.sequence)}
    for row in {row.seq: row for row in (*newest.values(), numbered[-1])}.values():
        _insert_row(connection, row.seq, row)
    connection.execute(_DELETE_COPIES)
    for row in numbered:
        if images and (image := images.get((row.source, row.sequence))) is not None:
            insert_unsent(connection, UnsentImage(row.seq, image))
    return seq


def insert_unsent(connection: sqlite3.Connection, image: UnsentImage) -> None:
    """Notes the image of a new record, inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO unsent (seq, path) VALUES (?, ?)", image)


def add_unsent(connection: sqlite3.Connection, images: Iterable[UnsentImage]) -> int:
    """Notes images of records that are there already, inside the caller's transaction; returns how many are new."""
    text = "INSERT OR IGNORE INTO unsent (seq, path) SELECT ?, ?"
    return sum(connection.execute(text, image).rowcount for image in images)


def settle_unsent(connection: sqlite3.Connection, seqs: list[int]) -> int:
    """Removes images that need not be sent any more, inside the caller's transaction; returns how many."""
    return sum(connection.execute("DELETE FROM unsent WHERE seq = ?", (seq,)).rowcount for seq in seqs)


def count_unsent(connection: sqlite3.Connection, *, after: int = 0) -> int:
    """Returns how many images of later records are unsent; 0 in a database of an agent without this table."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'unsent'").fetchone()
    text = "SELECT count(*) FROM unsent WHERE seq > ?"
    return int(connection.execute(text, (after,)).fetchone()[0]) if known else 0


def first_unsent(connection: sqlite3.Connection, *, after: int, through: int) -> UnsentImage | None:
    """Returns the first unsent image of a record above ``after``, up to the hub's watermark ``through``."""
    text = "SELECT seq, path FROM unsent WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 1"
    found = connection.execute(text, (after, through)).fetchone()
    return UnsentImage(int(found[0]), str(found[1])) if found else None


def rows_of(found: Iterable[tuple[int, bytes]]) -> Iterator[ResultRow]:
    """Yields the rows of ``SELECT seq, body``, with their numbers."""
    return (msgspec.structs.replace(decode_json(body, type=ResultRow), seq=int(seq)) for seq, body in found)


def rows_after(connection: sqlite3.Connection, path: Path, after: int, limit: int) -> list[ResultRow]:
    """Returns at most ``limit`` rows above ``after``, in order of ``seq``."""
    query = "SELECT seq, body FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
    unpacked = rows_of(connection.execute(query, (after, limit)))
    return list(itertools.islice(packs.merged(connection, path, unpacked, after=after), limit))


def last_of_part(connection: sqlite3.Connection, path: Path, part_id: str) -> tuple[str, ResultRow] | None:
    """Returns the epoch and the newest record of a part, with its number; ``None`` if there is none.

    The part id is no column: the records are searched from the newest on.
    """
    name = msgspec.json.encode(part_id)
    query = "SELECT seq, body FROM records WHERE instr(body, ?) > 0 ORDER BY seq DESC"
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    unpacked = rows_of(connection.execute(query, (b'"part_id":' + name + b",",)))
    rows = packs.merged(connection, path, unpacked, newest_first=True, needle=part_id.encode())
    row = next((row for row in rows if row.part_id == part_id), None)
    return None if row is None else (str(epoch), row)


def record_of(connection: sqlite3.Connection, path: Path, source: str, sequence: int) -> tuple[str, ResultRow] | None:
    """Returns the epoch and the record of a frame, with its number; ``None`` if there is none."""
    query = "SELECT seq, body FROM records WHERE source = ? AND sequence = ?"
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    unpacked = rows_of(connection.execute(query, (source, sequence)))
    rows = packs.merged(connection, path, unpacked, newest_first=True, needle=source.encode())
    row = next((row for row in rows if (row.source, row.sequence) == (source, sequence)), None)
    return None if row is None else (str(epoch), row)


def set_watermark(connection: sqlite3.Connection, acked: int) -> None:
    """Stores the hub's watermark, inside the caller's transaction."""
    connection.execute("UPDATE meta SET value = ? WHERE key = 'acked'", (str(acked),))


def reserve(connection: sqlite3.Connection, source: str, until: int) -> None:
    """Stores, inside the caller's transaction, that a source's numbers below ``until`` may be used from now on."""
    query = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    connection.execute(query, (_RESERVED + source, str(until)))


_DELETE = f"""
DELETE FROM records WHERE seq IN (
    SELECT seq FROM records WHERE seq <= ? AND captured_at_ns < ?
    AND seq < (SELECT max(seq) FROM records)
    AND (source, sequence) NOT IN ({_NEWEST})
    ORDER BY seq LIMIT ?
)
"""


_ENDS = f"""
SELECT (SELECT seq FROM records WHERE (source, sequence) NOT IN ({_NEWEST}) ORDER BY seq LIMIT 1), max(seq) FROM records
"""
"""Numbers of the first record that limits may delete, and of the last one."""

_DELETE_COPIES = f"""
DELETE FROM records WHERE seq IN (
    SELECT records.seq FROM packs JOIN records ON records.seq BETWEEN packs.first_seq AND packs.last_seq
    WHERE records.seq < (SELECT max(seq) FROM records) AND (source, sequence) NOT IN ({_NEWEST})
)
"""
"""Rows that are in a pack, but for the newest of each source and the last one."""


def delete_oldest(connection: sqlite3.Connection, path: Path, *, through: int, before_ns: int, limit: int) -> int:
    """Deletes the oldest rows or a pack of them in a transaction of its own; returns how many."""
    pack = packs.oldest(connection)
    last = through if pack is None else min(through, pack.first_seq - 1)
    deleted = int(connection.execute(_DELETE, (last, before_ns, limit)).rowcount)
    if deleted or pack is None or pack.last_seq > through or pack.last_ns >= before_ns:
        return deleted
    packs.delete(connection, path, pack)
    return pack.last_seq - pack.first_seq + 1


def estimated_count(connection: sqlite3.Connection) -> int:
    """Returns how many records there are, from the first to the last number: to count them reads a whole index."""
    first, last = connection.execute(_ENDS).fetchone()
    pack = packs.oldest(connection)
    if last is None:
        return 0
    return int(last) - min(int(first or last), int(last) if pack is None else pack.first_seq) + 1


def used_bytes(connection: sqlite3.Connection) -> int:
    """Returns the size of the used pages and of the packs; deleted rows leave pages that are used again."""
    (size,), (pages,), (free,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count", "freelist_count")
    )
    return int(size) * (int(pages) - int(free)) + packs.used_bytes(connection)


def free_pages(connection: sqlite3.Connection) -> int:
    """Returns how many pages are free to be used again."""
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def set_aside(path: Path) -> str:
    """Renames a damaged database, and deletes the oldest ones that were set aside; returns the new name."""
    aside = f"{path.name}.damaged-{time.time_ns()}"
    for suffix in SUFFIXES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(part.with_name(aside + suffix))
    whole = (found for found in path.parent.glob(f"{path.name}.damaged-*") if found.suffix[9:].isdigit())
    for old in sorted(whole, key=lambda found: int(found.suffix[9:]))[:-DAMAGED_MAX]:
        log.warning("%s is deleted: newer damaged databases are kept", old.name)
        for suffix in SUFFIXES[:-1]:
            old.with_name(old.name + suffix).unlink(missing_ok=True)
        shutil.rmtree(old.with_name(old.name + packs.SUFFIX), ignore_errors=True)
    return aside


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens the database for reading."""
    try:
        with contextlib.closing(connect(path)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise DatabaseError(f"{path}: {error}", action="It is set aside at the next write.") from error


def is_full(error: sqlite3.DatabaseError, path: Path) -> bool:
    """Returns whether an error means that there is no room."""
    if "unable to open" in str(error):
        found = os.statvfs(path.parent)
        return found.f_bavail * found.f_frsize < NO_ROOM_BYTES
    return "disk is full" in str(error) or "disk I/O error" in str(error)


def as_store_error(error: sqlite3.DatabaseError, path: Path) -> StoreError:
    """Returns this project's error for one of SQLite."""
    if is_full(error, path):
        return DiskFullError(f"no room to write {path} ({error})")
    return DatabaseError(f"{path}: {error}", action="See who else holds it and whether it may be written.")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
