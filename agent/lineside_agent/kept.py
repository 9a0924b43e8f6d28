"""The table ``images`` of the store: which kept image belongs to which record, and whether the hub has it.

A row is written in the same transaction as its record, after the file, so that neither is without the other but for a
kill right between file and record: that file belongs to nothing, and `lineside_agent.retention` takes it away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import sqlite_utils

_COLUMNS = "seq, path, size, at_ns"


class SavedImage(NamedTuple):
    """A file that was written.

    Attributes:
        path: Below the folder of images.
        size: In bytes.
        at_ns: When, Unix time by the device's clock.
    """

    path: str
    size: int
    at_ns: int


class KeptImage(NamedTuple):
    """One image that the store knows.

    Attributes:
        seq: Of its record.
        path: Below the folder of images.
        size: In bytes.
        at_ns: When it was written, Unix time by the device's clock.
        sent: Whether the hub has it, or refused it for good.
    """

    seq: int
    path: str
    size: int
    at_ns: int
    sent: bool


class ImageCounts(NamedTuple):
    """What is there.

    Attributes:
        kept: Images.
        size: Their bytes.
        unsent: Those that the hub hasn't got.
    """

    kept: int
    size: int
    unsent: int

    def plus(self, other: ImageCounts) -> ImageCounts:
        """Returns the sums."""
        return ImageCounts(self.kept + other.kept, self.size + other.size, self.unsent + other.unsent)


def make_table(database: sqlite_utils.Database) -> None:
    """Makes the table where it is missing: an agent of an earlier release had none."""
    columns = {"seq": int, "path": str, "size": int, "at_ns": int, "sent": int}
    database["images"].create(columns, pk="seq", not_null=set(columns), if_not_exists=True)
    database.execute("CREATE INDEX IF NOT EXISTS images_unsent ON images (seq) WHERE sent = 0")
    database.execute("CREATE INDEX IF NOT EXISTS images_by_path ON images (path)")


def insert(connection: sqlite3.Connection, seq: int, image: SavedImage) -> ImageCounts:
    """Says that a new record has an image; returns what that changed."""
    connection.execute(f"INSERT INTO images ({_COLUMNS}, sent) VALUES (?, ?, ?, ?, 0)", (seq, *image))
    return ImageCounts(1, image.size, 1)


def mark_sent(connection: sqlite3.Connection, seqs: Sequence[int]) -> ImageCounts:
    """Says that nothing need be sent of these any more; returns what that changed."""
    changed = sum(
        connection.execute("UPDATE images SET sent = 1 WHERE seq = ? AND sent = 0", (seq,)).rowcount for seq in seqs
    )
    return ImageCounts(0, 0, -changed)


def remove(connection: sqlite3.Connection, seqs: Sequence[int]) -> ImageCounts:
    """Says that the files are gone; returns what that changed."""
    gone = ImageCounts(0, 0, 0)
    for seq in seqs:
        for size, sent in connection.execute(
            "DELETE FROM images WHERE seq = ? RETURNING size, sent", (seq,)
        ).fetchall():
            gone = gone.plus(ImageCounts(-1, -size, -int(not sent)))
    return gone


def count(connection: sqlite3.Connection) -> ImageCounts:
    """Returns what is there."""
    text = "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(sent = 0), 0) FROM images"
    return ImageCounts(*(int(value) for value in connection.execute(text).fetchone()))


def first_unsent(connection: sqlite3.Connection, through: int) -> KeptImage | None:
    """Returns the first image that the hub hasn't got, of records that it has.

    Args:
        connection: Of the store.
        through: The hub's watermark.
    """
    text = f"SELECT {_COLUMNS}, sent FROM images WHERE sent = 0 AND seq <= ? ORDER BY seq LIMIT 1"
    found = connection.execute(text, (through,)).fetchone()
    return _image(found) if found else None


def oldest(connection: sqlite3.Connection, limit: int) -> list[KeptImage]:
    """Returns the images that go first: those that the hub has, then the others, each in their order."""
    text = f"SELECT {_COLUMNS}, sent FROM images ORDER BY sent DESC, seq LIMIT ?"
    return [_image(row) for row in connection.execute(text, (limit,))]


def written_before(connection: sqlite3.Connection, *, since_ns: int, before_ns: int, limit: int) -> list[KeptImage]:
    """Returns images that were written in a time."""
    text = f"SELECT {_COLUMNS}, sent FROM images WHERE at_ns >= ? AND at_ns < ? ORDER BY seq LIMIT ?"
    return [_image(row) for row in connection.execute(text, (since_ns, before_ns, limit))]


def is_known(connection: sqlite3.Connection, path: str) -> bool:
    """Returns whether a file belongs to a record."""
    return connection.execute("SELECT 1 FROM images WHERE path = ? LIMIT 1", (path,)).fetchone() is not None


def _image(row: tuple[int, str, int, int, int]) -> KeptImage:
    return KeptImage(*row[:4], sent=bool(row[4]))
