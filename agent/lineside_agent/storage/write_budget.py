"""Bytes written a day, and the limit on them: an SD card lasts for a fixed number.

The kernel counts what this process sends towards its disks (``/proc/self/io``). The bound is a bucket that fills with
the day's allowance and holds an hour of it; what is written drains it. Pictures need it half full, and at its bottom
records are committed in larger groups. Records are never left out, so that a bound below their own pace can't be held:
`problem` says so. No calendar takes part, so a clock that jumps changes nothing.
"""

from __future__ import annotations

import collections
import logging
import os
import re
import threading
import time
from pathlib import Path

import msgspec

from lineside_agent.storage.state_file import read_state, write_state
from lineside_runtime.errors import StoreError

log = logging.getLogger("lineside.wear")

DAY_S = 86400.0
BUCKET_S = 3600.0
"""So much of the day's allowance may be written at once."""

PICTURES_NEED = 0.5
"""The share of the bucket that is left to records."""

SAVE_EVERY_S = 3600.0
"""How often the sum is written down: a restart forgets at most what was written since."""

SECTOR_BYTES = 512
"""Of ``/sys/dev/block/*/stat``, whatever the disk's own are."""


class BytesWritten(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept over restarts.

    Attributes:
        bytes: Written by all runs together.
        seconds: For which they ran.
    """

    bytes: int = 0
    seconds: float = 0.0


class WriteBudget:
    """Looks at the kernel's count again and again; `look` is called by one thread, the rest is read by any.

    Attributes:
        problem: Why the bound isn't held; empty if it is, or if there is none.

    Args:
        folder: The agent's state folder.
        max_bytes_a_day: The bound; ``None`` for none.
        proc: Where the kernel tells.
        now_s: On the monotonic clock.
    """

    def __init__(
        self, folder: Path, *, max_bytes_a_day: int | None, proc: Path = Path("/proc"), now_s: float | None = None
    ) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        self.problem = ""
        self._path = folder / "wear.json"
        self._io = proc / "self/io"
        self._before = read_state(self._path, BytesWritten) or BytesWritten()
        self._bound = max_bytes_a_day
        self._level = self._capacity
        self._started_s = self._looked_s = self._saved_s = now_s
        self._start = self._count = _written_bytes(self._io) or 0
        self._hours: collections.deque[tuple[float, int]] = collections.deque([(now_s, self._start)])
        self._lock = threading.Lock()

    def use(self, max_bytes_a_day: int | None) -> None:
        """Takes another bound; its bucket is full at first."""
        with self._lock:
            if max_bytes_a_day != self._bound:
                self._bound = max_bytes_a_day
                self._level = self._capacity

    @property
    def written_bytes(self) -> int:
        """Written since the start."""
        return self._count - self._start

    @property
    def written_bytes_ever(self) -> int:
        """Written by this run and those before it."""
        return self._before.bytes + self.written_bytes

    @property
    def bytes_a_day(self) -> int | None:
        """The pace of the last day, or of what there was of it; ``None`` in the first hour, which says too little."""
        with self._lock:
            since_s, count = self._hours[0]
            seconds = self._looked_s - since_s
            return int((self._count - count) * DAY_S / seconds) if seconds >= BUCKET_S else None

    def may_write_picture(self) -> bool:
        """Whether the day's allowance has room for more than records."""
        return self._bound is None or self._level > PICTURES_NEED * self._capacity

    def must_save(self) -> bool:
        """Whether the allowance is used up, so that records are to be committed in larger groups."""
        return self._bound is not None and self._level <= 0

    def look(self, now_s: float | None = None) -> None:
        """Reads the kernel's count; every few seconds.

        Args:
            now_s: On the monotonic clock.
        """
        now_s = time.monotonic() if now_s is None else now_s
        count = _written_bytes(self._io)
        with self._lock:
            passed_s, self._looked_s = now_s - self._looked_s, now_s
            if count is None:
                self._say("the kernel doesn't tell how much is written" if self._bound is not None else "")
                return
            self._drain(count - self._count, passed_s)
            self._count = count
            if now_s - self._hours[-1][0] >= BUCKET_S:
                self._hours.append((now_s, count))
            while len(self._hours) > 1 and now_s - self._hours[0][0] > DAY_S:
                self._hours.popleft()
        if now_s - self._saved_s >= SAVE_EVERY_S:
            self.save(now_s)

    def save(self, now_s: float | None = None) -> None:
        """Writes the sum down; a disk that is full costs the sum and nothing else.

        Args:
            now_s: On the monotonic clock.
        """
        self._saved_s = time.monotonic() if now_s is None else now_s
        seconds = self._before.seconds + self._saved_s - self._started_s
        try:
            write_state(self._path, BytesWritten(bytes=self.written_bytes_ever, seconds=seconds))
        except (OSError, StoreError) as error:
            log.warning("how much was written can't be written down: %s", error)

    @property
    def _capacity(self) -> float:
        return 0.0 if self._bound is None else self._bound * BUCKET_S / DAY_S

    def _drain(self, written: int, passed_s: float) -> None:
        if self._bound is None:
            self._say("")
            return
        capacity = self._capacity
        self._level = min(capacity, self._level + self._bound * passed_s / DAY_S) - written
        self._level = max(-capacity, self._level)  # an hour without pictures, and not a day
        over = self._level <= 0
        self._say(f"more than {self._bound} bytes a day are written; records go on, pictures wait" if over else "")

    def _say(self, problem: str) -> None:
        if problem and not self.problem:
            log.warning("%s", problem)
        self.problem = problem


def _written_bytes(path: Path) -> int | None:
    """What this process has sent towards disks; what was cancelled before it got there is not in it."""
    try:
        counts = dict(re.findall(r"^(\w+): (\d+)$", path.read_text(), re.MULTILINE))
        return max(0, int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"]))
    except (OSError, KeyError):
        return None


def disk_written_bytes(folder: Path, *, sys: Path = Path("/sys")) -> int | None:
    """Returns what everybody together has written since the boot to the disk that holds a folder.

    Args:
        folder: On the disk.
        sys: Where the kernel tells.

    Returns:
        ``None`` where the folder is on no disk, such as in memory or on a network.
    """
    number = folder.stat().st_dev
    try:
        disk = (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
        disk = disk.parent if (disk / "partition").exists() else disk
        fields = (disk / "stat").read_text().split()
        return int(fields[6]) * SECTOR_BYTES
    except (OSError, IndexError, ValueError):
        return None
