"""A floor for a device's clock.

TUF's expiry trusts the clock, and a board without a battery starts in 1970 or at the date of its image, where nothing
has expired yet. So the last time at which metadata was valid is stored on disk, and the time never is earlier than
that.

Only a successful check raises the floor: its time was earlier than the expiry of fresh, signed metadata. A clock that
is ahead for a while can therefore not raise the floor so far that the device refuses everything for years.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.link")

WRITE_EVERY_S = 600.0
"""The file is written at most this often, to spare the flash."""


RELEASED = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""A clock with an earlier time is not set: this release did not exist."""


def system_now() -> datetime:
    """Returns the system's time, in UTC."""
    return datetime.now(timezone.utc)


class ClockFloor:
    """A clock that never is earlier than its floor, also after a power cut.

    Args:
        path: File that holds the floor, as ISO 8601 in UTC; its folder exists.
        write_every_s: Least time between two writes.
    """

    def __init__(
        self, path: Path, *, write_every_s: float = WRITE_EVERY_S, now: Callable[[], datetime] = system_now
    ) -> None:
        self._path = path
        self._write_every_s = write_every_s
        self._now = now
        self._written = self._read()
        self._floor = self._written
        self._is_behind = False

    def _read(self) -> datetime | None:
        try:
            floor = datetime.fromisoformat(self._path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.error("%s is damaged, the clock has no floor until the next check: %s", self._path, error)
            return None
        return floor if floor.tzinfo is not None else floor.replace(tzinfo=timezone.utc)

    def now(self) -> datetime:
        """Returns the later of the system's time and the floor, in UTC."""
        now = self._now()
        floor = self._floor
        is_behind = floor is not None and now < floor
        if is_behind and not self._is_behind:
            log.warning("the clock says %s, but %s was already seen and counts", now.isoformat(), floor)
        self._is_behind = is_behind
        return floor if floor is not None and is_behind else now

    def set_time(self) -> datetime | None:
        """Returns the system's time if it is plausible, else ``None``: the floor is no time for schedules."""
        now = self._now()
        return now if now >= max(self._floor or RELEASED, RELEASED) else None

    def raise_to(self, seen: datetime) -> None:
        """Raises the floor, if ``seen`` is later.

        Args:
            seen: A time at which signed metadata was found valid.

        Raises:
            DiskFullError: There is no room; the floor on disk is as it was.
        """
        if self._floor is not None and seen <= self._floor:
            return
        self._floor = seen
        if self._written is None or (seen - self._written).total_seconds() >= self._write_every_s:
            write_atomic(self._path, seen.isoformat().encode("ascii"))
            self._written = seen
