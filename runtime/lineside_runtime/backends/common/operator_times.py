"""Sum the times of operators that engines report for each call or each operator."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from lineside_runtime.backend import OperatorTime


class OperatorTimes:
    """Times of operators, summed over calls; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str], tuple[int, float]] = {}

    def add(self, times: Iterable[tuple[str, str, float]]) -> None:
        """Adds name, kind and microseconds of each operator that has run."""
        with self._lock:
            for name, kind, took_us in times:
                calls, total_us = self._sums.get((name, kind), (0, 0.0))
                self._sums[name, kind] = (calls + 1, total_us + took_us)

    def means(self) -> tuple[OperatorTime, ...]:
        """Returns the means, in the order in which the operators first ran."""
        with self._lock:
            return tuple(
                OperatorTime(name, kind, calls, total_us / calls)
                for (name, kind), (calls, total_us) in self._sums.items()
            )
