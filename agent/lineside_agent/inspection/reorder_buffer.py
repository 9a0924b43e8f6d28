"""Restore the order of results that several threads finish in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable

AHEAD = 4
"""So far may a thread get ahead of the slowest one; then it waits, since results are held in memory."""


class ReorderBuffer:
    """Runs work in the order of positions from 1, each of which is taken by one thread.

    A thread leaves the work for its result and goes on to the next frame. The thread whose position is next does its
    own work and that of those behind it that are ready, so no thread waits to be woken. `concurrent.futures` gives
    results in order only to a thread that waits for them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 1
        self._ready: dict[int, Callable[[], None]] = {}
        self._running = False
        self._end_at: int | None = None

    def put(self, position: int, work: Callable[[], None]) -> bool:
        """Has ``work`` called once all positions before are done, by any thread; an error in it ends the order.

        Returns:
            False if the order ended before this position: then ``work`` is not called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over(position) or position <= self._next + AHEAD)
            if self._is_over(position):
                return False
            self._ready[position] = work
            due = None if self._running else self._due()
        while due is not None:
            try:
                due()
            except BaseException:
                self.end(0)
                raise
            with self._changed:
                self._next += 1
                self._changed.notify_all()
                due = self._due()
        return True

    def end(self, position: int) -> None:
        """Ends the order at a position: what comes before it still runs, it and what follows do not."""
        with self._changed:
            self._end_at = position if self._end_at is None else min(position, self._end_at)
            self._changed.notify_all()

    def _is_over(self, position: int) -> bool:
        return self._end_at is not None and position >= self._end_at

    def _due(self) -> Callable[[], None] | None:
        """Takes the next work; while there is some, only the caller runs work."""
        work = None if self._is_over(self._next) else self._ready.pop(self._next, None)
        self._running = work is not None
        return work
