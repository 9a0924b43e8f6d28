"""Limits of the server: a bounded queue, first come first served; more calls are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator

from lineside_runtime.errors import ConfigError, DeadlineExceededError, OverloadedError

MIB = 1 << 20

_DAY_S = 86_400.0
_INT32_MAX = (1 << 31) - 1
_MOST = {
    "max_body_bytes": _INT32_MAX,  # gRPC counts with so many bits, and so does the kernel with milliseconds
    "request_timeout_s": _DAY_S,
    "header_timeout_s": _DAY_S,
}


@dataclasses.dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of the server.

    Attributes:
        workers: Calls that run at once.
        max_in_flight: Calls that run or wait; one more is refused with 503.
        max_body_bytes: Largest request, compressed or not; below 2 GiB.
        request_timeout_s: Longest time that a call may wait and run, and that a client may take to send its request.
        header_timeout_s: Longest time between a connection and the end of a request's headers; both at most a day.
    """

    workers: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    max_in_flight: int = 32
    max_body_bytes: int = 64 * MIB
    request_timeout_s: float = 30.0
    header_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ConfigError: One is not positive or too large, or fewer calls may wait than run.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            most = _MOST.get(field.name)
            if value <= 0 or (most is not None and value > most):
                expected = "a number > 0" if most is None else f"a number > 0, at most {most:.0f}"
                raise ConfigError(field.name, expected=expected, actual=value, action="")
        if self.max_in_flight < self.workers:
            raise ConfigError(
                "max_in_flight",
                expected=f"at least as many as {self.workers} workers",
                actual=self.max_in_flight,
                action="",
            )


class AdmissionGate:
    """Lets `ServerLimits.max_in_flight` calls in and `ServerLimits.workers` of them run."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(limits.workers)
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls that run or wait."""
        return self._in_flight

    def enter(self) -> None:
        """Lets a call in, at once or never; `leave` must follow.

        Raises:
            OverloadedError: Too many are in.
        """
        with self._lock:
            if self._in_flight >= self._limits.max_in_flight:
                raise OverloadedError(
                    "the server is busy", expected=f"at most {self._limits.max_in_flight} calls at once"
                )
            self._in_flight += 1

    def leave(self) -> None:
        """Lets a call out."""
        with self._lock:
            self._in_flight -= 1

    @contextlib.contextmanager
    def turn(self, timeout_s: float) -> Iterator[float]:
        """Waits until the call may run, and gives the seconds that it waited.

        Raises:
            DeadlineExceededError: It was not its turn in time.
        """
        began = time.perf_counter()
        if timeout_s <= 0 or not self._turns.acquire(timeout=timeout_s):
            raise DeadlineExceededError("the call waited for its turn", actual=f"more than {max(timeout_s, 0):.3f} s")
        try:
            yield time.perf_counter() - began
        finally:
            self._turns.release()


class MemoryBudget:
    """Bytes of request bodies held at once; used from one thread only, the event loop's."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, count: int) -> None:
        """Takes some; they must be given back.

        Raises:
            OverloadedError: There aren't so many left.
        """
        if count > self._left:
            raise OverloadedError("the server holds too many large requests at once")
        self._left -= count

    def give_back(self, count: int) -> None:
        """Returns the bytes to the budget."""
        self._left += count
