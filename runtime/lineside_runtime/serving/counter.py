"""`Counter`: counts what many threads do, without a lock on their way."""

from __future__ import annotations

import itertools
import threading


class Counter:
    """Counts up; ``next`` of ``itertools.count`` is atomic, where a lock would take 0.2 µs of each call.

    Attributes:
        add: Counts one more.
    """

    __slots__ = ("_lock", "_numbers", "_reads", "add")

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.add = self._numbers.__next__
        self._lock = threading.Lock()
        self._reads = 0

    @property
    def value(self) -> int:
        """How often `add` was called. To look is to count as well, so that is taken off again."""
        with self._lock:
            value = self.add() - self._reads
            self._reads += 1
            return value
