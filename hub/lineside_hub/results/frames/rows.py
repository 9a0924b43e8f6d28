"""The table ``frames``: which image belongs to which result.

The same statements serve SQLite and PostgreSQL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lineside_hub.config import HubConfig
from lineside_hub.results.database import Database
from lineside_hub.results.sql import SqlRunner, open_runner

_IS = "device = :device AND epoch = :epoch AND seq = :seq"


class ResultKey(NamedTuple):
    """Key of a result and its frame."""

    device: str
    epoch: str
    seq: int


class StoredFrame(NamedTuple):
    """A stored frame."""

    key: ResultKey
    sha256: str
    size: int


class FrameRows:
    """The table of frames of one hub."""

    def __init__(self, run: SqlRunner, close: Callable[[], None]) -> None:
        self._run = run
        self.close = close

    def record_size(self, key: ResultKey) -> tuple[int, int] | None:
        """Returns width and height in a result; ``None`` if there is no such result."""
        found = self._run(f"SELECT width, height FROM results WHERE {_IS}", key._asdict())
        return (int(found[0][0] or 0), int(found[0][1] or 0)) if found else None

    def digest(self, key: ResultKey) -> str | None:
        """Returns the hash of a result's frame, if there is one."""
        found = self._run(f"SELECT sha256 FROM frames WHERE {_IS}", key._asdict())
        return str(found[0][0]) if found else None

    def add(self, kept: StoredFrame, now_ns: int) -> None:
        """Adds a frame; a repeat changes nothing."""
        self._run(
            "INSERT INTO frames (device, epoch, seq, sha256, size, received_at_ns) "
            "VALUES (:device, :epoch, :seq, :sha256, :size, :now_ns) ON CONFLICT (device, epoch, seq) DO NOTHING",
            {**kept.key._asdict(), "sha256": kept.sha256, "size": kept.size, "now_ns": now_ns},
        )

    def total(self) -> tuple[int, int]:
        """Returns count and bytes of all frames."""
        count, size = self._run("SELECT count(*), coalesce(sum(size), 0) FROM frames", {})[0]
        return int(count), int(size)

    def largest_device(self) -> str | None:
        """Returns the device with most bytes of frames."""
        text = "SELECT device FROM frames GROUP BY device ORDER BY sum(size) DESC, device LIMIT 1"
        found = self._run(text, {})
        return str(found[0][0]) if found else None

    def devices_above(self, limit: int) -> list[tuple[str, int]]:
        """Returns the devices with more than ``limit`` bytes of frames, and their bytes."""
        text = "SELECT device, sum(size) FROM frames GROUP BY device HAVING sum(size) > :limit ORDER BY device"
        return [(str(row[0]), int(row[1])) for row in self._run(text, {"limit": limit})]

    def oldest(self, limit: int, *, device: str | None = None, before_ns: int | None = None) -> list[StoredFrame]:
        """Returns the frames that were received first.

        Args:
            before_ns: Only what came before.
        """
        conditions = [("device = :device", device), ("received_at_ns < :before_ns", before_ns)]
        where = " AND ".join(text for text, value in conditions if value is not None)
        given = {"device": device, "before_ns": before_ns}
        found = self._run(
            f"SELECT device, epoch, seq, sha256, size FROM frames{' WHERE ' if where else ''}{where} "
            "ORDER BY received_at_ns, device, seq LIMIT :limit",
            {"limit": limit} | {name: value for name, value in given.items() if value is not None},
        )
        return [StoredFrame(ResultKey(row[0], row[1], int(row[2])), row[3], int(row[4])) for row in found]

    def remove(self, keys: Iterable[ResultKey]) -> None:
        """Deletes the rows of frames."""
        for key in keys:
            self._run(f"DELETE FROM frames WHERE {_IS}", key._asdict())

    def is_used(self, sha256: str) -> bool:
        """Returns whether any result has this frame."""
        return bool(self._run("SELECT 1 FROM frames WHERE sha256 = :sha256 LIMIT 1", {"sha256": sha256}))


def open_rows(config: HubConfig, database: Database) -> FrameRows:
    """Returns the rows where the results are.

    Args:
        database: The caller's own connection to ``hub.db``.
    """
    opened = contextlib.ExitStack()
    return FrameRows(opened.enter_context(open_runner(config.results.url, database)), opened.close)
