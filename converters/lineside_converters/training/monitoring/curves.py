"""``curves.html``: the curves of a run, drawn again at each epoch, and ``curves.json``, the same as numbers.

The browser reads the page again until the run has ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lineside_converters.reports.templating import render
from lineside_runtime.files import write_atomic
from lineside_runtime.reports.svg import COLOURS, Plot, dot, round_marks, svg, widened

CURVES, NUMBERS = "curves.html", "curves.json"
REFRESH_S = 20
_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_NOT_FIGURES = ("step", "elapsed_s")
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class CurveLine:
    """One curve.

    Attributes:
        points: Pairs of step and value.
    """

    name: str
    points: tuple[tuple[float, float], ...]


class CurveData(msgspec.Struct, frozen=True, kw_only=True):
    """What ``curves.json`` holds.

    Attributes:
        figure: What the evaluations measure.
        steps: Of the whole run.
        curve: A row an evaluation: ``step``, ``elapsed_s`` and the figures by name.
        losses: A row an epoch: ``step``, ``loss`` and ``learning_rate``.
    """

    figure: str
    steps: int
    curve: tuple[Row, ...]
    losses: tuple[Row, ...]


def figures_of(row: Row) -> Row:
    """Returns the figures of an evaluation."""
    return {name: value for name, value in row.items() if name not in _NOT_FIGURES}


def write_curves(out: Path, curve: Sequence[Row], losses: Sequence[Row], *, figure: str, steps: int) -> None:
    """Writes page and numbers into a run's folder, each whole or not at all.

    Args:
        curve: A row an evaluation, as `loop.Run` keeps them.
        losses: A row an epoch.
        figure: What the evaluations measure.
    """
    numbers = CurveData(figure=figure, steps=steps, curve=tuple(curve), losses=tuple(losses))
    write_atomic(out / NUMBERS, msgspec.json.encode(numbers))
    write_atomic(out / CURVES, page(out.resolve().name, curve, losses, figure=figure, steps=steps).encode())


def page(run: str, curve: Sequence[Row], losses: Sequence[Row], *, figure: str, steps: int) -> str:
    """Returns the page; see `write_curves`."""
    figures = [
        CurveLine(name, tuple((row["step"], row[name]) for row in curve if name in row))
        for name in dict.fromkeys(key for row in curve for key in row if key not in _NOT_FIGURES)
    ]
    best = max(curve, key=mean_of, default=None)
    pictures = (
        [(f"{figure} on the frames that were kept aside", picture(figures, steps), [line.name for line in figures])]
        if figures
        else []
    )
    for key, title in (("loss", "Loss, mean of each epoch"), ("learning_rate", "Learning rate, the highest")):
        line = CurveLine(title, tuple((row["step"], row[key]) for row in losses))
        if line.points:
            pictures.append((title, picture([line], steps), []))
    at = max([row["step"] for row in (*curve, *losses)], default=0)
    return render(
        "training_curves.html.j2",
        title=f"{run}: training",
        refresh_s=REFRESH_S if at < steps else 0,
        name=run,
        ended=at >= steps,
        at=int(at),
        steps=steps,
        elapsed_s=curve[-1]["elapsed_s"] if curve else 0.0,
        pictures=pictures,
        figures=[
            (f"{value:.3f}", f"{_named(figure, name)}, at the best step {best['step']:.0f}")
            for name, value in figures_of(best).items()
        ]
        if best
        else [],
        rows=list(curve)[::-1],
        names=[line.name for line in figures],
    )


def _named(figure: str, name: str) -> str:
    """Returns a figure with what it was measured on; the figure alone if that is only its key, such as ``top1``."""
    return figure if name == figure.replace("-", "") else f"{figure} {name}"


def mean_of(row: Row) -> float:
    """Returns the mean of an evaluation's figures, by which the best one is chosen."""
    values = list(figures_of(row).values())
    return sum(values) / len(values) if values else -math.inf


def picture(lines: Sequence[CurveLine], steps: int) -> str:
    """Draws curves over the steps of a run; each point has a title."""
    values = [value for line in lines for _, value in line.points]
    low, high = widened(min(values), max(values), 0.02)
    plot = Plot((0, max(1, steps)), (low, high))
    parts = [
        plot.rows(round_marks(low, high, 6)),
        plot.columns([share * steps for share in _QUARTERS], "{:.0f}".format),
    ]
    for number, line in enumerate(lines):
        parts.append(plot.curve(line.points, f"l{number % COLOURS}"))
        parts += [
            dot(
                plot.x(step), plot.y(value), f"c{number % COLOURS}", 2.5, f"{line.name} at step {step:.0f}: {value:.4g}"
            )
            for step, value in line.points
        ]
    return svg(plot.bottom + 28, ", ".join(line.name for line in lines) + " by step", parts)
