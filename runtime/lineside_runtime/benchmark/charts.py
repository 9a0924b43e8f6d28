"""The charts of the benchmark page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape

from lineside_runtime.benchmark.operators import Bottleneck
from lineside_runtime.benchmark.report import Result
from lineside_runtime.reports.svg import COLOURS, LABEL, WIDTH, Plot, bars, column, dot, line, round_marks, shorten, svg
from lineside_runtime.reports.svg import text as svg_text

_ROW = 46
_KINDS_SHOWN = 8
_DRIFT_LOW, _DRIFT_HIGH = -0.3, 0.6


def latencies(results: Sequence[Result]) -> str:
    """Draws each contestant's calls as a box: 5th to 95th percentile, the middle half, median, 99th as a ring.

    The axis is logarithmic if one contestant takes more than ten times as long as another.
    """
    top = max(one.latency_ms.p99 for one in results)
    bottom = min(one.latency_ms.p5 for one in results)
    logarithmic = top > 10 * bottom
    low, high = (bottom * 0.8 if logarithmic else 0.0), top * 1.1
    warp = math.log if logarithmic else float
    plot = Plot((low, high), left=LABEL, right=WIDTH - 20, top=0, bottom=_ROW * len(results), warp=warp)
    marks = _decades(low, high) if logarithmic else round_marks(low, high, 8)
    parts = [plot.columns(marks), svg_text(LABEL - 12, plot.bottom + 18, "ms", anchor="end")]
    for number, one in enumerate(results):
        y, times = number * _ROW + _ROW / 2, one.latency_ms
        left, right = plot.x(times.p25), plot.x(times.p75)
        title = f"{one.name}: p50 {times.p50:.3f} ms, p95 {times.p95:.3f} ms, p99 {times.p99:.3f} ms"
        parts.append(
            f"<g><title>{escape(title)}</title>"
            f'<text x="{LABEL - 12}" y="{y + 4}" text-anchor="end">{shorten(one.name)}</text>'
            f"{line(plot.x(times.p5), y, plot.x(times.p95), y, 'whisker')}"
            f"{column(left, y - 10, max(2.0, right - left), 20, f'c{number % COLOURS}')}"
            f"{line(plot.x(times.p50), y - 14, plot.x(times.p50), y + 14, 'median')}"
            f"{dot(plot.x(times.p99), y, 'ring', 4)}</g>"
        )
    return svg(plot.bottom + 34, "latency of a call by contestant", parts)


def _decades(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten inside a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [mark for power in powers for factor in (1, 2, 5) if low <= (mark := factor * 10.0**power) <= high]


def rounds(results: Sequence[Result]) -> str:
    """Draws the median of each turn relative to the contestant's own median: noise and drift."""
    count = len(results[0].turns_ms)
    plot = Plot((1, count), (_DRIFT_LOW, _DRIFT_HIGH), left=LABEL, right=WIDTH - 10, top=8, bottom=158)
    parts = [
        plot.rows((-0.25, 0.0, 0.25, 0.5), lambda share: f"{share:+.0%}".replace("-", "−") if share else "its median")
    ]
    for number, one in enumerate(results):
        middle = statistics.median(one.turns_ms)
        points = [
            (turn, max(_DRIFT_LOW, min(_DRIFT_HIGH, time / middle - 1))) for turn, time in enumerate(one.turns_ms, 1)
        ]
        parts.append(plot.curve(points, f"l{number % COLOURS}", one.name))
    parts.append(svg_text(LABEL, plot.bottom + 18, "round 1"))
    parts.append(svg_text(WIDTH - 10, plot.bottom + 18, str(count), anchor="end"))
    return svg(plot.bottom + 32, "median of each turn over the rounds", parts)


def kinds(table: Bottleneck) -> str:
    """Draws the share of each kind of operator, the largest first, the smallest together in one bar."""
    shown, rest = table.kinds[:_KINDS_SHOWN], table.kinds[_KINDS_SHOWN:]
    rows = [(one.kind, one.share, one.us_per_run) for one in shown]
    if rest:
        rows.append((f"{len(rest)} other kinds", sum(one.share for one in rest), sum(one.us_per_run for one in rest)))
    return bars(
        [(kind, share, f"{share:.1%} · {us:.0f} µs") for kind, share, us in rows],
        "share of the time by kind of operator",
    )
