"""Deletes data to make room for records: images, the disk reserve, old records, in this order.

The reserve is a file that keeps room on the disk and is deleted when something else has filled it. With that room, old
records can be deleted and their pages used again; without any, SQLite cannot even delete. From then on, until the disk
has room again, each record takes the place of an older one.

Everything but the deletion of images is done by the store's writer, between two commits and in small steps.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from pathlib import Path

from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import DAY_S, ImageArchive
from lineside_agent.storage.record_files import database
from lineside_link.age_limit import most_by_age

log = logging.getLogger("lineside.store")

BALLAST_BYTES = 4 << 20
"""A write-ahead log of a thousand pages and its checkpoint."""

BALLAST_SHARE = 1 / 6
"""Largest share of the disk for the reserve, of which half must be free beside it."""

IMAGES_BYTES = 32 << 20
"""Bytes of images that are deleted at once for records: half an hour at ten a second, without a sweep each second."""

DELETE_STEP = 1000
"""Records deleted in one transaction, for which new records wait."""

DELETE_STEPS_MAX = 10
"""Such transactions between two commits."""

FREE_PAGES_LEAST = 64
"""Free pages below which old records are deleted while the disk is full: those of a group and of its index."""


class RetentionPolicy:
    """Limits of one store.

    Attributes:
        removed: Old records deleted since the start.
        used_bytes: Size of the database without free pages; ``None`` until it was measured.
    """

    def __init__(self, folder: Path, path: Path, archive: ImageArchive | None) -> None:
        self.removed = 0
        self.used_bytes: int | None = None
        self._archive = archive
        self._path = path
        self._ballast = folder / "ballast"
        self._is_tight = False
        self._requested = False
        self._is_age_due = False

    def request(self) -> None:
        """Requests `tidy`, which then also deletes by age; from any thread, once in `SWEEP_S`."""
        self._is_age_due = True
        self._requested = True

    @property
    def is_requested(self) -> bool:
        """Whether `tidy` must run although there is nothing to write."""
        return self._requested

    @property
    def is_due(self) -> bool:
        """Whether `tidy` must run before the next write."""
        return self._requested or self._is_tight

    def make_room(self) -> bool:
        """Deletes images, or else the reserve; false if neither is left."""
        if self._archive is not None and self._archive.sweep(need_bytes=IMAGES_BYTES):
            log.warning("images were deleted, since records found no room")
            return True
        self._is_tight = True
        try:
            self._ballast.unlink()
        except OSError:
            return False
        log.warning("the disk reserve was deleted, since records found no room; the oldest records are deleted now")
        return True

    def tidy(self, connection: sqlite3.Connection, rules: StoreConfig, *, through: int) -> None:
        """Deletes what is beyond the limits, and makes the reserve again where there is room.

        Args:
            connection: The writer's, outside of a transaction.
            through: Only records up to this ``seq`` may be deleted.
        """
        self._requested = False
        has_ballast = self._take_ballast(rules.free_min_bytes)
        self._is_tight = self._is_tight and not has_ballast
        if self._is_tight and database.free_pages(connection) < FREE_PAGES_LEAST:
            self._delete(connection, through)
        self._delete_by_age(connection, rules, through)
        for _ in range(DELETE_STEPS_MAX):
            self.used_bytes = database.used_bytes(connection)
            if self.used_bytes <= rules.records_max_bytes or not self._delete(connection, through):
                return
        self._requested = True

    def _delete_by_age(self, connection: sqlite3.Connection, rules: StoreConfig, through: int) -> None:
        is_due, self._is_age_due = self._is_age_due, False
        if rules.records_max_days is None or not is_due:
            return
        before_ns = time.time_ns() - int(1e9 * DAY_S * rules.records_max_days)
        left = most_by_age(database.estimated_count(connection), rules.records_max_days)
        while left > 0 and (deleted := self._delete(connection, through, before_ns=before_ns, most=left)):
            left -= deleted

    def _delete(
        self,
        connection: sqlite3.Connection,
        through: int,
        *,
        before_ns: int = database.EVER_NS,
        most: int = DELETE_STEP,
    ) -> int:
        deleted = database.delete_oldest(
            connection, self._path, through=through, before_ns=before_ns, limit=min(most, DELETE_STEP)
        )
        self.removed += deleted
        return deleted

    def _take_ballast(self, free_min_bytes: int) -> bool:
        """Makes the reserve if it leaves enough room beside it; returns whether it exists."""
        if self._ballast.exists():
            return True
        disk = shutil.disk_usage(self._ballast.parent)
        size = min(BALLAST_BYTES, int(BALLAST_SHARE * disk.total))
        # Twice its size: the room that it has just given must not look like room for it.
        if disk.free < min(free_min_bytes, int(BALLAST_SHARE / 2 * disk.total)) + 2 * size:
            return False
        try:
            with self._ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            log.debug("no disk reserve: %s", error)
            return False
        return True
