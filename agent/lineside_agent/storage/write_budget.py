"""Bytes written a day, and the limit on them: an SD card lasts for a fixed number.

The kernel counts what this process writes to its disks (``/proc/self/io``). The limit is a bucket that fills with the
day's allowance and holds half an hour of it; writes drain it. Images need it half full. When it is empty, records are
committed in larger groups, and a quarter of an hour's allowance later in packs, until the bucket has something again
(`Saving`). Records are never left out, so a limit below what packs need cannot be kept: `problem` says so. The bucket
fills so much more slowly than the day's allowance that no 24 hours exceed that, its content and the overdraft included.
The calendar is not used, so a clock that jumps changes nothing.
"""

from __future__ import annotations

import collections
import enum
import logging
import re
import threading
import time
from pathlib import Path

import msgspec

from lineside_agent.storage.state_file import read_state, write_state
from lineside_runtime.errors import StoreError

log = logging.getLogger("lineside.wear")

DAY_S = 86400.0
BUCKET_S = 1800.0
"""Part of the day's allowance that may be written at once, and most that may be overdrawn."""

REFILL = 1 - 2 * BUCKET_S / DAY_S
"""Share of the allowance that fills the bucket."""

HOUR_S = 3600.0

PACKS_FROM = -0.5
"""Share of the bucket that is overdrawn before records are packed."""

PICTURES_NEED = 0.5
"""Share of the bucket that is reserved for records."""

SAVE_EVERY_S = 3600.0
"""Time between two writes of the sum: a restart forgets at most what was written since."""


class Saving(enum.IntEnum):
    """How records are written under the limit."""

    NONE = 0
    GROUPS = 1
    PACKS = 2


COMMIT_EVERY_S = {Saving.NONE: 0.0, Saving.GROUPS: 5.0, Saving.PACKS: 300.0}
"""Least time between commits. At ten records a second one costs 1.1 KB in groups, and 50 bytes in packs."""


class BytesWritten(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept over restarts.

    Attributes:
        bytes: Written by all runs together.
        seconds: Their length.
    """

    bytes: int = 0
    seconds: float = 0.0


class WriteBudget:
    """Samples the kernel's count; `sample` is called by one thread, the rest is read by any.

    Attributes:
        problem: Why the limit is not kept; empty if it is, or without a limit.
        saving: How records must be written now.

    Args:
        max_bytes_a_day: The limit; ``None`` for none.
        proc: Mount point of ``/proc``.
        now_s: On the monotonic clock.
    """

    def __init__(
        self, folder: Path, *, max_bytes_a_day: int | None, proc: Path = Path("/proc"), now_s: float | None = None
    ) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        self.problem = ""
        self.saving = Saving.NONE
        self._packed_s = 0.0
        self._path = folder / "wear.json"
        self._io = proc / "self/io"
        self._before = read_state(self._path, BytesWritten) or BytesWritten()
        self._bound = max_bytes_a_day
        self._level = self._capacity
        self._started_s = self._sampled_s = self._saved_s = now_s
        self._start = self._count = _written_bytes(self._io) or 0
        self._hourly: collections.deque[tuple[float, int]] = collections.deque([(now_s, self._start)])
        self._lock = threading.Lock()

    def use(self, max_bytes_a_day: int | None) -> None:
        """Applies another limit; its bucket is full at first."""
        with self._lock:
            if max_bytes_a_day != self._bound:
                self._bound = max_bytes_a_day
                self._level = self._capacity
                self.saving = Saving.NONE

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
        """Rate of the last day, or of what there was of it; ``None`` in the first hour, which says too little."""
        with self._lock:
            since_s, count = self._hourly[0]
            seconds = self._sampled_s - since_s
            return int((self._count - count) * DAY_S / seconds) if seconds >= HOUR_S else None

    def may_write_picture(self) -> bool:
        """Whether the day's allowance has room for more than records."""
        return self._bound is None or self._level > PICTURES_NEED * self._capacity

    def sample(self, now_s: float | None = None) -> None:
        """Reads the kernel's count; every few seconds."""
        now_s = time.monotonic() if now_s is None else now_s
        count = _written_bytes(self._io)
        with self._lock:
            passed_s, self._sampled_s = now_s - self._sampled_s, now_s
            if count is None:
                self._set_problem("the kernel doesn't tell how much is written" if self._bound is not None else "")
                return
            self._drain(count - self._count, passed_s)
            self._count = count
            if now_s - self._hourly[-1][0] >= HOUR_S:
                self._hourly.append((now_s, count))
            while len(self._hourly) > 1 and now_s - self._hourly[0][0] > DAY_S:
                self._hourly.popleft()
        if now_s - self._saved_s >= SAVE_EVERY_S:
            self.save(now_s)

    def save(self, now_s: float | None = None) -> None:
        """Writes the sum to disk; a full disk costs the sum and nothing else."""
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
            self._set_problem("")
            self.saving = Saving.NONE
            return
        capacity = self._capacity
        self._level = min(capacity, self._level + REFILL * self._bound * passed_s / DAY_S) - written
        self._level = max(-capacity, self._level)  # a while without pictures, and not a day
        self.saving = self._stage(capacity)
        if self.saving is not Saving.PACKS:
            self._packed_s = 0.0
        self._packed_s += passed_s
        # What came before the packs may have taken all at once; it is they that can't keep the limit.
        at_end = self._level <= -capacity and self._packed_s > HOUR_S
        over = at_end or (bool(self.problem) and self._level <= PACKS_FROM * capacity)
        self._set_problem(
            f"more than {self._bound} bytes a day are written; records go on, pictures wait" if over else ""
        )

    def _stage(self, capacity: float) -> Saving:
        """Once begun, packs go on until the bucket has something again, and not for a moment at a time."""
        if self._level > 0:
            return Saving.NONE
        packs = self.saving is Saving.PACKS or self._level <= PACKS_FROM * capacity
        return Saving.PACKS if packs else Saving.GROUPS

    def _set_problem(self, problem: str) -> None:
        if problem and not self.problem:
            log.warning("%s", problem)
        self.problem = problem


def _written_bytes(path: Path) -> int | None:
    """Bytes that this process has sent to disks, without those that were cancelled before they arrived."""
    try:
        counts = dict(re.findall(r"^(\w+): (\d+)$", path.read_text(), re.MULTILINE))
        return max(0, int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"]))
    except (OSError, KeyError):
        return None
