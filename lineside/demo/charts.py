"""The charts of the demo's report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lineside.demo.count import DemoEvent, DemoRow
from lineside_runtime.reports.svg import COLOURS, WIDTH, Plot, column, line, shorten, svg, text

HALF = 520
"""Width of a chart on half of the page."""

_NS_PER_S = 1e9
_LANE = 34
_TICK_HEIGHTS = {"pass": 14, "reject": 26, "unsure": 26, "fault": 30}


@dataclasses.dataclass(frozen=True, slots=True)
class ChartMark:
    """An event outside the devices, such as the end of the broker, at a Unix time."""

    at_ns: int
    label: str


def histogram(values_ms: Sequence[float], *, bins: int = 30) -> str:
    """Draws a latency histogram with its median, 95th and 99th percentile."""
    if not values_ms:
        return ""
    values = np.asarray(values_ms)
    high = float(np.percentile(values, 99.5)) * 1.1
    counts, edges = np.histogram(np.clip(values, 0.0, high), bins=bins, range=(0.0, high))
    plot = Plot((0.0, high), (0.0, float(counts.max())), left=0, right=HALF, top=30, bottom=180)
    parts = [
        column(
            plot.x(left) + 1,
            plot.y(count),
            plot.x(right) - plot.x(left) - 2,
            plot.bottom - plot.y(count),
            "bar",
            f"{left:.1f} to {right:.1f} ms: {count}",
        )
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    for row, percentile in enumerate((50, 95, 99)):
        value = float(np.percentile(values, percentile))
        x = min(plot.x(value), HALF - 5)
        parts.append(_flag(x, f"p{percentile} {value:.1f} ms", 20 + 16 * row, plot.bottom, HALF))
    for share, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end")):
        parts.append(text(share * HALF, plot.bottom + 18, f"{share * high:.0f} ms", anchor=anchor))
    return svg(plot.bottom + 26, "Latency of a frame, from camera to verdict", parts, width=HALF)


def timeline(
    results: Sequence[DemoRow], events: Sequence[DemoEvent], marks: Sequence[ChartMark], order: Sequence[str]
) -> str:
    """Draws every frame as a tick in the lane of the bundle that judged it, and every push above them.

    Args:
        marks: Events outside the devices.
        order: Bundles in the order in which they went live.
    """
    times = [row.captured_at_ns for row in results] + [event.at_ns for event in events] + [mark.at_ns for mark in marks]
    if not times:
        return ""
    start, end = min(times), max(times)
    plot = Plot((start, max(end, start + 1)), left=170, right=WIDTH - 20, top=96, bottom=96 + len(order) * _LANE)
    parts = []
    for index, name in enumerate(order):
        base = plot.top + index * _LANE + 30
        parts.append(text(plot.left - 12, base - 9, shorten(name), anchor="end", css=""))
        parts.append(line(plot.left, base, plot.right, base, "grid"))
        for row in results:
            if row.bundle == name:
                css, height = f"c{index % COLOURS} {row.verdict}", _TICK_HEIGHTS[row.verdict]
                x = plot.x(row.captured_at_ns) - 1
                parts.append(column(x, base - height, 2.4, height, css, f"{row.part_id}: {row.verdict}"))
    shown = [ChartMark(event.at_ns, _event_label(event)) for event in events if event.kind in ("active", "rolled_back")]
    for index, mark in enumerate(sorted([*shown, *marks], key=lambda mark: mark.at_ns)):
        parts.append(_flag(plot.x(mark.at_ns), mark.label, 16 + 19 * (index % 4), plot.bottom, WIDTH))
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = plot.left + share * (plot.right - plot.left)
        seconds = share * (end - start) / _NS_PER_S
        parts.append(text(x, plot.bottom + 22, f"{seconds:.0f} s", anchor="end" if share == 1 else "middle"))
    return svg(plot.bottom + 30, "Every frame and every push", parts)


def _event_label(event: DemoEvent) -> str:
    version = event.bundle.rpartition("@")[2]
    return f"{version} active" if event.kind == "active" else f"{version} refused, rolled back"


def _flag(x: float, label: str, y: float, bottom: float, width: float) -> str:
    anchor, offset = ("end", -5) if x > width * 0.72 else ("start", 5)
    return line(x, y - 10, x, bottom, "dashed") + text(x + offset, y, label, anchor=anchor, css="")
