"""`ResultStatistics`: results that the line was told, by code and defect type, and how long they took."""

from __future__ import annotations

import bisect
import collections
import itertools
from typing import Any

from lineside_agent.line_io.codes import defect_types
from lineside_agent.line_io.events import REFUSALS, Code
from lineside_link.messages import ResultRow

LATENCY_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histogram; longer times are counted beyond the last."""

TYPES_MAX = 100
"""Defect types that are counted by name: each is a time series in the metrics database."""

RECENT = 200
"""Latest results of which the times are kept."""

OTHER_TYPES = "(other)"
"""Name under which the types beyond `TYPES_MAX` are counted."""


class ResultStatistics:
    """Counts since the start; one thread at a time adds, any reads."""

    def __init__(self) -> None:
        self._codes = collections.Counter({code.name: 0 for code in Code if code})
        self._defects: collections.Counter[str] = collections.Counter()
        self._latency = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._latency_sum_s = 0.0
        self._recent_s: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._marks: dict[str, collections.Counter[str]] = {}

    @property
    def recent_s(self) -> list[float]:
        """Times of the latest `RECENT` results in the histogram, oldest first; in seconds."""
        return list(self._recent_s)

    def add(self, code: Code, row: ResultRow, took_s: float) -> None:
        """Counts a result.

        Args:
            took_s: From trigger to result, or from frame to verdict where the line does not trigger. Parts that were
                refused at their trigger are not part of the histogram.
        """
        self._codes[code.name] += 1
        if code not in REFUSALS:
            self._latency[bisect.bisect_left(LATENCY_BOUNDS_S, took_s)] += 1
            self._latency_sum_s += took_s
            self._recent_s.append(took_s)
        for mark in itertools.chain(row.readings, *(view.readings for view in row.views)):
            if mark.name in self._marks or len(self._marks) < TYPES_MAX:
                result = "accepted" if mark.accepted else "refused" if mark.text else "unread"
                counts = self._marks.setdefault(mark.name, collections.Counter(accepted=0, refused=0, unread=0))
                counts[result] += 1
        if code.verdict != "reject":
            return
        for kind in defect_types(row):
            known = kind in self._defects or len(self._defects) < TYPES_MAX
            self._defects[kind if known else OTHER_TYPES] += 1

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of it."""
        return {
            "codes": dict(self._codes),
            "defects": dict(self._defects),
            "marks": {name: dict(counts) for name, counts in list(self._marks.items())},
            "latency_bounds_s": LATENCY_BOUNDS_S,
            "latency_counts": list(self._latency),
            "latency_sum_s": round(self._latency_sum_s, 6),
        }
