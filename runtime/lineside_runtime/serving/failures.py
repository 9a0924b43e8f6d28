"""`Failures`: which device failed when, and why."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Literal

import msgspec

from lineside_runtime.errors import LinesideError
from lineside_runtime.logs import log

FAILURES_KEPT = 100


class Fallback(msgspec.Struct, frozen=True):
    """A device that could not do what it was asked for.

    Attributes:
        device: Such as ``ort/cpu:0``, or an engine's name if it can't be used at all.
        during: When it failed.
        code: Of the error.
        reason: The error's text.
        at_ns: Unix time in nanoseconds.
    """

    device: str
    during: Literal["probe", "load", "run"]
    code: int
    reason: str
    at_ns: int


class Failures:
    """What failed: all counted, the last `FAILURES_KEPT` kept with their reasons."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Fallback] = deque(maxlen=FAILURES_KEPT)
        self._count = 0
        self._restarts = 0

    def add(self, device: str, during: Literal["probe", "load", "run"], error: LinesideError) -> None:
        """Logs, counts and keeps a failure."""
        reason = str(error)  # whoever keeps a log record must not keep the frames of an error, and their memory
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
        """How many there were."""
        return self._count

    @property
    def kept(self) -> tuple[Fallback, ...]:
        """The last ones, oldest first."""
        with self._lock:
            return tuple(self._kept)
