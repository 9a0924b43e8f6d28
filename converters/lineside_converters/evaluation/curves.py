"""The drawing of precision against recall: a small picture a type, all on one scale."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

from lineside_converters.evaluation.parts import PrecisionRecallCurve
from lineside_runtime.benchmark.pages.svg import WIDTH, svg

COLUMNS = 4
WIDE = WIDTH / COLUMNS
TALL = 190
LEFT, TOP, RIGHT, BOTTOM = 34, 26, 14, 30


def precision_recall(curves: Mapping[str, PrecisionRecallCurve], ap50: Mapping[str, float | None]) -> str:
    """Draws each type's curve; the ring is where its threshold puts it.

    Args:
        curves: By type.
        ap50: By type.
    """
    parts = []
    for number, (name, curve) in enumerate(curves.items()):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDE:.0f},{row * TALL})">{_one(name, curve, ap50[name])}</g>')
    return svg(math.ceil(len(curves) / COLUMNS) * TALL, "precision against recall of each type", parts)


def _one(name: str, curve: PrecisionRecallCurve, ap50: float | None) -> str:
    points = " ".join(f"{_x(r):.1f},{_y(p):.1f}" for r, p in zip(curve.recall, curve.precision, strict=True))
    lanes = "".join(
        f'<line class="lane" x1="{_x(0):.1f}" x2="{_x(1):.1f}" y1="{_y(mark):.1f}" y2="{_y(mark):.1f}"/>'
        f'<text class="axis" x="{LEFT - 6}" y="{_y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>'
        f'<text class="axis" x="{_x(mark):.1f}" y="{TALL - BOTTOM + 16}" text-anchor="middle">{mark:g}</text>'
        for mark in (0.0, 0.5, 1.0)
    )
    worth = "" if ap50 is None else f" · AP {ap50:.3f}"
    return (
        f'<text x="{LEFT}" y="14">{html.escape(name[:22])}{worth}</text>{lanes}<polyline class="l0" points="{points}"/>'
        f"{_threshold(name, curve)}"
    )


def _threshold(name: str, curve: PrecisionRecallCurve) -> str:
    """Returns the mark where the threshold lies; nothing where no find reaches it."""
    if curve.precision_at_threshold is None:
        return ""
    x, y = _x(curve.recall_at_threshold), _y(curve.precision_at_threshold)
    title = f"{name}: precision {curve.precision_at_threshold:.3f}, recall {curve.recall_at_threshold:.3f}"
    return f'<circle class="taken" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{html.escape(title)}</title></circle>'


def _x(recall: float) -> float:
    return LEFT + recall * (WIDE - LEFT - RIGHT)


def _y(precision: float) -> float:
    return TOP + (1 - precision) * (TALL - TOP - BOTTOM)
