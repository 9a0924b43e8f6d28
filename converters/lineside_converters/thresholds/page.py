"""``decision.html``: the content of ``decision.json`` as one page, without frames."""

from __future__ import annotations

import math
from pathlib import Path

from lineside_converters.reports.templating import render
from lineside_converters.thresholds.report import (
    Reliability,
    ThresholdOutcome,
    ThresholdRate,
    ThresholdReport,
    TypeDecision,
)
from lineside_runtime.files import write_atomic
from lineside_runtime.reports.svg import Plot, dot, line, svg, text

PER = 1000
"""Costs are given for this many parts."""


def page(decision: ThresholdReport) -> str:
    """Returns the page."""
    return render(
        "thresholds.html.j2",
        title=f"{decision.bundle}: thresholds",
        decision=decision,
        per=PER,
        figures=_tiles(decision),
        rows=(
            ("the bundle's own thresholds", decision.before),
            ("chosen, on the frames that they were chosen on", decision.after),
            (f"chosen on some of the {decision.parts} parts, judged on the others", decision.cross_fold),
        ),
        curves=[(each.type, curve(each, PER)) for each in decision.types if each.curve],
        legend_of_curves=legend(decision),
        diagram=diagram(decision.reliability) if decision.reliability else "",
    )


def write_page(path: Path, decision: ThresholdReport) -> None:
    """Writes the page atomically."""
    write_atomic(path, page(decision).encode())


def rate(found: ThresholdRate | None) -> str:
    """Returns a share with its interval, as text."""
    if found is None:
        return "not known"
    if not found.of:
        return "–"
    return f"{found.share:.1%} ({found.low:.1%} – {found.high:.1%}; {found.count} of {found.of})"


def cost(outcome: ThresholdOutcome) -> str:
    """Returns the cost of `PER` parts with its interval, as text."""
    if outcome.cost is None or outcome.cost_low is None or outcome.cost_high is None:
        return "not known"
    return f"{outcome.cost * PER:.4g} ({outcome.cost_low * PER:.4g} – {outcome.cost_high * PER:.4g})"


def _tiles(decision: ThresholdReport) -> list[tuple[str, str]]:
    honest, before = decision.cross_fold, decision.before
    found = [(f"{honest.missed.share:.1%}", f"of the bad parts missed; {before.missed.share:.1%} before")]
    if honest.false_rejects is not None and before.false_rejects is not None:
        words = f"of the good parts rejected; {before.false_rejects.share:.1%} before"
        found.append((f"{honest.false_rejects.share:.1%}", words))
    if honest.cost is not None and before.cost is not None:
        found.append((f"{honest.cost * PER:.4g}", f"cost of {PER} parts; {before.cost * PER:.4g} before"))
    if decision.review_cost is not None and honest.unsure_good is not None:
        found.append((f"{honest.unsure_good.share:.1%}", "of the good parts to a person"))
    if decision.reliability is not None:
        one = decision.reliability
        found.append((f"{one.ece:.3f}", f"calibration error of the scores ({one.low:.3f} – {one.high:.3f})"))
    return found


_WIDTH, _LEFT, _RIGHT = 480, 52, 468
_MARKS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


def curve(decision: TypeDecision, per: float) -> str:
    """Draws a type's expected cost above its two rates, over the threshold; bands are 95 % intervals.

    Args:
        per: Parts that the cost is given for.
    """
    points = decision.curve
    highest = max(point.cost_high for point in points) * per or 1.0
    # By the square root: the thresholds that are worth choosing between are near 0.
    both, cost, rates = (
        Plot((0, 1), (0, y), left=_LEFT, right=_RIGHT, top=top, bottom=bottom, warp=math.sqrt)
        for y, top, bottom in ((1.0, 16, 270), (highest, 16, 136), (1.0, 160, 270))
    )
    xs = [point.threshold for point in points]

    def series(plot: Plot, name: str, number: int, factor: float = 1.0) -> str:
        low, middle, high = (
            [(x, getattr(point, name + end) * factor) for x, point in zip(xs, points, strict=True)]
            for end in ("_low", "", "_high")
        )
        return plot.band(low, high, f"c{number}") + plot.curve(middle, f"l{number}")

    parts = [
        both.columns(_MARKS),
        cost.rows([0.0, highest / 2, highest], "{:.0f}".format if highest >= 10 else "{:.2g}".format),
        rates.rows([0.0, 0.5, 1.0], "{:.0%}".format),
        series(cost, "cost", 0, per),
        series(rates, "miss", 5),
        series(rates, "false_reject", 2),
        both.upright(decision.was, "dashed", f"the bundle's own, {decision.was:.3f}"),
        both.upright(decision.threshold, "strong", f"chosen, {decision.threshold:.3f}"),
    ]
    if decision.unsure_from is not None:
        parts.append(both.upright(decision.unsure_from, "doubt", f"unsure from {decision.unsure_from:.3f}"))
    parts.append(text(_LEFT, 11, f"cost of {per:g} parts"))
    parts.append(text(_LEFT, rates.top - 5, "missed and falsely rejected"))
    return svg(both.bottom + 22, f"cost and rates of {decision.type} over its threshold", parts, width=_WIDTH)


def diagram(found: Reliability) -> str:
    """Draws the share of frames that show a type against its score; calibrated scores lie on the diagonal."""
    plot = Plot((0, 1), left=_LEFT, right=_RIGHT, top=16, bottom=270)
    most = max(each.candidates for each in found.bins)
    parts = [
        plot.rows((0.0, 0.25, 0.5, 0.75, 1.0), "{:.0%}".format),
        *(text(plot.x(mark), plot.bottom + 17, f"{mark:g}", anchor="middle") for mark in (0, 0.2, 0.4, 0.6, 0.8, 1)),
        line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), "dashed"),
    ]
    for each in found.bins:
        x, y = plot.x(each.score), plot.y(each.right)
        title = f"{each.candidates} frames, score {each.score:.2f}, {each.right:.0%} show it"
        parts.append(line(x, plot.y(each.score), x, y, "l0 faint"))
        parts.append(dot(x, y, "c0", 4 + 8 * math.sqrt(each.candidates / most), title))
    parts.append(text(_LEFT, 11, "share that shows the type"))
    return svg(300, "share of frames that show a type against its score", parts, width=_WIDTH)


def legend(decision: ThresholdReport) -> str:
    """Returns the legend of the curves as HTML."""
    fills = [("c0", "cost"), ("c5", "bad parts missed"), ("c2", "good parts rejected")]
    strokes = [("strong", "chosen"), ("dashed", "the bundle's own")]
    if decision.review_cost is not None:
        strokes.append(("doubt", "unsure from here"))
    marks = [*((f"dot {css}", words) for css, words in fills), *((f"stroke {css}", words) for css, words in strokes)]
    spans = "".join(f'<span><i class="{css}"></i>{words}</span>' for css, words in marks)
    return f'<div class="legend">{spans}</div>'
