"""``curves.html``: how a run is going, drawn anew at each epoch, and ``curves.json``, the same as numbers.

The page is one file without script, which asks to be read again until the run has ended.
"""

from __future__ import annotations

import html
import importlib.resources
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import msgspec

from lineside_runtime.benchmark.pages.style import STYLE
from lineside_runtime.benchmark.pages.svg import COLOURS, WIDTH, svg
from lineside_runtime.files import write_atomic

CURVES, NUMBERS = "curves.html", "curves.json"
REFRESH_S = 20
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 14, 214
_NOT_FIGURES = ("step", "elapsed_s")
Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class CurveLine:
    """One curve.

    Attributes:
        name: Of what it shows.
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
        out: The run's folder.
        curve: A row an evaluation, as `loop.Run` keeps them.
        losses: A row an epoch.
        figure: What the evaluations measure.
        steps: Of the whole run.
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
        [(f"{figure} on what was kept aside", picture(figures, steps), [line.name for line in figures])]
        if figures
        else []
    )
    for key, title in (("loss", "loss, mean of each epoch"), ("learning_rate", "learning rate, the highest")):
        line = CurveLine(title, tuple((row["step"], row[key]) for row in losses))
        if line.points:
            pictures.append((title, picture([line], steps), []))
    at = max([row["step"] for row in (*curve, *losses)], default=0)
    text = (importlib.resources.files(__package__) / "templates" / "curves.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text).render(
        name=run,
        style=STYLE,
        refresh_s=REFRESH_S if at < steps else 0,
        at=int(at),
        steps=steps,
        elapsed_s=curve[-1]["elapsed_s"] if curve else 0.0,
        pictures=pictures,
        colours=COLOURS,
        figure=figure,
        best=best,
        rows=list(curve)[::-1],
        names=[line.name for line in figures],
    )


def mean_of(row: Row) -> float:
    """Returns the mean of an evaluation's figures, by which the best one is chosen."""
    values = list(figures_of(row).values())
    return sum(values) / len(values) if values else -math.inf


def picture(lines: Sequence[CurveLine], steps: int) -> str:
    """Draws curves over the steps of a run as SVG; each has a name that a pointer or a screen reader finds."""
    values = [value for line in lines for _, value in line.points]
    marks = _marks(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)

    def x(step: float) -> float:
        return _LEFT + step / max(1, steps) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_BOTTOM - _TOP)

    parts = [
        f'<line class="lane" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/><text '
        f'class="axis" x="{_LEFT - 10}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>'
        for mark in marks
    ]
    for number, line in enumerate(lines):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in line.points)
        colour = number % COLOURS
        parts.append(f'<polyline class="l{colour}" points="{path}"/>')
        parts += [
            f'<circle class="c{colour}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5"><title>{html.escape(line.name)} '
            f"at step {step:.0f}: {value:.4g}</title></circle>"
            for step, value in line.points
        ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<text class="axis" x="{x(share * steps):.1f}" y="{_BOTTOM + 20}" text-anchor="middle">'
            f"{share * steps:.0f}</text>"
        )
    return svg(_BOTTOM + 28, ", ".join(line.name for line in lines) + " by step", parts)


def _marks(low: float, high: float) -> list[float]:
    """Returns round values that reach over a range: multiples of 1, 2 or 5 times a power of ten, six at most."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
