"""The pictures of the page: cost and rates of a type over its thresholds, and scores against what was right."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from lineside_converters.thresholds.report import Point, Reliability, ThresholdReport, TypeDecision
from lineside_runtime.benchmark.pages.svg import svg

WIDTH, LEFT, RIGHT = 480, 52, 12
_TOP, _COST_END, _RATES, _RATES_END = 16, 136, 160, 270
_MARKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def curve(decision: TypeDecision, per: float) -> str:
    """Draws a type's expected cost above its two rates, over the threshold; bands are 95 % intervals.

    Args:
        decision: Of the type, with its curve.
        per: Parts that the cost is told for.
    """
    points = decision.curve
    highest = max(point.cost_high for point in points) * per or 1.0
    cost = _vertical(0.0, highest, _TOP, _COST_END)
    share = _vertical(0.0, 1.0, _RATES, _RATES_END)
    parts = [
        *_grid(),
        *_levels(cost, [0.0, highest / 2, highest], lambda value: f"{value:.0f}" if highest >= 10 else f"{value:.2g}"),
        *_levels(share, [0.0, 0.5, 1.0], lambda value: f"{value:.0%}"),
        _band(points, lambda p: cost(p.cost_low * per), lambda p: cost(p.cost_high * per), "c0"),
        _line(points, lambda p: cost(p.cost * per), "l0"),
        _band(points, lambda p: share(p.miss_low), lambda p: share(p.miss_high), "c5"),
        _band(points, lambda p: share(p.false_reject_low), lambda p: share(p.false_reject_high), "c2"),
        _line(points, lambda p: share(p.miss), "l5"),
        _line(points, lambda p: share(p.false_reject), "l2"),
        _upright(decision.was, "was", f"the bundle's own, {decision.was:.3f}"),
        _upright(decision.threshold, "chosen", f"chosen, {decision.threshold:.3f}"),
    ]
    if decision.unsure_from is not None:
        parts.append(_upright(decision.unsure_from, "doubt", f"unsure from {decision.unsure_from:.3f}"))
    parts.append(f'<text class="axis" x="{LEFT}" y="11">cost of {per:g} parts</text>')
    parts.append(f'<text class="axis" x="{LEFT}" y="{_RATES - 5}">missed and falsely rejected</text>')
    return svg(_RATES_END + 22, f"cost and rates of {decision.type} over its threshold", parts, width=WIDTH)


def diagram(found: Reliability) -> str:
    """Draws the share of right candidates against their score; on the diagonal a score is what it claims to be."""
    height, end = 300, 270
    y = _vertical(0.0, 1.0, _TOP, end)
    most = max(each.candidates for each in found.bins)

    def x(score: float) -> float:
        return LEFT + score * (WIDTH - LEFT - RIGHT)

    parts = [
        *_levels(y, [0.0, 0.25, 0.5, 0.75, 1.0], lambda value: f"{value:.0%}"),
        *(f'<text class="axis" x="{x(m):.1f}" y="{end + 17}" text-anchor="middle">{m:g}</text>' for m in _FIFTHS),
        f'<line class="even" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>',
    ]
    for each in found.bins:
        radius = 4 + 8 * math.sqrt(each.candidates / most)
        parts.append(
            f'<line class="off" x1="{x(each.score):.1f}" x2="{x(each.score):.1f}" y1="{y(each.score):.1f}" '
            f'y2="{y(each.right):.1f}"/><circle class="c0" cx="{x(each.score):.1f}" cy="{y(each.right):.1f}" '
            f'r="{radius:.1f}"><title>{each.candidates} candidates, score {each.score:.2f}, '
            f"{each.right:.0%} right</title></circle>"
        )
    parts.append(f'<text class="axis" x="{LEFT}" y="11">share that is right</text>')
    return svg(height, "share of right candidates against their score", parts, width=WIDTH)


def legend(decision: ThresholdReport) -> str:
    """Returns what the colours of the curves mean, as HTML."""
    words = [("c0", "cost"), ("c5", "bad parts missed"), ("c2", "good parts rejected")]
    dots = "".join(f'<span><span class="dot {colour}"></span>{text}</span> ' for colour, text in words)
    lines = [("chosen", "chosen"), ("was", "the bundle's own")]
    if decision.review_cost is not None:
        lines.append(("doubt", "unsure from here"))
    return dots + "".join(f'<span><span class="stroke {name}"></span>{text}</span> ' for name, text in lines)


_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def _x(threshold: float) -> float:
    """By the square root: what is worth choosing between lies near 0."""
    return LEFT + math.sqrt(threshold) * (WIDTH - LEFT - RIGHT)


def _vertical(low: float, high: float, top: float, bottom: float) -> Callable[[float], float]:
    return lambda value: bottom - (value - low) / (high - low) * (bottom - top)


def _grid() -> list[str]:
    return [
        f'<line class="lane" x1="{_x(mark):.1f}" x2="{_x(mark):.1f}" y1="{_TOP}" y2="{_RATES_END}"/>'
        f'<text class="axis" x="{_x(mark):.1f}" y="{_RATES_END + 17}" text-anchor="middle">{mark:g}</text>'
        for mark in _MARKS
    ]


def _levels(y: Callable[[float], float], values: Sequence[float], text: Callable[[float], str]) -> list[str]:
    return [
        f'<line class="lane" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="axis" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{html.escape(text(value))}</text>'
        for value in values
    ]


def _line(points: Sequence[Point], y: Callable[[Point], float], colour: str) -> str:
    path = " ".join(f"{_x(point.threshold):.1f},{y(point):.1f}" for point in points)
    return f'<polyline class="{colour}" points="{path}"/>'


def _band(points: Sequence[Point], low: Callable[[Point], float], high: Callable[[Point], float], colour: str) -> str:
    there = [f"{_x(point.threshold):.1f},{high(point):.1f}" for point in points]
    back = [f"{_x(point.threshold):.1f},{low(point):.1f}" for point in reversed(points)]
    return f'<polygon class="{colour} band" points="{" ".join([*there, *back])}"/>'


def _upright(threshold: float, name: str, words: str) -> str:
    return (
        f'<line class="{name}" x1="{_x(threshold):.1f}" x2="{_x(threshold):.1f}" y1="{_TOP}" y2="{_RATES_END}">'
        f"<title>{html.escape(words)}</title></line>"
    )
