"""Counts of the running shift: parts by verdict and defect type, and how the reject rate goes."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Sequence
from typing import Any

from lineside_agent.line_io.codes import defect_types
from lineside_agent.storage.record_queries import CHALLENGE, VERDICTS
from lineside_link.messages import ResultRow

TREND_STEP_NS = 300 * 10**9
"""Time of one point of the trend."""

TREND_POINTS = 36

TYPES_MAX = 50
"""Defect types that are counted by name."""

OTHER_TYPES = "(other)"

MINUTE_NS = 60 * 10**9

_DAY_S = 86400


def shift_start_ns(now_ns: int, starts: Sequence[str]) -> int:
    """Returns the Unix time at which the shift of ``now_ns`` began.

    Args:
        starts: Times of day, ``HH:MM`` in local time.
    """
    now_s = now_ns / 1e9
    candidates = []
    for day in (0, 1, 2):  # where the clock is put forward, yesterday's midnight is 23 hours ago
        date = time.localtime(now_s - day * _DAY_S)
        for start in starts:
            hour, minute = map(int, start.split(":"))
            candidates.append(time.mktime((date.tm_year, date.tm_mon, date.tm_mday, hour, minute, 0, 0, 0, -1)))
    return int(max(one for one in candidates if one <= now_s)) * 10**9


class ShiftCounters:
    """Counts of the running shift; any thread adds. Challenge parts and unknown numbers are not counted.

    Args:
        starts: As for `shift_start_ns`.
    """

    def __init__(self, starts: Sequence[str]) -> None:
        self._starts = tuple(starts)
        self._lock = threading.Lock()
        self._minute = 0
        self._begin(time.time_ns())

    @property
    def start_ns(self) -> int:
        """Unix time at which the shift began."""
        return self._start_ns

    def add(self, row: ResultRow, *, now_ns: int) -> None:
        """Counts a record, if it is of the shift of ``now_ns``."""
        with self._lock:
            self._roll_over(now_ns)
            if row.captured_at_ns < self._start_ns or row.unknown or row.part_id.startswith(CHALLENGE):
                return
            verdict = "unsure" if row.unsure else row.verdict
            self._verdicts[verdict] += 1
            point = self._trend.setdefault((row.captured_at_ns - self._start_ns) // TREND_STEP_NS, [0, 0])
            point[0] += 1
            point[1] += verdict != "pass"
            if row.verdict == "reject":
                for kind in defect_types(row):
                    known = kind in self._types or len(self._types) < TYPES_MAX
                    self._types[kind if known else OTHER_TYPES] += 1

    def _roll_over(self, now_ns: int) -> None:
        """Begins the next shift, when its time has come: at a whole minute."""
        if now_ns // MINUTE_NS != self._minute:
            self._minute = now_ns // MINUTE_NS
            if shift_start_ns(now_ns, self._starts) != self._start_ns:
                self._begin(now_ns)

    def _begin(self, now_ns: int) -> None:
        self._start_ns = shift_start_ns(now_ns, self._starts)
        self._minute = now_ns // MINUTE_NS
        self._verdicts = collections.Counter(dict.fromkeys(VERDICTS, 0))
        self._types: collections.Counter[str] = collections.Counter()
        self._trend: dict[int, list[int]] = {}

    def status(self, now_ns: int) -> dict[str, Any]:
        """Returns the counts; the trend is a list of ``[parts, not passed]`` for each `TREND_STEP_NS`."""
        with self._lock:
            self._roll_over(now_ns)
            last = max(0, (now_ns - self._start_ns) // TREND_STEP_NS)
            points = range(max(0, last + 1 - TREND_POINTS), last + 1)
            return {
                "start_ns": self._start_ns,
                "parts": sum(self._verdicts.values()),
                "verdicts": dict(self._verdicts),
                "types": self._types.most_common(),
                "trend_step_s": TREND_STEP_NS // 10**9,
                "trend": [self._trend.get(point, [0, 0]) for point in points],
            }
