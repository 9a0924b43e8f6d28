"""Measure how much is written, and delete what is old, at intervals."""

from __future__ import annotations

import logging
import threading
import time

from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_agent.storage.write_budget import WriteBudget

log = logging.getLogger("lineside.store")

LOOK_EVERY_S = 5.0
SWEEP_EVERY_S = 60.0


class Housekeeping:
    """Runs in a thread of its own.

    Args:
        archive: Swept once a minute, and at once when it is beyond its bound.
        store: Asked to tidy up once a minute.
        wear: Looked at every few seconds.
        stop: Ends it.
    """

    def __init__(self, archive: ImageArchive, store: RecordStore, wear: WriteBudget, stop: threading.Event) -> None:
        self._archive = archive
        self._store = store
        self._wear = wear
        self._stop = stop

    def run(self) -> None:
        """Runs in the caller's thread until stopped."""
        swept_s = -SWEEP_EVERY_S
        while True:
            now_s = time.monotonic()
            self._wear.look(now_s)
            is_due = now_s - swept_s >= SWEEP_EVERY_S
            if is_due or self._archive.is_over:
                self._sweep()
            if is_due:
                swept_s = now_s
                self._store.room.ask()
            if self._stop.wait(LOOK_EVERY_S):
                break
        self._wear.look()
        self._wear.keep()

    def _sweep(self) -> None:
        try:
            self._archive.sweep()
        except OSError as error:
            log.error("images can't be swept: %s", error)
