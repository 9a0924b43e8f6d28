"""Devices that have gone without a last will, as when broker and device lose their power at the same time.

The broker publishes the last will of a device whose connection breaks. If it is ended itself, nobody does, and the
device would count as connected for ever: a canary that never answers, and no alarm. Agents repeat their birth every
five minutes; one that the hub has not heard for `SILENT_S` counts as gone until it is heard again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from lineside_hub.fleet.timeline import FleetTimeline
from lineside_hub.results.database import Database
from lineside_link.messages import Up, decode

log = logging.getLogger("lineside.hub")

SILENT_S = 1200.0
"""Four births, and longer than `lineside_hub.link_monitor` waits before it subscribes again."""

LOOK_S = 10.0


class PresenceMonitor:
    """Finds devices that are no longer heard; times are of the monotonic clock.

    Args:
        database: Of the thread that calls `check`.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._connected_s = clock()
        self._heard_s: dict[str, float] = {}
        self._look_s = 0.0

    def connected(self) -> None:
        """Begins to listen on a new connection of the hub: what was not heard before says nothing; from any thread."""
        self._connected_s = self._clock()

    def heard(self, device: str) -> None:
        """Takes that a message of a device came; from any thread."""
        self._heard_s[device] = self._clock()

    def check(self, *, is_connected: bool) -> None:
        """Looks once in `LOOK_S`, and writes a will for each device that is silent.

        Args:
            is_connected: Whether the hub hears anybody at all.

        Raises:
            StoreError: The database cannot be written.
        """
        now_s = self._clock()
        if not is_connected:
            self._connected_s = now_s
        if now_s - self._look_s < LOOK_S:
            return
        self._look_s = now_s
        before_s = now_s - SILENT_S
        if self._connected_s >= before_s:
            return
        births = self._database.query("SELECT device, birth FROM devices WHERE up = 1")
        silent = [decode(row["birth"].encode(), Up) for row in births if self._is_silent(row["device"], before_s)]
        if not silent:
            return
        timeline = FleetTimeline(self._database)
        with self._database.transaction():
            for born in silent:
                timeline.write_up(
                    Up(device=born.device, up=False, boot_id=born.boot_id),
                    why=f"not heard for {SILENT_S / 60:.0f} minutes",
                )
        log.warning("not heard for %.0f minutes: %s", SILENT_S / 60, ", ".join(born.device for born in silent))

    def _is_silent(self, device: str, before_s: float) -> bool:
        return self._heard_s.get(device, before_s - 1.0) < before_s
