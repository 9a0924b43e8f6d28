"""Counters of a session's submitted calls."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from typing import Literal

from lineside_runtime.serving.shared import Closable

Ending = Literal["answered", "failed", "expired", "cancelled"]


@dataclasses.dataclass(slots=True)
class SubmitCounts:
    """Counts of the submitted calls by outcome: ``taken`` is the sum of the next five.

    Attributes:
        taken: Calls that `Session.submit` gave to a device; one that the result cache answers isn't among them.
        pending: Have not ended yet.
        answered: Ended with a result.
        failed: Ended with an error other than 1008.
        expired: Ended with 1008, because no device answered before the deadline.
        cancelled: Were cancelled while they waited.
        refused: Were not taken, because the queue was full or every device hung.
        moved: How often a call was given to another device.
        late: Answers of a device that came after its call was given to another one or had ended; they were dropped.
        hung: How often a device was taken out because it hung.
    """

    taken: int = 0
    pending: int = 0
    answered: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    refused: int = 0
    moved: int = 0
    late: int = 0
    hung: int = 0


class SubmitCounters:
    """Counts calls over all bundles of a session, and waits until none is open."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._counts = SubmitCounts()
        self._open = 0
        self._delivering: set[int] = set()
        self._dispatchers: weakref.WeakSet[Closable] = weakref.WeakSet()

    def watch(self, dispatcher: Closable) -> None:
        """Adds a dispatcher that `finish` closes."""
        with self._changed:
            self._dispatchers.add(dispatcher)

    def took(self) -> None:
        """Counts a call that was taken."""
        with self._changed:
            self._counts.taken += 1
            self._open += 1

    def ended(self, how: Ending) -> None:
        """Counts a call that has ended; `delivered` must follow when its future is done."""
        with self._changed:
            setattr(self._counts, how, getattr(self._counts, how) + 1)
            self._delivering.add(threading.get_ident())

    def delivered(self) -> None:
        """Notes that a future is done and its callbacks have returned."""
        with self._changed:
            self._delivering.discard(threading.get_ident())
            self._open -= 1
            if not self._open:
                self._changed.notify_all()

    def count(self, what: Literal["refused", "moved", "late", "hung"]) -> None:
        """Counts another event."""
        with self._changed:
            setattr(self._counts, what, getattr(self._counts, what) + 1)

    @property
    def counts(self) -> SubmitCounts:
        """A copy of the counts."""
        with self._changed:
            now = dataclasses.replace(self._counts)
        now.pending = now.taken - now.answered - now.failed - now.expired - now.cancelled
        return now

    def finish(self, wait_s: float) -> None:
        """Waits until nothing is open, but no longer than this, and ends the rest with an error.

        May be called in a future's callback: it then doesn't wait for that one.
        """
        until_s = time.monotonic() + wait_s
        with self._changed:
            own = threading.get_ident() in self._delivering
            while self._open > own and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            dispatchers = list(self._dispatchers)
        for dispatcher in dispatchers:
            dispatcher.close()
