"""Scales, axes and accessible SVG for the charts of all reports."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH = 1000
LABEL = 250
"""Room for the names, at the left."""

COLOURS = 6
"""As many as the style sheet has."""


class Scale:
    """Values to pixels; logarithmic where the lowest value isn't 0."""

    def __init__(self, low: float, high: float, *, right: int = 20) -> None:
        self.low, self.high, self.log = low, max(high, low + 1e-9), low > 0
        self._pixels = WIDTH - right - LABEL

    def x(self, value: float) -> float:
        """Returns where a value lies, in pixels from the picture's left edge."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return LABEL + share * self._pixels

    def marks(self) -> list[float]:
        """Returns round values inside the scale: 1, 2 or 5 times a power of ten."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
            return [one for one in steps if self.low <= one <= self.high]
        step = 10.0 ** math.floor(math.log10(self.high))
        step = next(step * factor for factor in (0.1, 0.2, 0.5, 1, 2) if self.high / (step * factor) <= 8)
        return [number * step for number in range(int(self.high / step) + 1)]


def axis(scale: Scale, height: float, unit: str) -> str:
    """Draws a line at each mark of a scale, its value below, and the unit at the left."""
    marks = "".join(
        f'<line class="lane" x1="{scale.x(mark):.1f}" x2="{scale.x(mark):.1f}" y1="0" y2="{height}"/>'
        f'<text class="axis" x="{scale.x(mark):.1f}" y="{height + 18}" text-anchor="middle">{mark:g}</text>'
        for mark in scale.marks()
    )
    return f'{marks}<text class="axis" x="{LABEL - 12}" y="{height + 18}" text-anchor="end">{unit}</text>'


def short(name: str) -> str:
    """Returns a name as HTML text that fits in the room for names."""
    return html.escape(name if len(name) <= 34 else f"{name[:33]}…")


def svg(height: float, what: str, parts: Sequence[str], *, width: float = WIDTH) -> str:
    """Returns a picture that scales with its place on the page.

    Args:
        height: In its own units.
        what: It shows, for those who can't see it.
        parts: SVG elements.
        width: In its own units.
    """
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{html.escape(what)}">'
        f"{''.join(parts)}</svg>"
    )
