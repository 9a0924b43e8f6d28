"""The report's drawings as SVG: small, and readable in print, in the dark and without colour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from lineside.demo.count import DemoEvent, DemoRow

WIDTH = 1000
HALF = 520
"""Width of a drawing over the whole page and over half of it, in its own units; the page scales it."""

SERIES = ("a", "b", "c", "d")
"""Classes of the bundles in the page's style sheet, in the order in which the bundles went live."""

NS_PER_S = 1e9


@dataclasses.dataclass(frozen=True, slots=True)
class ChartMark:
    """Something that happened outside the devices, such as the broker's death.

    Attributes:
        at_ns: Unix time.
        label: In a few words.
    """

    at_ns: int
    label: str


def histogram(values_ms: Sequence[float], *, bins: int = 30) -> str:
    """Draws a latency histogram with its median and 99th percentile.

    Args:
        values_ms: Latencies in milliseconds.
        bins: How many bars.
    """
    if not values_ms:
        return ""
    height, base = 220, 180
    values = np.asarray(values_ms)
    low, high = 0.0, float(np.percentile(values, 99.5)) * 1.1
    counts, _ = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))
    step = HALF / bins
    bars = [
        f'<rect class="bar" x="{index * step + 1:.1f}" y="{base - share:.1f}" width="{step - 2:.1f}" '
        f'height="{share:.1f}"><title>{low + index * high / bins:.1f} to {low + (index + 1) * high / bins:.1f} ms: '
        f"{amount}</title></rect>"
        for index, (amount, share) in enumerate(zip(counts, counts / counts.max() * (base - 30), strict=True))
    ]
    lines = [
        _percentile_line(name, float(np.percentile(values, q)), HALF / high, base, row)
        for row, (name, q) in enumerate((("p50", 50), ("p95", 95), ("p99", 99)))
    ]
    ticks = [_tick(share * HALF, base, f"{share * high:.0f} ms") for share in (0, 0.25, 0.5, 0.75, 0.97)]
    return _svg(HALF, height, [*bars, *lines, *ticks], "Latency of a frame, from camera to verdict")


def _percentile_line(name: str, value_ms: float, scale: float, base: float, row: int) -> str:
    x = min(value_ms * scale, HALF - 5)
    anchor, shift = ("end", -5) if x > HALF * 0.8 else ("start", 5)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{base}"/>'
        f'<text x="{x + shift:.1f}" y="{20 + 16 * row}" text-anchor="{anchor}">{name} {value_ms:.1f} ms</text>'
    )


def _tick(x: float, base: float, label: str) -> str:
    return f'<text class="axis" x="{x:.1f}" y="{base + 18}">{label}</text>'


def bars(amounts: Sequence[tuple[str, int]]) -> str:
    """Draws one horizontal bar a name.

    Args:
        amounts: Name and count, in the order of drawing.
    """
    if not amounts:
        return ""
    row, left, right = 24, 130, 44
    most = max(amount for _, amount in amounts) or 1
    parts = []
    for index, (name, amount) in enumerate(amounts):
        y = index * row
        length = amount / most * (HALF - left - right)
        parts.append(
            f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="{left}" y="{y + 4}" width="{max(length, 1):.1f}" height="{row - 8}"/>'
            f'<text x="{left + length + 8:.1f}" y="{y + 17}">{amount}</text>'
        )
    return _svg(HALF, len(amounts) * row, parts, "Defects found, by type")


def timeline(
    results: Sequence[DemoRow], events: Sequence[DemoEvent], marks: Sequence[ChartMark], order: Sequence[str]
) -> str:
    """Draws every frame as a tick in the lane of the bundle that judged it, and every push above them.

    Args:
        results: One a frame.
        events: The hub's timeline.
        marks: What happened besides.
        order: Bundles in the order in which they went live.
    """
    times = [row.captured_at_ns for row in results] + [event.at_ns for event in events] + [mark.at_ns for mark in marks]
    if not times:
        return ""
    start, end = min(times), max(times)
    left, lane, top = 170, 34, 96

    def x(at_ns: int) -> float:
        return left + (at_ns - start) / max(end - start, 1) * (WIDTH - left - 20)

    parts = [_ticks(results, order, x, top, lane)]
    for index, name in enumerate(order):
        parts.append(
            f'<text x="{left - 12}" y="{top + index * lane + 21}" text-anchor="end">{escape(name)}</text>'
            f'<line class="lane" x1="{left}" x2="{WIDTH - 20}" '
            f'y1="{top + index * lane + 30}" y2="{top + index * lane + 30}"/>'
        )
    bottom = top + len(order) * lane
    shown = [ChartMark(event.at_ns, _event_label(event)) for event in events if event.kind in ("active", "rolled_back")]
    for index, mark in enumerate(sorted([*shown, *marks], key=lambda mark: mark.at_ns)):
        parts.append(_flag(x(mark.at_ns), mark.label, 16 + 19 * (index % 4), bottom))
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = left + share * (WIDTH - left - 20)
        anchor = "end" if share == 1 else "middle"
        seconds = share * (end - start) / NS_PER_S
        parts.append(f'<text class="axis" x="{at:.1f}" y="{bottom + 22}" text-anchor="{anchor}">{seconds:.0f} s</text>')
    return _svg(WIDTH, bottom + 30, parts, "Every frame and every push")


def _ticks(results: Sequence[DemoRow], order: Sequence[str], x: Callable[[int], float], top: int, lane: int) -> str:
    parts = []
    for row in results:
        if row.bundle not in order:
            continue
        index = order.index(row.bundle)
        y, height = top + index * lane, {"reject": 26, "unsure": 26, "pass": 14, "fault": 30}[row.verdict]
        at = x(row.captured_at_ns)
        parts.append(
            f'<rect class="tick {SERIES[index % len(SERIES)]} {row.verdict}" x="{at - 1:.1f}" y="{y + 30 - height}" '
            f'width="2.4" height="{height}"><title>{escape(row.part_id)}: {row.verdict}</title></rect>'
        )
    return "".join(parts)


def _event_label(event: DemoEvent) -> str:
    version = event.bundle.rpartition("@")[2]
    return f"{version} active" if event.kind == "active" else f"{version} refused, rolled back"


def _flag(x: float, label: str, y: float, bottom: float) -> str:
    anchor, shift = ("end", -5) if x > WIDTH * 0.72 else ("start", 5)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{bottom}"/>'
        f'<text x="{x + shift:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
