"""The table ``unsent``: kept images that the hub does not have yet.

A row is written in its record's transaction, after the file, and goes when the hub has the image or refuses it for
good. The file itself is the archive's: what its bounds take away in between is found missing when its turn comes, and
is counted.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sqlite_utils import Database

NAME = "unsent"


class UnsentImage(NamedTuple):
    """One image.

    Attributes:
        seq: Of its record.
        path: Below the archive's folder.
    """

    seq: int
    path: str


def make_table(database: Database) -> None:
    """Makes the table where it is missing: an agent of an earlier release had none."""
    database[NAME].create({"seq": int, "path": str}, pk="seq", not_null={"path"}, if_not_exists=True)


def insert(connection: sqlite3.Connection, image: UnsentImage) -> None:
    """Says that a new record has an image, inside the caller's transaction."""
    connection.execute("INSERT OR REPLACE INTO unsent (seq, path) VALUES (?, ?)", image)


def settle(connection: sqlite3.Connection, seqs: list[int]) -> int:
    """Says that nothing need be sent of these any more, inside the caller's transaction; returns of how many."""
    return sum(connection.execute("DELETE FROM unsent WHERE seq = ?", (seq,)).rowcount for seq in seqs)


def count(connection: sqlite3.Connection, *, after: int = 0) -> int:
    """Returns how many there are; none in a database of an agent that knew no such table.

    Args:
        connection: Of the store.
        after: Only of later records.
    """
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (NAME,)).fetchone()
    text = "SELECT count(*) FROM unsent WHERE seq > ?"
    return int(connection.execute(text, (after,)).fetchone()[0]) if known else 0


def first(connection: sqlite3.Connection, *, after: int, through: int) -> UnsentImage | None:
    """Returns the first image in a range.

    Args:
        connection: Of the store.
        after: Only of later records.
        through: Only of records up to this one: the hub's watermark.
    """
    text = "SELECT seq, path FROM unsent WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 1"
    found = connection.execute(text, (after, through)).fetchone()
    return UnsentImage(int(found[0]), str(found[1])) if found else None
