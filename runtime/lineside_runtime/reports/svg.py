"""SVG charts as text: a plot area with its axes, and what is drawn in it. Every text that is passed in is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH = 1000
"""Of a chart as wide as the page, in its own units; the page scales it."""

LABEL = 250
"""Width of the column of names at the left of a chart with one row a name."""

COLOURS = 6
"""Colours of the style sheet: ``c0`` to ``c5`` fill, ``l0`` to ``l5`` stroke."""

_NAME_LETTERS = 34


def svg(height: float, what: str, parts: Iterable[str], *, width: float = WIDTH) -> str:
    """Returns a chart that scales with its place on the page.

    Args:
        height: In its own units.
        what: Description for a reader who does not see the chart.
        width: In its own units.
    """
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(what)}">{"".join(parts)}</svg>'


def shorten(name: str) -> str:
    """Returns a name, escaped, that fits into the column of names."""
    return escape(name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…")


def text(x: float, y: float, content: str, *, anchor: str = "start", css: str = "axis") -> str:
    """Draws a text; ``css`` is empty for a text in the colour of the page's text."""
    kind = f' class="{css}"' if css else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str, title: str = "") -> str:
    """Draws a line, with a title for the pointer if one is given."""
    return _shape("line", css, f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"', title)


def dot(x: float, y: float, css: str, radius: float, title: str = "") -> str:
    """Draws a circle, with a title for the pointer if one is given."""
    return _shape("circle", css, f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', title)


def column(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """Draws a rectangle, with a title for the pointer if one is given."""
    return _shape("rect", css, f'x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}"', title)


def _shape(tag: str, css: str, where: str, title: str = "") -> str:
    inside = f"><title>{escape(title)}</title></{tag}>" if title else "/>"
    return f'<{tag} class="{css}" {where}{inside}'


def round_marks(low: float, high: float, most: int) -> list[float]:
    """Returns the round values between two: multiples of 1, 2 or 5 times a power of ten, about ``most`` of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def widened(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Returns a range with a margin at both ends, also where both ends are the same."""
    margin = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


class Plot:
    """A plot area: where values of two axes lie, in units of the chart.

    Args:
        x: Lowest and highest value of the horizontal axis.
        y: Lowest and highest value of the vertical axis.
        left, right, top, bottom: Edges of the area.
        warp: Applied to horizontal values, for an axis by logarithm or root.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float] = (0.0, 1.0),
        *,
        left: float = 76,
        right: float = WIDTH - 24,
        top: float = 14,
        bottom: float = 214,
        warp: Callable[[float], float] = float,
    ) -> None:
        self.left, self.right, self.top, self.bottom, self._warp = left, right, top, bottom, warp
        self._x_low, self._x_span = warp(x[0]), (warp(x[1]) - warp(x[0])) or 1.0
        self._y_high, self._y_span = y[1], (y[1] - y[0]) or 1.0

    def x(self, value: float) -> float:
        """Returns where a value lies from left to right."""
        return self.left + (self._warp(value) - self._x_low) / self._x_span * (self.right - self.left)

    def y(self, value: float) -> float:
        """Returns where a value lies from top to bottom."""
        return self.top + (self._y_high - value) / self._y_span * (self.bottom - self.top)

    def columns(self, marks: Iterable[float], form: Callable[[float], str] = "{:g}".format) -> str:
        """Draws an upright line of the grid at each value, with the value below."""
        return "".join(
            line(self.x(mark), self.top, self.x(mark), self.bottom, "grid")
            + text(self.x(mark), self.bottom + 18, form(mark), anchor="middle")
            for mark in marks
        )

    def rows(self, marks: Iterable[float], form: Callable[[float], str] = "{:g}".format) -> str:
        """Draws a level line of the grid at each value, with the value at the left."""
        return "".join(
            line(self.left, self.y(mark), self.right, self.y(mark), "grid")
            + text(self.left - 8, self.y(mark) + 4, form(mark), anchor="end")
            for mark in marks
        )

    def curve(self, points: Iterable[tuple[float, float]], css: str, title: str = "") -> str:
        """Draws a line through points."""
        return _shape("polyline", css, f'points="{self._path(points)}"', title)

    def band(self, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], css: str) -> str:
        """Fills the area between two curves."""
        return _shape("polygon", f"{css} band", f'points="{self._path([*high, *reversed(low)])}"')

    def upright(self, value: float, css: str, title: str = "") -> str:
        """Draws an upright line over the whole height at a value."""
        return line(self.x(value), self.top, self.x(value), self.bottom, css, title)

    def _path(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def bars(rows: Sequence[tuple[str, float, str]], what: str, *, width: float = WIDTH, label: float = LABEL) -> str:
    """Draws one bar a row, with its name before it and a text behind it.

    Args:
        rows: Name, value and text.
        what: Description for a reader who does not see the chart.
        label: Width of the column of names.
    """
    height, behind = 28, 0.15 * width
    plot = Plot((0.0, max((value for _, value, _ in rows), default=0.0) or 1.0), left=label, right=width - behind)
    parts = []
    for number, (name, value, words) in enumerate(rows):
        top, end = number * height, max(plot.x(value), label + 1)
        parts += [
            f'<text x="{label - 12:.1f}" y="{top + 19}" text-anchor="end">{shorten(name)}</text>',
            column(label, top + 4, end - label, height - 8, "bar"),
            text(end + 8, top + 19, words, css=""),
        ]
    return svg(height * len(rows), what, parts, width=width)
