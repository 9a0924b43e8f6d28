"""Cache store in a SQLite file that the processes of one device share.

Invariants:

- Whatever happens to the file, a prediction is never held up for longer than one look-up, and never wrong.
- A damaged file is moved aside as ``NAME.damaged`` and a new one begun; another program's database is left alone.
- The file never grows beyond its budget (``max_page_count``); the oldest used results make room.
- A process that is killed while it writes leaves the file as it was before or after (write-ahead log).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from lineside_runtime.cache.config import VALUE_BYTES_MAX
from lineside_runtime.cache.key import VERSION
from lineside_runtime.cache.level import CacheStore
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import file_lock

APPLICATION_ID = 0x4C534331
"""Stands in the file's header (``LSC1``), so that no other program's database is ever touched."""

READ_TIMEOUT_S = 0.005
WRITE_TIMEOUT_S = 2.0
TOUCH_S = 60
"""A result counts as used again when its last use is so long ago: reading must not write each time."""

HEADER_BYTES = 100
WAL_BYTES = 4 << 20
PAGES_KEPT_FREE = 16
EVICT_AT_ONCE = 4
PARTS_IN_FILE = 8

# https://www.sqlite.org/rescode.html
_BUSY, _READONLY, _IOERR, _CORRUPT, _FULL, _NOTADB = 5, 8, 10, 11, 13, 26
_TEXTS = {  # Python 3.10 doesn't tell the code
    "malformed": _CORRUPT,
    "not a database": _NOTADB,
    "disk is full": _FULL,
    "readonly": _READONLY,
    "disk I/O": _IOERR,
    "locked": _BUSY,
}

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entry"
    " (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used_s INTEGER NOT NULL, expires_s REAL, value BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS entry_used ON entry (used_s)",
    "CREATE INDEX IF NOT EXISTS entry_expires ON entry (expires_s) WHERE expires_s IS NOT NULL",
)
_GET = "SELECT value FROM entry WHERE key = ? AND (expires_s IS NULL OR expires_s > ?) AND length(value) <= ?"
_PUT = "INSERT OR REPLACE INTO entry (key, used_s, expires_s, value) VALUES (?, ?, ?, ?)"
_TOUCH = "UPDATE entry SET used_s = ? WHERE key = ? AND used_s < ?"
_EXPIRE = "DELETE FROM entry WHERE expires_s <= ?"
_EVICT = "DELETE FROM entry WHERE id IN (SELECT id FROM entry ORDER BY used_s, id LIMIT ?)"


class SqliteStore(CacheStore):
    """A SQLite file in WAL mode."""

    name = "sqlite"
    faults = (sqlite3.Error, OSError)

    def __init__(
        self, path: Path, budget_bytes: int, *, ttl_s: float | None, wall_s: Callable[[], float] = time.time
    ) -> None:
        """Touches nothing yet.

        Args:
            budget_bytes: Size that it never passes.
            ttl_s: Age at which a result is forgotten.
            wall_s: Unix time, which all processes share.
        """
        self.path = path.absolute()
        self.value_bytes_max = min(VALUE_BYTES_MAX, budget_bytes // 4)
        self._budget_bytes = budget_bytes
        self._ttl_s = ttl_s
        self._wall_s = wall_s
        self._writer: sqlite3.Connection | None = None
        self._readers = _Readers(self.path)
        self._inode = 0
        self._damaged = False
        self._page_bytes = 4096
        self._used_bytes = 0

    def open(self) -> None:
        """Opens or makes the file; moves a damaged one aside.

        Raises:
            ConfigError: It is another program's database.
        """
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self._damaged:
                self._move_aside()
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                self.close()
                if not self._is_damage(error):
                    raise
                self.report(error)
                self._move_aside()
                self._connect()
        self._readers = _Readers(self.path)

    def read(self, key: bytes) -> bytes | None:
        """Returns the value, or ``None`` if there is none or its time is over."""
        try:
            row = self._readers.one(_GET, key, self._wall_s(), self.value_bytes_max)
        except sqlite3.DatabaseError as error:
            self._is_damage(error)
            raise
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def write(self, values: Sequence[tuple[bytes, bytes]], used: Sequence[bytes]) -> int:
        """Writes the values, in transactions each of which needs a small part of the file's room."""
        if self._writer is None:
            return len(values)
        now_s = self._wall_s()
        try:
            with _transaction(self._writer) as writer:
                self.expired += writer.execute(_EXPIRE, (now_s,)).rowcount
                writer.executemany(_TOUCH, [(int(now_s), key, int(now_s) - TOUCH_S) for key in used])
            for part in self._parts(values):
                self._write_part(self._writer, part, now_s)
        except sqlite3.DatabaseError as error:
            self._is_damage(error)
            raise
        self._used_bytes = self._pages_used(self._writer) * self._page_bytes
        return 0

    def _write_part(self, writer: sqlite3.Connection, values: Sequence[tuple[bytes, bytes]], now_s: float) -> None:
        expires_s = None if self._ttl_s is None else now_s + self._ttl_s
        with _transaction(writer):
            self._make_room(writer, sum(self._pages(value) for _, value in values))
            writer.executemany(_PUT, [(key, int(now_s), expires_s, value) for key, value in values])

    def _parts(self, values: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
        part: list[tuple[bytes, bytes]] = []
        pages = 0
        for key, value in values:
            needed = self._pages(value)
            if part and pages + needed > self._pages_max // PARTS_IN_FILE:
                yield part
                part, pages = [], 0
            part.append((key, value))
            pages += needed
        if part:
            yield part

    def tend(self) -> None:
        """Opens the file again if another process has replaced it, or it was removed."""
        if _inode(self.path) != self._inode:
            self.open()

    def refuses_writes_only(self, error: Exception) -> bool:
        """A full disk, a file that has become read-only, or another process that writes for long."""
        return _code(error) in (_FULL, _READONLY, _IOERR, _BUSY)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Bytes of the pages in use; the number of entries would have to be counted each time."""
        return None, self._used_bytes

    def close(self) -> None:
        """Closes all connections."""
        self._readers.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _exclusive(self) -> AbstractContextManager[None]:
        """Returns a lock against other processes that would open or move the file."""
        return file_lock(self.path.with_name(f"{self.path.name}.lock"), mode=0o600)

    def _connect(self) -> None:
        self._inode = _inode(self.path)
        there_bytes = self.path.stat().st_size if self.path.exists() else 0
        if 0 < there_bytes < HEADER_BYTES:  # SQLite would take it for an empty database and write over it
            raise sqlite3.DatabaseError(f"file is not a database: {there_bytes} bytes")
        fresh = not there_bytes
        self._writer = writer = sqlite3.connect(
            self.path, timeout=WRITE_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._inode = _inode(self.path)
        if fresh:
            self.path.chmod(0o600)
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._refuse_foreign(writer)
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = NORMAL")
        writer.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        with _transaction(writer):
            if _pragma(writer, "user_version") != VERSION:
                writer.execute("DROP TABLE IF EXISTS entry")
            for statement in _SCHEMA:
                writer.execute(statement)
            writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            writer.execute(f"PRAGMA user_version = {VERSION}")
        self._page_bytes = _pragma(writer, "page_size")
        self._shrink(writer)
        self._used_bytes = self._pages_used(writer) * self._page_bytes

    def _refuse_foreign(self, writer: sqlite3.Connection) -> None:
        owner = _pragma(writer, "application_id")
        tables = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner != APPLICATION_ID and (owner or tables):
            raise ConfigError(
                "cache.sqlite",
                expected="a new file, or one that lineside has made",
                actual=f"{self.path}, another program's database",
            )

    def _shrink(self, writer: sqlite3.Connection) -> None:
        """Brings a file that a larger budget allowed down to this one, and holds it there."""
        with _transaction(writer):
            self._make_room(writer, 0)
        if _pragma(writer, "page_count") > self._pages_max:
            writer.executescript("PRAGMA incremental_vacuum")  # `execute` would give back a single page
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        writer.execute(f"PRAGMA max_page_count = {self._pages_max}")

    @property
    def _pages_max(self) -> int:
        return self._budget_bytes // self._page_bytes

    def _pages(self, value: bytes) -> int:
        return len(value) // (self._page_bytes - 4) + 1  # overflow pages, and at most one for the row's beginning

    def _pages_used(self, writer: sqlite3.Connection) -> int:
        return _pragma(writer, "page_count") - _pragma(writer, "freelist_count")

    def _make_room(self, writer: sqlite3.Connection, pages: int) -> None:
        while self._pages_used(writer) + pages + PAGES_KEPT_FREE > self._pages_max:
            gone = writer.execute(_EVICT, (EVICT_AT_ONCE,)).rowcount
            if not gone:
                return
            self.evictions += gone

    def _is_damage(self, error: Exception) -> bool:
        if _code(error) in (_CORRUPT, _NOTADB):
            self._damaged = True
        return self._damaged

    def _move_aside(self) -> None:
        if _inode(self.path) == self._inode:  # else another process has done it already
            with contextlib.suppress(FileNotFoundError):
                self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._damaged = False


class _Readers:
    """Connections for reading, one a thread that reads at the same time."""

    def __init__(self, path: Path) -> None:
        self._address = f"{path.as_uri()}?mode=ro"
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    def one(self, statement: str, *values: bytes | float) -> tuple[object] | None:
        """Returns the first row that a statement gives."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = sqlite3.connect(
                self._address, uri=True, timeout=READ_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            row: tuple[object] | None = connection.execute(statement, values).fetchone()
        except sqlite3.Error:
            connection.close()
            raise
        self._idle.append(connection)
        if self._closed:
            self.close()
        return row

    def close(self) -> None:
        """Closes the idle ones now, and each that is in use when it comes back."""
        self._closed = True
        while self._idle:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _code(error: Exception) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    return next((number for text, number in _TEXTS.items() if text in str(error)), 0)
