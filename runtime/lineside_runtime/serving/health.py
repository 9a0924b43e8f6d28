"""Which device failed when and why, and when it may be tried again."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Literal

import msgspec

from lineside_runtime.errors import LinesideError
from lineside_runtime.logs import log
from lineside_runtime.serving.backoff import Backoff

FAILURES_KEPT = 100

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 300.0
RESTART_PAUSES = Backoff(1.0, 300.0)

FORGOTTEN_AFTER_S = 600.0
"""After so long without a crash the next one counts as the first: twice the longest pause."""


def pause_s(failures: int) -> float:
    """Returns the pause after so many failures in a row, in seconds."""
    return Backoff(RETRY_FIRST_S, RETRY_MAX_S).after(failures)


class Fallback(msgspec.Struct, frozen=True):
    """A failure of a device, after which another one was used.

    Attributes:
        device: Such as ``ort/cpu:0``, or an engine's name if it can't be used at all.
        reason: The error's text.
        at_ns: Unix time in nanoseconds.
    """

    device: str
    during: Literal["probe", "load", "run"]
    code: int
    reason: str
    at_ns: int


class Failures:
    """Log of failures: all are counted, the last `FAILURES_KEPT` are kept with their reasons."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Fallback] = deque(maxlen=FAILURES_KEPT)
        self._count = 0
        self._restarts = 0

    def add(self, device: str, during: Literal["probe", "load", "run"], error: LinesideError) -> None:
        """Logs, counts and keeps a failure."""
        reason = str(error)  # a kept log record must not keep an error's frames, and their memory
        log.warning("%s failed during %s: %s", device, during, reason)
        with self._lock:
            self._count += 1
            self._kept.append(Fallback(device, during, error.code, reason, time.time_ns()))

    def restarted(self) -> None:
        """Counts an engine's process that was started again."""
        with self._lock:
            self._restarts += 1

    @property
    def restarts(self) -> int:
        """How many processes of engines were started again."""
        return self._restarts

    @property
    def count(self) -> int:
        """Number of failures since the session began."""
        return self._count

    @property
    def kept(self) -> tuple[Fallback, ...]:
        """The last failures, oldest first."""
        with self._lock:
            return tuple(self._kept)


class Restarts(msgspec.Struct):
    """Whether an engine's process that ended is started again at once. Not locked: the caller holds its lock.

    A process that was killed, or that crashes now and then, is started again at once, and one call waits for it. After
    a second crash within the pause the next device answers until the pause is over. The pause doubles with each crash.

    Attributes:
        crashes: In a row, none of them `FORGOTTEN_AFTER_S` after the one before.
        next_at_s: Before that time it is not started again.
        last_at_s: Time of the last crash.
    """

    crashes: int = 0
    next_at_s: float = 0.0
    last_at_s: float = 0.0

    def crashed(self, now_s: float) -> bool:
        """Notes a crash, and returns whether the process may be started again at once."""
        at_once = now_s >= self.next_at_s
        forgotten = now_s - self.last_at_s > FORGOTTEN_AFTER_S
        self.crashes = 1 if forgotten else self.crashes + 1
        self.last_at_s = now_s
        self.next_at_s = now_s + RESTART_PAUSES.after(self.crashes)
        return at_once
