"""The page's pictures, as SVG text: no library on a device draws, and a browser does."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence

from lineside_runtime.benchmark.operators import Bottleneck, KindShare
from lineside_runtime.benchmark.pages.svg import COLOURS, LABEL, WIDTH, Scale, axis, short, svg
from lineside_runtime.benchmark.report import Result

_ROW = 46
KINDS_SHOWN = 8


def latencies(results: Sequence[Result]) -> str:
    """Draws each contestant's calls as a box: 5th to 95th percentile, the middle half, median, 99th as a ring.

    Logarithmic where one takes more than ten times as long as another.
    """
    top = max(one.latency_ms.p99 for one in results)
    bottom = min(one.latency_ms.p5 for one in results)
    scale = Scale(bottom * 0.8, top * 1.1) if top > 10 * bottom else Scale(0.0, top * 1.1)
    height = _ROW * len(results) + 34
    parts = [axis(scale, height - 34, "ms")]
    for number, one in enumerate(results):
        name = html.escape(one.name)
        y, times = number * _ROW + _ROW / 2, one.latency_ms
        x5, x50, x95, x99 = (scale.x(value) for value in (times.p5, times.p50, times.p95, times.p99))
        left, right = scale.x(times.p25), scale.x(times.p75)
        parts.append(
            f"<g><title>{name}: p50 {times.p50:.3f} ms, p95 {times.p95:.3f} ms, p99 {times.p99:.3f} ms</title>"
            f'<text x="{LABEL - 12}" y="{y + 4}" text-anchor="end">{short(one.name)}</text>'
            f'<line class="whisker" x1="{x5:.1f}" x2="{x95:.1f}" y1="{y}" y2="{y}"/>'
            f'<rect class="c{number % COLOURS}" x="{left:.1f}" y="{y - 10}" width="{max(2.0, right - left):.1f}" '
            f'height="20" rx="3"/><line class="median" x1="{x50:.1f}" x2="{x50:.1f}" y1="{y - 14}" y2="{y + 14}"/>'
            f'<circle class="ring" cx="{x99:.1f}" cy="{y}" r="4"/></g>'
        )
    return svg(height, "latency of a call by contestant", parts)


def rounds(results: Sequence[Result]) -> str:
    """Draws the median of each turn against the contestant's own median: what noise and drift look like."""
    height, room = 190, 150
    parts = [
        f'<line class="lane" x1="{LABEL}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LABEL - 12}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        for share, label in ((-0.25, "−25 %"), (0.0, "its median"), (0.25, "+25 %"), (0.5, "+50 %"))
        for y in [_level(share, room)]
    ]
    for number, one in enumerate(results):
        middle = statistics.median(one.turns_ms)
        step = (WIDTH - 10 - LABEL) / max(1, len(one.turns_ms) - 1)
        points = " ".join(
            f"{LABEL + index * step:.1f},{_level(time / middle - 1, room):.1f}"
            for index, time in enumerate(one.turns_ms)
        )
        parts.append(
            f'<polyline class="l{number % COLOURS}" points="{points}"><title>{html.escape(one.name)}</title></polyline>'
        )
    parts.append(f'<text class="axis" x="{LABEL}" y="{height - 14}">round 1</text>')
    parts.append(
        f'<text class="axis" x="{WIDTH - 10}" y="{height - 14}" text-anchor="end">{len(results[0].turns_ms)}</text>'
    )
    return svg(height, "median of each turn over the rounds", parts)


def kinds(table: Bottleneck) -> str:
    """Draws the share of each kind of operator, the largest first."""
    shown = list(table.kinds[:KINDS_SHOWN])
    rest = table.kinds[KINDS_SHOWN:]
    if rest:
        shown.append(_together(rest, table.runs))
    scale = Scale(0.0, max(one.share for one in shown), right=150)
    parts = []
    for number, one in enumerate(shown):
        y = number * 30 + 4
        end = scale.x(one.share)
        parts.append(
            f'<text x="{LABEL - 12}" y="{y + 16}" text-anchor="end">{short(one.kind)}</text>'
            f'<rect class="bar" x="{LABEL}" y="{y}" width="{max(1.0, end - LABEL):.1f}" height="22" rx="3"/>'
            f'<text x="{end + 8:.1f}" y="{y + 16}">{one.share:.1%} · {one.us_per_run:.0f} µs</text>'
        )
    return svg(30 * len(shown) + 8, "share of the time by kind of operator", parts)


def _level(share: float, room: float) -> float:
    """Where a turn that took this much longer than the median is drawn; what lies outside is drawn at the edge."""
    return 8 + (0.6 - max(-0.3, min(0.6, share))) / 0.9 * room


def _together(rest: Sequence[KindShare], runs: int) -> KindShare:
    calls, us = sum(one.calls for one in rest), sum(one.us_per_run for one in rest)
    return KindShare(
        kind=f"{len(rest)} other kinds",
        operators=sum(one.operators for one in rest),
        calls=calls,
        mean_us=us * runs / calls,
        us_per_run=us,
        share=sum(one.share for one in rest),
    )
