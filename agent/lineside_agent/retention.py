"""`Retention`: kept images make room, by bytes and by age; in a thread of its own, away from the line.

What the hub has goes first, then what it hasn't; the log and ``status.json`` say how many of those went unseen. Records
stay. A file goes before its row: a kill in between leaves a row without a file, which is taken away the next time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lineside_agent.config import StoreConfig
from lineside_agent.kept import KeptImage
from lineside_agent.store import Store
from lineside_runtime.errors import DatabaseError

log = logging.getLogger("lineside.images")

LOOK_EVERY_S = 10.0
STRAYS_EVERY_S = 3600.0
BATCH = 200

ENOUGH = 0.95
"""Of ``images_max_bytes``: down to there, so that not every new image costs a look."""

AGE_KNOWN_SINCE_NS = 1_577_836_800 * 1_000_000_000
"""2020: what was written before comes from a device whose clock was not set, and its age is unknown."""


class Retention:
    """Takes images away.

    Args:
        store: Knows the images.
        folder: Where they lie.
        settings: Gives the ``[store]`` table that holds now.
        stop: Ends the thread.

    Attributes:
        dropped: Images that went, since the start.
        unsent: How many of those the hub had not got.
    """

    def __init__(
        self, store: Store, folder: Path, *, settings: Callable[[], StoreConfig], stop: threading.Event
    ) -> None:
        self.dropped = 0
        self.unsent = 0
        self._store = store
        self._folder = folder
        self._settings = settings
        self._stop = stop

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        strays_at_s = 0.0
        while not self._stop.is_set():
            try:
                self.sweep(time.time_ns())
                if time.monotonic() >= strays_at_s:
                    strays_at_s = time.monotonic() + STRAYS_EVERY_S
                    self._remove_strays(time.time_ns())
            except (DatabaseError, OSError) as error:
                log.error("kept images can't be looked through: %s", error)
            self._stop.wait(LOOK_EVERY_S)

    def sweep(self, now_ns: int) -> None:
        """Takes away what is too old or too much.

        Args:
            now_ns: Unix time.

        Raises:
            DatabaseError: The store cannot be read.
            OSError: A file can't be removed.
        """
        settings = self._settings()
        before_ns = now_ns - int(settings.images_max_age_days * 86400e9)
        while not self._stop.is_set() and (
            old := self._store.images_between(since_ns=AGE_KNOWN_SINCE_NS, before_ns=before_ns, limit=BATCH)
        ):
            if not self._remove(old, f"older than {settings.images_max_age_days:g} days"):
                return
        most = settings.images_max_bytes
        while not self._stop.is_set() and (excess := self._store.images.size - most) > 0:
            # The last of several batches goes down to `ENOUGH`.
            if not self._remove(self._enough(excess + (1 - ENOUGH) * most), f"more than {most / 1e6:g} MB in all"):
                return

    def _enough(self, size: float) -> list[KeptImage]:
        chosen: list[KeptImage] = []
        for image in self._store.oldest_images(BATCH):
            if size <= 0:
                break
            chosen.append(image)
            size -= image.size
        return chosen

    def _remove(self, images: list[KeptImage], why: str) -> bool:
        """Removes files, then their rows; false if the rows can't be written now."""
        epoch = self._store.epoch
        for image in images:
            (self._folder / image.path).unlink(missing_ok=True)
        if not images or not self._store.note_images(epoch, removed=[image.seq for image in images]):
            return False
        unsent = sum(not image.sent for image in images)
        self.dropped += len(images)
        self.unsent += unsent
        size = sum(image.size for image in images)
        level = logging.WARNING if unsent else logging.INFO
        log.log(level, "%d kept images (%.1f MB) removed: %s; %d not sent", len(images), size / 1e6, why, unsent)
        return True

    def _remove_strays(self, now_ns: int) -> None:
        """Files that no record knows, of an earlier agent or of a database that was set aside, go by age alone."""
        oldest_ns = now_ns - int(self._settings().images_max_age_days * 86400e9)
        old = [
            str(path.relative_to(self._folder))
            for path in self._folder.glob("*/*.png")
            if AGE_KNOWN_SINCE_NS <= path.stat().st_mtime_ns < oldest_ns
        ]
        strays = self._store.unknown_images(old)
        for name in strays:
            (self._folder / name).unlink(missing_ok=True)
        if strays:
            self.dropped += len(strays)
            log.warning("%d images without a record removed: too old", len(strays))
