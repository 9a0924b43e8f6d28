"""The charts of ``report.html``: the drop of the metric, the layers, the sensitivity curves and the front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

from lineside_converters.reports.report_parts import LayerChoice, MetricChange, SearchPoint, SensitivityCurve
from lineside_runtime.precision import FLOAT_PRECISIONS
from lineside_runtime.reports.svg import COLOURS, WIDTH, Plot, column, dot, line, round_marks, svg, text, widened

CURVES_MAX = 24
"""Layers whose sensitivity is drawn, the most sensitive first; all are in ``report.json``."""

_NAME_LETTERS = 30


def drop(metric: MetricChange, limit: float | None) -> str:
    """Draws the metric's drop in points with its interval, the line of no drop, and the limit.

    Args:
        limit: The largest drop that was allowed, 0 to 1; ``None`` for no limit.
    """
    lost = metric.before - metric.after
    ends = [0.0, metric.low, metric.high, lost, *([] if limit is None else [limit])]
    low, high = min(ends) * 100, max(ends) * 100
    margin = max(high - low, 0.5) * 0.15
    low, high = low - margin, high + margin
    plot = Plot((low, high), top=26, bottom=84)
    left, right = plot.x(metric.low * 100), plot.x(metric.high * 100)
    parts = [
        plot.columns(round_marks(low, high, 8), lambda points: f"{points:g}".replace("-", "−")),
        plot.upright(0.0, "strong"),
        line(left, 56, right, 56, "thick"),
        *(line(end, 46, end, 66, "thick") for end in (left, right)),
        dot(plot.x(lost * 100), 56, "c0", 7),
        text(plot.right, 122, f"points of {metric.name} lost; left of 0 is a gain", anchor="end"),
    ]
    if limit is not None:
        anchor = "end" if plot.x(limit * 100) > WIDTH * 0.8 else "middle"
        parts.append(plot.upright(limit * 100, "limit"))
        parts.append(text(plot.x(limit * 100), 18, "allowed", anchor=anchor, css="limit"))
    return svg(128, f"drop of {metric.name} with its interval", parts)


def layers(chosen: Sequence[LayerChoice]) -> str:
    """Draws each layer as a column in its precision's colour, as high as the root of its multiplications."""
    most = max((layer.macs for layer in chosen), default=0)
    plot = Plot((0, max(1, len(chosen))), bottom=150)
    step = plot.x(1) - plot.x(0)
    parts = [line(plot.left, plot.bottom, plot.right, plot.bottom, "grid")]
    for number, layer in enumerate(chosen):
        share = math.sqrt(layer.macs / most) if most else 0.5
        height = max(4.0, plot.bottom - plot.y(share))
        title = f"{layer.name} ({layer.kind}): {layer.precision}, {layer.why}, {layer.macs / 1e6:.2f} M multiplications"
        width = max(1.0, step - min(2.0, step * 0.2))
        colour = "c2" if layer.precision in FLOAT_PRECISIONS else "c0"
        parts.append(column(plot.x(number), plot.bottom - height, width, height, colour, title))
    if most:
        parts.append(text(plot.left - 10, plot.top + 8, f"{most / 1e6:.3g} M", anchor="end"))
    parts.append(text(plot.left, plot.bottom + 18, "input"))
    parts.append(text(plot.right, plot.bottom + 18, "output", anchor="end"))
    return svg(plot.bottom + 26, "precision and multiplications of each layer", parts)


def curves(found: Sequence[SensitivityCurve]) -> str:
    """Draws a small curve for each layer, the most sensitive first, all on one scale; a ring is what was taken out."""
    shown = sorted(found, key=lambda curve: min(curve.metrics) - curve.metrics[0])[:CURVES_MAX]
    columns, width, height = 4, WIDTH / 4, 132
    low, high = min(min(curve.metrics) for curve in shown), max(max(curve.metrics) for curve in shown)
    most = max(max(curve.ratios) for curve in shown) or 1.0
    parts = []
    for number, curve in enumerate(shown):
        row, place = divmod(number, columns)
        left, top = place * width + 14, row * height
        plot = Plot((0, most), (low, high), left=left, right=left + width - 34, top=top + 26, bottom=top + height - 26)
        worst = min(curve.metrics)
        at = curve.ratios[curve.metrics.index(worst)]
        parts += [
            text(left, top + 14, _shorten_front(curve.layer), css=""),
            line(plot.left, plot.bottom, plot.right, plot.bottom, "grid"),
            plot.curve(zip(curve.ratios, curve.metrics, strict=True), "l0"),
            dot(
                plot.x(curve.chosen),
                plot.y(_at(curve, curve.chosen)),
                "ring",
                5,
                f"{curve.layer}: {curve.chosen:.0%} taken out",
            ),
            text(
                left,
                plot.bottom + 16,
                f"{curve.metrics[0]:.3f} → {worst:.3f} at {at:.0%}; took {curve.chosen:.0%}",
            ),
        ]
    rows = math.ceil(len(shown) / columns)
    return svg(rows * height, "the metric as channels of one layer are taken out", parts)


def front(found: Sequence[SearchPoint], name: str) -> str:
    """Draws every measured model by latency and metric, and the line of those that no other beats."""
    series = list(dict.fromkeys(each.series for each in found))
    times, metrics = [each.latency_ms for each in found], [each.metric for each in found]
    x, y = widened(min(times), max(times)), widened(min(metrics), max(metrics))
    plot = Plot(x, y, top=16, bottom=350)
    best = sorted((each for each in found if each.front), key=lambda each: each.latency_ms)
    parts = [
        plot.columns(round_marks(*x, 8)),
        plot.rows(round_marks(*y, 6)),
        plot.curve([(each.latency_ms, each.metric) for each in best], "dashed"),
        *(_measured_model(plot, each, series.index(each.series), name) for each in found),
        text(plot.right, plot.bottom + 36, "ms a frame", anchor="end"),
        text(plot.left, 11, name),
    ]
    return svg(plot.bottom + 50, f"{name} against latency of every model that was measured", parts)


def _measured_model(plot: Plot, each: SearchPoint, series: int, name: str) -> str:
    x, y = plot.x(each.latency_ms), plot.y(each.metric)
    title = f"{each.what}: {each.latency_ms:.2f} ms, {name} {each.metric:.3f}{', shipped' if each.shipped else ''}"
    faint = "" if each.front else " faint"
    ring = dot(x, y, "ring", 11) if each.shipped else ""
    return f"<g><title>{escape(title)}</title>{dot(x, y, f'c{series % COLOURS}{faint}', 6)}{ring}</g>"


def _at(curve: SensitivityCurve, ratio: float) -> float:
    """Interpolates a curve."""
    pairs = list(zip(curve.ratios, curve.metrics, strict=True))
    for (left, low), (right, high) in itertools.pairwise(pairs):
        if left <= ratio <= right:
            return low + (high - low) * (ratio - left) / (right - left) if right > left else low
    return pairs[0][1] if ratio < pairs[0][0] else pairs[-1][1]


def _shorten_front(name: str) -> str:
    """Shortens a name at its front: layers differ at the end of their names."""
    return name if len(name) <= _NAME_LETTERS else f"…{name[1 - _NAME_LETTERS :]}"
