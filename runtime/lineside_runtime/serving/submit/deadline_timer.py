"""One thread that calls back at given times.

``threading.Timer`` needs a thread for each call, and ``sched`` can't accept an earlier time while it sleeps.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable


class DeadlineTimer:
    """Calls back at times of ``time.monotonic``; its thread starts with the first one."""

    def __init__(self, name: str) -> None:
        """Takes the name of the thread."""
        self._name = name
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._wakes_at_s = math.inf
        self._thread: threading.Thread | None = None
        self._stopped = False

    def at(self, at_s: float, callback: Callable[[], None]) -> None:
        """Calls ``callback`` at ``at_s``; it must neither raise nor take long. After `stop` it does nothing."""
        with self._changed:
            if self._stopped:
                return
            heapq.heappush(self._due, (at_s, next(self._number), callback))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif at_s < self._wakes_at_s:  # later ones need not wake it: most deadlines are as long as the last one
                self._changed.notify()

    def stop(self) -> None:
        """Drops the pending callbacks and ends the thread."""
        with self._changed:
            self._stopped = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (callback := self._next()) is not None:
            callback()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                self._wakes_at_s = self._due[0][0] if self._due else math.inf
                if self._wakes_at_s <= now:
                    self._wakes_at_s = now
                    return heapq.heappop(self._due)[2]
                self._changed.wait(None if self._wakes_at_s == math.inf else self._wakes_at_s - now)
        return None
