"""Packs: compressed files of up to some thousand records each, for a device that may write little.

A record in the database costs its pages, twice: in the write-ahead log and at the checkpoint. In a pack it costs a
twentieth of that, since the fields of many records are compressed together, column by column. A pack is written whole
and before its row in the table ``packs``, in whose transaction `insert` also puts the newest row of each source into
``records``: numbers go on from there, also for an agent that knows no packs.

A pack is msgpack within xz: a dictionary of columns in the order of the records. Those of ``seq``, ``captured_at_ns``
and ``sequence`` hold differences; one of boxes holds the count of each record, the types, and five columns of numbers.
"""

from __future__ import annotations

import array
import functools
import heapq
import itertools
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lineside_link.messages import ResultRow
from lineside_runtime.errors import DiskFullError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.store")

SUFFIX = "-packs"
"""Of the folder beside the database."""

RECORDS_MAX = 4000
"""Records of a pack at most: about 1.5 KB of memory each until it is written."""

RECORDS_LEAST = 200
"""Records of a pack at least: each has a file."""

DICTIONARY_BYTES = 1 << 20
"""Memory of the compression: about six times this, for some tenths of a second."""

_DIFFERENCES = ("seq", "captured_at_ns", "sequence")
_BOXES = ("detections", "doubtful")
_REPEATS_IN = 2
"""Newest packs in which a record is looked for that comes twice: a kill repeats what its last commit had written."""


class Pack(NamedTuple):
    """A row of the table ``packs``; numbers and captures are those of its first and last record."""

    first_seq: int
    last_seq: int
    first_ns: int
    last_ns: int


def encode(rows: Sequence[ResultRow]) -> bytes:
    """Packs rows; no value is rounded."""
    import lzma  # not needed by an agent without a limit on writes

    fields = [msgspec.to_builtins(row) for row in rows]
    columns = {name: [row[name] for row in fields] for name in ResultRow.__struct_fields__}
    for name in _DIFFERENCES:
        columns[name] = [one - before for before, one in itertools.pairwise([0, *columns[name]])]
    for name in _BOXES:
        columns[name] = _box_columns(columns[name])
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": DICTIONARY_BYTES}]
    return lzma.compress(msgspec.msgpack.encode(columns), lzma.FORMAT_XZ, filters=filters)


def decode(data: bytes, *, needle: bytes = b"") -> list[ResultRow]:
    """Returns the rows of a pack; none if its content does not have ``needle`` anywhere.

    Raises:
        ValueError: It is damaged.
    """
    import lzma

    try:
        content = lzma.decompress(data, memlimit=64 << 20)
        if needle not in content:
            return []
        columns = msgspec.msgpack.decode(content)
        for name in _DIFFERENCES:
            columns[name] = list(itertools.accumulate(columns[name]))
        for name in _BOXES:
            columns[name] = _boxes(*columns[name])
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return [msgspec.convert(row, ResultRow) for row in rows]
    except (lzma.LZMAError, msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _box_columns(column: list[Any]) -> list[Any]:
    boxes = [box for of_row in column for box in of_row]
    counts, types = [len(of_row) for of_row in column], [box[0] for box in boxes]
    return [counts, types, *(_number_column([box[place] for box in boxes]) for place in range(1, 6))]


def _number_column(numbers: list[float]) -> tuple[str, bytes]:
    """In four bytes each where that is exact, as for what a network has computed."""
    short = array.array("f", numbers)
    return ("f", short.tobytes()) if list(short) == numbers else ("d", array.array("d", numbers).tobytes())


def _boxes(counts: list[int], types: list[str], *numbers: tuple[str, bytes]) -> list[Any]:
    columns = [array.array(code, data) for code, data in numbers]
    boxes = zip(types, *columns, strict=True)
    return [list(itertools.islice(boxes, count)) for count in counts]


def make_table(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the table where it is missing, and deletes files that no row names, as a kill can leave."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS packs (first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, "
        "first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, bytes INTEGER NOT NULL)"
    )
    named = {_file(path, pack).name for pack in _packs(connection)}
    for found in path.with_name(path.name + SUFFIX).glob("*"):
        if found.name not in named:
            found.unlink()


def insert(
    connection: sqlite3.Connection, path: Path, rows: list[ResultRow], last_seq: int
) -> tuple[list[ResultRow], int]:
    """Writes rows as a pack, in the caller's transaction, and numbers them from ``last_seq`` on.

    Returns:
        The rows that were not recorded before, and the last number.

    Raises:
        sqlite3.OperationalError: The pack can't be written.
    """
    known = recorded(connection, path, rows)
    numbered: list[ResultRow] = []
    for row in rows:
        if (row.source, row.sequence) in known:
            log.warning("frame %d of %s is recorded already", row.sequence, row.source)
            continue
        known.add((row.source, row.sequence))
        last_seq += 1
        numbered.append(msgspec.structs.replace(row, seq=last_seq))
    if not numbered:
        return [], last_seq
    captures = [row.captured_at_ns for row in numbered]
    pack = Pack(numbered[0].seq, last_seq, min(captures), max(captures))
    data = encode(numbered)
    _write(path, pack, data)
    connection.execute("INSERT INTO packs VALUES (?, ?, ?, ?, ?)", (*pack, len(data)))
    return numbered, last_seq


def _write(path: Path, pack: Pack, data: bytes) -> None:
    place = _file(path, pack)
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(place, data, mode=0o600)
    except DiskFullError as error:
        raise sqlite3.OperationalError("database or disk is full") from error
    except OSError as error:
        raise sqlite3.OperationalError(f"disk I/O error: {error}") from error


def recorded(connection: sqlite3.Connection, path: Path, rows: Iterable[ResultRow]) -> set[tuple[str, int]]:
    """Returns which rows the database or one of its newest packs has, as (source, sequence)."""
    query = "SELECT 1 FROM records WHERE source = ? AND sequence = ?"
    newest: dict[str, int] = {}
    found: set[tuple[str, int]] = set()
    packed: set[tuple[str, int]] | None = None
    for row in rows:
        key = (row.source, row.sequence)
        if row.source not in newest:
            (last,) = connection.execute("SELECT max(sequence) FROM records WHERE source = ?", key[:1]).fetchone()
            newest[row.source] = -1 if last is None else last
        if row.sequence > newest[row.source]:
            continue
        if packed is None:
            last_packs = itertools.islice(_packs(connection, newest_first=True), _REPEATS_IN)
            packed = {(one.source, one.sequence) for pack in last_packs for one in _read(path, pack)}
        if key in packed or connection.execute(query, key).fetchone():
            found.add(key)
    return found


def merged(
    connection: sqlite3.Connection,
    path: Path,
    unpacked: Iterable[ResultRow],
    *,
    after: int = 0,
    between_ns: tuple[int | None, int | None] = (None, None),
    newest_first: bool = False,
    needle: bytes = b"",
) -> Iterator[ResultRow]:
    """Yields rows of the table ``records`` together with those of packs, each number once, in order of ``seq``.

    Args:
        unpacked: From the table, with their ``seq``, in the same order.
        after: Only packed rows with a higher ``seq``.
        between_ns: Only packs with captures from the first time on and before the second one.
        needle: Only packs whose content has these bytes.
    """
    packed = (
        row
        for pack in _packs(connection, after=after, between_ns=between_ns, newest_first=newest_first)
        for row in (reversed if newest_first else iter)(_read(path, pack, needle))
        if row.seq > after
    )
    last = 0
    for row in heapq.merge(unpacked, packed, key=lambda row: row.seq, reverse=newest_first):
        if row.seq != last:
            last = row.seq
            yield row


def oldest(connection: sqlite3.Connection) -> Pack | None:
    """Returns the first pack; ``None`` if there is none."""
    return next(_packs(connection), None)


def delete(connection: sqlite3.Connection, path: Path, pack: Pack) -> None:
    """Deletes a pack in a transaction of its own; its file follows, which the next start deletes after a kill."""
    connection.execute("DELETE FROM packs WHERE first_seq = ?", pack[:1])
    _file(path, pack).unlink(missing_ok=True)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Returns the size of all packs."""
    return int(connection.execute("SELECT coalesce(sum(bytes), 0) FROM packs").fetchone()[0])


def _packs(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    between_ns: tuple[int | None, int | None] = (None, None),
    newest_first: bool = False,
) -> Iterator[Pack]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'packs'").fetchone():
        return iter(())  # of an agent that knew no packs
    order = "DESC" if newest_first else "ASC"
    since_ns, until_ns = between_ns
    found = connection.execute(
        "SELECT first_seq, last_seq, first_ns, last_ns FROM packs WHERE last_seq > ? AND (?2 IS NULL OR last_ns >= ?2) "
        f"AND (?3 IS NULL OR first_ns < ?3) ORDER BY first_seq {order}",
        (after, since_ns, until_ns),
    )
    return itertools.starmap(Pack, found)


def _file(path: Path, pack: Pack) -> Path:
    return path.with_name(path.name + SUFFIX) / f"{pack.first_seq:012d}-{pack.last_seq:012d}.xz"


def _read(path: Path, pack: Pack, needle: bytes = b"") -> Sequence[ResultRow]:
    place = _file(path, pack)
    try:
        if needle:
            return decode(place.read_bytes(), needle=needle)
        return _decoded(place, place.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        log.error("%s can't be read, its records are lost: %s", place, error)
        return ()


@functools.lru_cache(maxsize=1)  # the outbox reads one pack in batches
def _decoded(place: Path, _modified_ns: int) -> Sequence[ResultRow]:
    """Returns the rows of a file; another file of the same name, as of a new database, has another time."""
    return decode(place.read_bytes())
