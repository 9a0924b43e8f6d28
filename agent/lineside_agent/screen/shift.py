"""Counts of the running shift: parts by verdict and defect type, and how the reject rate goes."""

from __future__ import annotations

import collections
import dataclasses
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

SHIFTS_KEPT = 2
"""Shifts whose counts are kept, the running one among them."""

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


@dataclasses.dataclass
class _Shift:
    start_ns: int
    verdicts: collections.Counter[str] = dataclasses.field(
        default_factory=lambda: collections.Counter(dict.fromkeys(VERDICTS, 0))
    )
    types: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    trend: dict[int, list[int]] = dataclasses.field(default_factory=dict)


class ShiftCounters:
    """Counts of the running shift; any thread adds. Challenge parts and unknown numbers are not counted.

    A clock that is put back over the begin of a shift returns to the counts of the shift before, and later to these.

    Args:
        starts: As for `shift_start_ns`.
    """

    def __init__(self, starts: Sequence[str]) -> None:
        self._starts = tuple(starts)
        self._lock = threading.Lock()
        self._minute = -1
        self._shifts: list[_Shift] = []  # the running one last
        self._roll_over(time.time_ns())

    @property
    def start_ns(self) -> int:
        """Unix time at which the shift began."""
        return self._shifts[-1].start_ns

    def add(self, row: ResultRow, *, now_ns: int) -> None:
        """Counts a record, if it is of the shift of ``now_ns``."""
        with self._lock:
            shift = self._roll_over(now_ns)
            if row.captured_at_ns < shift.start_ns or row.unknown or row.part_id.startswith(CHALLENGE):
                return
            verdict = "unsure" if row.unsure else row.verdict
            shift.verdicts[verdict] += 1
            point = shift.trend.setdefault((row.captured_at_ns - shift.start_ns) // TREND_STEP_NS, [0, 0])
            point[0] += 1
            point[1] += verdict != "pass"
            if row.verdict == "reject":
                for kind in defect_types(row):
                    known = kind in shift.types or len(shift.types) < TYPES_MAX
                    shift.types[kind if known else OTHER_TYPES] += 1

    def _roll_over(self, now_ns: int) -> _Shift:
        """Returns the shift of ``now_ns``; another one begins at a whole minute."""
        if now_ns // MINUTE_NS != self._minute:
            self._minute = now_ns // MINUTE_NS
            start_ns = shift_start_ns(now_ns, self._starts)
            found = next((one for one in self._shifts if one.start_ns == start_ns), _Shift(start_ns))
            self._shifts = [*(one for one in self._shifts if one is not found), found][-SHIFTS_KEPT:]
        return self._shifts[-1]

    def status(self, now_ns: int) -> dict[str, Any]:
        """Returns the counts; the trend is a list of ``[parts, not passed]`` for each `TREND_STEP_NS`."""
        with self._lock:
            shift = self._roll_over(now_ns)
            last = max(0, (now_ns - shift.start_ns) // TREND_STEP_NS)
            points = range(max(0, last + 1 - TREND_POINTS), last + 1)
            return {
                "start_ns": shift.start_ns,
                "parts": sum(shift.verdicts.values()),
                "verdicts": dict(shift.verdicts),
                "types": shift.types.most_common(),
                "trend_step_s": TREND_STEP_NS // 10**9,
                "trend": [shift.trend.get(point, [0, 0]) for point in points],
            }
