"""``decision.html``: the content of ``decision.json`` as one page, without frames."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.reports.templating import render
from lineside_converters.thresholds import charts
from lineside_converters.thresholds.report import ThresholdOutcome, ThresholdRate, ThresholdReport
from lineside_runtime.files import write_atomic

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
        curves=[(each.type, charts.curve(each, PER)) for each in decision.types if each.curve],
        legend_of_curves=charts.legend(decision),
        diagram=charts.diagram(decision.reliability) if decision.reliability else "",
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
