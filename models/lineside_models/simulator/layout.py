"""The copper of a bare board: traces, buses, pads, vias and pours."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
Segment = tuple[int, int, int, int, int]
"""``x1, y1, x2, y2, thickness`` of a straight piece of trace, in pixels."""

_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
"""Traces run along the axes and diagonals, eight ways."""


def draw_layout(rng: np.random.Generator, height: int, width: int) -> tuple[Mask, list[Segment]]:
    """Draws the copper of a good board.

    Args:
        rng: Source of all randomness.
        height: In pixels.
        width: In pixels.

    Returns:
        ``(height, width) uint8``, 255 where copper is; and the straight pieces of trace.
    """
    copper = np.zeros((height, width), np.uint8)
    segments: list[Segment] = []
    style = _STYLES[int(rng.integers(len(_STYLES)))]
    style(rng, copper, segments)
    if rng.random() < 0.5:  # half of the real boards are etched with the strip's other side up, or turned
        copper = np.ascontiguousarray(copper[::-1])
        segments = [(x1, height - 1 - y1, x2, height - 1 - y2, t) for x1, y1, x2, y2, t in segments]
    return copper, segments


def _bus(rng: np.random.Generator, copper: Mask, segments: list[Segment]) -> None:
    """Many parallel traces with a common bend, some lone traces beside them."""
    height, width = copper.shape
    thickness = int(rng.integers(7, 26))
    pitch = thickness + int(rng.integers(10, 34))
    x = int(rng.integers(-20, 30))
    bend = int(rng.integers(height // 4, height * 3 // 4))
    run = int(rng.integers(0, 3)) * int(rng.integers(40, 160))
    while x < width * rng.uniform(0.5, 1.1):
        path = [(x, -20), (x, bend), (x + run, bend + run), (x + run, height + 20)]
        _draw_path(copper, segments, path, thickness)
        x += pitch + (int(rng.integers(0, 60)) if rng.random() < 0.15 else 0)
    _traces(rng, copper, segments, int(rng.integers(0, 3)), from_x=min(x + pitch + run, width - 40))


def _sparse(rng: np.random.Generator, copper: Mask, segments: list[Segment]) -> None:
    """Pads and vias with traces between them."""
    _traces(rng, copper, segments, int(rng.integers(4, 9)), from_x=20)
    _parts(rng, copper, int(rng.integers(2, 7)))


def _pours(rng: np.random.Generator, copper: Mask, segments: list[Segment]) -> None:
    """Large areas of copper with channels cut into them."""
    height, width = copper.shape
    for _ in range(int(rng.integers(2, 5))):
        w, h = int(rng.integers(120, width // 2 + 121)), int(rng.integers(120, height // 2 + 121))
        x, y = int(rng.integers(-60, width - 60)), int(rng.integers(-60, height - 60))
        gap = int(rng.integers(12, 30))
        _rounded(copper, (x - gap, y - gap, x + w + gap, y + h + gap), 26, 0)
        _rounded(copper, (x, y, x + w, y + h), int(rng.integers(4, 40)), 255)
        if rng.random() < 0.6:
            inset = int(rng.integers(28, 50))
            _rounded(copper, (x + inset, y + inset, x + w - inset, y + h - inset), 12, 0)
            _rounded(copper, (x + inset + gap, y + inset + gap, x + w - inset - gap, y + h - inset - gap), 12, 255)
    _parts(rng, copper, int(rng.integers(1, 4)))
    if rng.random() < 0.7:
        _traces(rng, copper, segments, int(rng.integers(1, 4)), from_x=20)


def _thick(rng: np.random.Generator, copper: Mask, segments: list[Segment]) -> None:
    """A few broad traces of different thickness."""
    height, width = copper.shape
    x = int(rng.integers(10, 60))
    while x < width:
        thickness = int(rng.integers(22, 56))
        bend, run = int(rng.integers(height // 8, height * 7 // 8)), int(rng.integers(-1, 2)) * 40
        path = [(x, -40), (x, bend), (x + run, bend + abs(run)), (x + run, height + 40)]
        _draw_path(copper, segments, path, thickness)
        x += thickness + int(rng.integers(26, 110)) + max(run, 0)


_Style = Callable[[np.random.Generator, Mask, list[Segment]], None]
_STYLES: tuple[_Style, ...] = (_bus, _sparse, _pours, _thick)


def _traces(rng: np.random.Generator, copper: Mask, segments: list[Segment], count: int, *, from_x: int) -> None:
    """Single traces from pad to pad, clear of existing copper."""
    height, width = copper.shape
    for _ in range(count * 3):
        path, thickness = _draw_route(rng, (from_x, width), height)
        clear = np.zeros_like(copper)
        _draw_path(clear, [], path, thickness + 34)
        pads = [(end, int(rng.integers(thickness, thickness + 18))) for end in (path[0], path[-1])]
        for end, radius in pads:
            cv2.circle(clear, end, radius + 17, 255, -1)
        if (clear & copper).any():
            continue
        _draw_path(copper, segments, path, thickness)
        for end, radius in pads:
            _pad(rng, copper, end, radius)
        count -= 1
        if count <= 0:
            return


def _draw_route(rng: np.random.Generator, columns: tuple[int, int], height: int) -> tuple[list[tuple[int, int]], int]:
    x, y = int(rng.integers(*columns)), int(rng.integers(20, height - 20))
    way = int(rng.integers(len(_DIRECTIONS)))
    path = [(x, y)]
    for _ in range(int(rng.integers(1, 4))):
        length = int(rng.integers(60, 240))
        x, y = x + _DIRECTIONS[way][0] * length, y + _DIRECTIONS[way][1] * length
        path.append((x, y))
        way = (way + (1 if rng.random() < 0.5 else -1)) % len(_DIRECTIONS)
    return path, int(rng.integers(8, 20))


def _draw_path(copper: Mask, segments: list[Segment], path: list[tuple[int, int]], thickness: int) -> None:
    for (x1, y1), (x2, y2) in itertools.pairwise(path):
        if (x1, y1) == (x2, y2):
            continue
        cv2.line(copper, (x1, y1), (x2, y2), 255, thickness)
        segments.append((x1, y1, x2, y2, thickness))


def _pad(rng: np.random.Generator, copper: Mask, centre: tuple[int, int], radius: int) -> None:
    """A round or square pad, with or without a hole."""
    x, y = centre
    if rng.random() < 0.6:
        cv2.circle(copper, centre, radius, 255, -1)
        if radius > 13 and rng.random() < 0.5:
            cv2.circle(copper, centre, radius // 2, 0, -1)
    else:
        _rounded(copper, (x - radius, y - radius, x + radius, y + radius), 5, 255)


def _parts(rng: np.random.Generator, copper: Mask, count: int) -> None:
    """Rows of equal pads, as for a component."""
    height, width = copper.shape
    for _ in range(count):
        w, h = int(rng.integers(16, 44)), int(rng.integers(20, 90))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        gap = int(rng.integers(14, 40))
        for index in range(int(rng.integers(1, 7))):
            left = x + index * (w + gap)
            around = copper[max(0, y - 14) : y + h + 14, max(0, left - 14) : left + w + 14]
            if around.size and not around.any():
                _rounded(copper, (left, y, left + w, y + h), int(rng.integers(1, 3)) * w // 5, 255)


def _rounded(copper: Mask, box: tuple[int, int, int, int], radius: int, value: int) -> None:
    """A rectangle with round corners."""
    x1, y1, x2, y2 = box
    radius = max(0, min(radius, (x2 - x1) // 2, (y2 - y1) // 2))
    if x2 - x1 < 4 or y2 - y1 < 4:
        return
    cv2.rectangle(copper, (x1 + radius, y1), (x2 - radius, y2), value, -1)
    cv2.rectangle(copper, (x1, y1 + radius), (x2, y2 - radius), value, -1)
    for x in (x1 + radius, x2 - radius):
        for y in (y1 + radius, y2 - radius):
            cv2.circle(copper, (x, y), radius, value, -1)
