"""The chart of precision against recall: a small plot for each type, all on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lineside_converters.evaluation.figures import CostPoint, PrecisionRecallCurve
from lineside_runtime.reports.svg import WIDTH, Plot, dot, svg, text

_COLUMNS, _HEIGHT = 4, 190


def precision_recall(curves: Mapping[str, PrecisionRecallCurve], ap50: Mapping[str, float | None]) -> str:
    """Draws each type's curve; the ring is at its threshold."""
    parts = []
    for number, (name, curve) in enumerate(curves.items()):
        row, column = divmod(number, _COLUMNS)
        parts.append(_curve(name, curve, ap50[name], left=column * WIDTH / _COLUMNS, top=row * _HEIGHT))
    height = math.ceil(len(curves) / _COLUMNS) * _HEIGHT
    return svg(height, "precision against recall of each type", parts)


def _curve(name: str, curve: PrecisionRecallCurve, ap50: float | None, *, left: float, top: float) -> str:
    plot = Plot((0, 1), left=left + 34, right=left + WIDTH / _COLUMNS - 14, top=top + 26, bottom=top + _HEIGHT - 30)
    average = "" if ap50 is None else f" · AP {ap50:.3f}"
    parts = [
        text(plot.left, top + 14, f"{name[:22]}{average}", css=""),
        plot.rows((0.0, 0.5, 1.0)),
        plot.columns((0.0, 0.5, 1.0)),
        plot.curve(zip(curve.recall, curve.precision, strict=True), "l0"),
    ]
    if curve.precision_at_threshold is not None:
        recall, precision = curve.recall_at_threshold, curve.precision_at_threshold
        title = f"{name}: precision {precision:.3f}, recall {recall:.3f}"
        parts.append(dot(plot.x(recall), plot.y(precision), "ring", 5, title))
    return "".join(parts)


def cost_curve(points: Sequence[CostPoint]) -> str:
    """Draws the expected cost of the verdict over the weight of escapes, beside passing or rejecting everything.

    Args:
        points: By weight.
    """
    highest = min(0.5, max(0.05, 3 * max(point.cost for point in points)))
    plot = Plot((0, 1), (0, highest), left=44, right=WIDTH - 14, top=26, bottom=250)
    xs = [point.weight for point in points]
    parts = [
        text(plot.left, 14, "expected cost over the weight of escapes", css=""),
        plot.rows((0.0, highest / 2, highest), "{:.2g}".format),
        plot.columns((0.0, 0.25, 0.5, 0.75, 1.0)),
        plot.curve([(0, 0), (highest, highest)], "dashed", "pass everything"),
        plot.curve([(1 - highest, highest), (1, 0)], "dashed", "reject everything"),
        plot.curve([(x, point.cost) for x, point in zip(xs, points, strict=True)], "l0", "thresholds as they are"),
        plot.curve([(x, point.best) for x, point in zip(xs, points, strict=True)], "l2", "best common factor"),
    ]
    return svg(280, "expected cost of the verdict", parts)
