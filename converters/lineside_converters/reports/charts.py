"""The drawings of ``report.html`` as SVG: the drop, the layers, the sensitivity curves and the front."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

from lineside_converters.reports.report_parts import LayerChoice, MetricChange, SearchPoint, SensitivityCurve
from lineside_runtime.benchmark.pages.svg import WIDTH, short, svg
from lineside_runtime.precision import FLOAT_PRECISIONS

LEFT, RIGHT = 76, 24
"""Room at both sides of a drawing with an axis upwards."""

CURVES_MAX = 24
"""Layers whose sensitivity is drawn, the most sensitive first; all are in ``report.json``."""


def drop(metric: MetricChange, limit: float | None) -> str:
    """Draws the metric's drop in points with its interval, no drop, and what was allowed.

    Args:
        metric: Before and after.
        limit: The largest drop that was allowed, 0 to 1; ``None`` where nothing was asked for.
    """
    ends = [0.0, metric.low, metric.high, metric.before - metric.after, *([] if limit is None else [limit])]
    low, high = min(ends) * 100, max(ends) * 100
    room = max(high - low, 0.5) * 0.15
    low, high = low - room, high + room

    def x(points: float) -> float:
        return LEFT + (points - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    left, at, right = (x(each * 100) for each in (metric.low, metric.before - metric.after, metric.high))
    parts = [
        *(
            f'<line class="lane" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="26" y2="84"/>'
            f'<text class="axis" x="{x(mark):.1f}" y="104" text-anchor="middle">{_signed(mark)}</text>'
            for mark in _marks(low, high, 8)
        ),
        f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="26" y2="84"/>',
        f'<line class="whisker thick" x1="{left:.1f}" x2="{right:.1f}" y1="56" y2="56"/>',
        *(f'<line class="whisker thick" x1="{e:.1f}" x2="{e:.1f}" y1="46" y2="66"/>' for e in (left, right)),
        f'<circle class="c0" cx="{at:.1f}" cy="56" r="7"/>',
        f'<text class="axis" x="{WIDTH - RIGHT}" y="122" text-anchor="end">points of {html.escape(metric.name)} lost; '
        "left of 0 is a gain</text>",
    ]
    if limit is not None:
        anchor = "end" if x(limit * 100) > WIDTH * 0.8 else "middle"
        parts.append(
            f'<line class="limit" x1="{x(limit * 100):.1f}" x2="{x(limit * 100):.1f}" y1="26" y2="84"/>'
            f'<text class="limit-text" x="{x(limit * 100):.1f}" y="18" text-anchor="{anchor}">allowed</text>'
        )
    return svg(128, f"drop of {metric.name} with its interval", parts)


def layers(chosen: Sequence[LayerChoice]) -> str:
    """Draws each layer as a column as high as its multiplications, in its precision's colour."""
    top, base, height = 14, 150, 176
    most = max((layer.macs for layer in chosen), default=0)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(chosen))
    parts = [f'<line class="lane" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>']
    for number, layer in enumerate(chosen):
        share = math.sqrt(layer.macs / most) if most else 0.5  # by the root, so that small layers are seen too
        colour = "c2" if layer.precision in FLOAT_PRECISIONS else "c0"
        tall = max(4.0, share * (base - top))
        parts.append(
            f'<rect class="{colour}" x="{LEFT + number * step:.2f}" y="{base - tall:.1f}" '
            f'width="{max(1.0, step - min(2.0, step * 0.2)):.2f}" height="{tall:.1f}"><title>{html.escape(layer.name)} '
            f"({html.escape(layer.kind)}): {layer.precision}, {html.escape(layer.why)}, {layer.macs / 1e6:.2f} M "
            f"multiplications</title></rect>"
        )
    if most:
        parts.append(f'<text class="axis" x="{LEFT - 10}" y="{top + 8}" text-anchor="end">{most / 1e6:.3g} M</text>')
    parts.append(f'<text class="axis" x="{LEFT}" y="{height - 8}">input</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{height - 8}" text-anchor="end">output</text>')
    return svg(height, "precision and multiplications of each layer", parts)


def curves(found: Sequence[SensitivityCurve]) -> str:
    """Draws a small curve a layer, the most sensitive first, all on one scale; a ring is what was taken."""
    shown = sorted(found, key=lambda curve: min(curve.metrics) - curve.metrics[0])[:CURVES_MAX]
    columns, wide, tall = 4, WIDTH / 4, 132
    low = min(min(curve.metrics) for curve in shown)
    high = max(max(curve.metrics) for curve in shown)
    most = max(max(curve.ratios) for curve in shown) or 1.0

    def point(ratio: float, metric: float, column: int, row: int) -> tuple[float, float]:
        y = 0.0 if high == low else (high - metric) / (high - low)
        return column * wide + 14 + ratio / most * (wide - 34), row * tall + 26 + y * (tall - 52)

    parts = []
    for number, curve in enumerate(shown):
        row, column = divmod(number, columns)
        points = [point(*pair, column, row) for pair in zip(curve.ratios, curve.metrics, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        base = point(0, low, column, row)[1]
        x, y = point(curve.chosen, _at(curve, curve.chosen), column, row)
        parts.append(
            f'<text x="{column * wide + 14:.0f}" y="{row * tall + 14:.0f}">{_fit(curve.layer, 30)}</text>'
            f'<line class="lane" x1="{column * wide + 14:.0f}" x2="{(column + 1) * wide - 20:.0f}" y1="{base:.1f}" '
            f'y2="{base:.1f}"/><polyline class="l0" points="{path}"/>'
            f'<circle class="taken" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{html.escape(curve.layer)}: '
            f"{curve.chosen:.0%} taken out</title></circle>"
            f'<text class="axis" x="{column * wide + 14:.0f}" y="{base + 16:.1f}">{curve.metrics[0]:.3f} → '
            f"{min(curve.metrics):.3f} at {curve.ratios[curve.metrics.index(min(curve.metrics))]:.0%}; "
            f"took {curve.chosen:.0%}</text>"
        )
    height = math.ceil(len(shown) / columns) * tall
    return svg(height, "the metric as channels of one layer are taken out", parts)


def front(found: Sequence[SearchPoint], name: str) -> str:
    """Draws every model that was measured by latency and metric, with the line of those that none beats.

    Args:
        found: What a search measured.
        name: Of the metric.
    """
    height, bottom = 400, 350
    series = list(dict.fromkeys(each.series for each in found))
    times, metrics = [each.latency_ms for each in found], [each.metric for each in found]
    x_low, x_high = _widened(min(times), max(times))
    y_low, y_high = _widened(min(metrics), max(metrics))

    def x(ms: float) -> float:
        return LEFT + (ms - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(metric: float) -> float:
        return 16 + (y_high - metric) / (y_high - y_low) * (bottom - 16)

    best = sorted((each for each in found if each.front), key=lambda each: each.latency_ms)
    steps = " ".join(f"{x(each.latency_ms):.1f},{y(each.metric):.1f}" for each in best)
    parts = [
        *(
            f'<line class="lane" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="16" y2="{bottom}"/><text class="axis" '
            f'x="{x(mark):.1f}" y="{bottom + 18}" text-anchor="middle">{mark:g}</text>'
            for mark in _marks(x_low, x_high, 8)
        ),
        *(
            f'<line class="lane" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/><text '
            f'class="axis" x="{LEFT - 10}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>'
            for mark in _marks(y_low, y_high, 6)
        ),
        f'<polyline class="edge" points="{steps}"/>',
        *(_dot(each, x(each.latency_ms), y(each.metric), series.index(each.series), name) for each in found),
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{bottom + 36}" text-anchor="end">ms a frame</text>',
        f'<text class="axis" x="{LEFT}" y="11">{short(name)}</text>',
    ]
    return svg(height, f"{name} against latency of every model that was measured", parts)


def _dot(each: SearchPoint, x: float, y: float, series: int, name: str) -> str:
    ring = f'<circle class="taken" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if each.shipped else ""
    return (
        f"<g><title>{html.escape(each.what)}: {each.latency_ms:.2f} ms, {html.escape(name)} {each.metric:.3f}"
        f'{", shipped" if each.shipped else ""}</title><circle class="c{series % 6}{"" if each.front else " faint"}" '
        f'cx="{x:.1f}" cy="{y:.1f}" r="6"/>{ring}</g>'
    )


def _at(curve: SensitivityCurve, ratio: float) -> float:
    """Reads a curve between its points."""
    pairs = list(zip(curve.ratios, curve.metrics, strict=True))
    for (left, low), (right, high) in itertools.pairwise(pairs):
        if left <= ratio <= right:
            return low + (high - low) * (ratio - left) / (right - left) if right > left else low
    return pairs[0][1] if ratio < pairs[0][0] else pairs[-1][1]


def _marks(low: float, high: float, most: int) -> list[float]:
    """Returns round values between two: multiples of 1, 2 or 5 times a power of ten, at most so many."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _signed(points: float) -> str:
    return f"{points:g}".replace("-", "−")


def _fit(name: str, letters: int) -> str:
    """Shortens a name from its front: what tells layers apart stands at the end."""
    return html.escape(name if len(name) <= letters else f"…{name[1 - letters :]}")
