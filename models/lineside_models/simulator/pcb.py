"""Bare boards with the six defect types of DeepPCB: binarised, black copper on white."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.labels import LABELS
from lineside_models.simulator.layout import Mask, Segment, draw_layout
from lineside_models.simulator.noise import box_blur, white

Box = tuple[float, float, float, float]
Point = tuple[int, int]

_MARGIN = 11
"""Pixels between a defect and its box, as DeepPCB's annotators left them."""

_ATTEMPTS = 30


class _Board:
    """Copper of a board."""

    def __init__(self, copper: Mask, segments: list[Segment]) -> None:
        self.copper = copper
        self.segments = segments
        self.height, self.width = copper.shape
        edge = cv2.morphologyEx(copper, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) & copper
        self.edge_rows, self.edge_columns = np.nonzero(edge)
        self.found: list[tuple[int, Box]] = []

    def is_copper(self, x: float, y: float) -> bool | None:
        """Returns whether a point is copper; ``None`` outside the frame."""
        column, row = int(x + 0.5), int(y + 0.5)
        if not (0 <= column < self.width and 0 <= row < self.height):
            return None
        return bool(self.copper[row, column])

    def is_uniform(self, centre: Point, reach: int, copper: bool) -> bool:
        """Returns whether the square around a point is all copper, or has none."""
        x, y = centre
        if min(x, y) < reach or x >= self.width - reach or y >= self.height - reach:
            return False
        square = self.copper[y - reach : y + reach + 1, x - reach : x + reach + 1]
        return bool((square != 0).all() if copper else not square.any())

    def run(self, start: tuple[float, float], step: tuple[float, float], most: int) -> int | None:
        """Counts the steps from ``start`` over the same material; ``None`` if it doesn't end within ``most``."""
        x, y = start
        material = self.is_copper(x, y)
        for length in range(1, most + 1):
            here = self.is_copper(x + step[0] * length, y + step[1] * length)
            if here is None:
                return None
            if here != material:
                return length
        return None

    def draw_edge(self, rng: np.random.Generator) -> tuple[Point, tuple[float, float]] | None:
        """Draws a point on the copper's edge and the direction that leads out of the copper there."""
        if not len(self.edge_rows):
            return None
        index = int(rng.integers(len(self.edge_rows)))
        x, y = int(self.edge_columns[index]), int(self.edge_rows[index])
        if min(x, y) < 12 or x >= self.width - 12 or y >= self.height - 12:
            return None
        around = self.copper[y - 4 : y + 5, x - 4 : x + 5].astype(np.int64)
        places = np.arange(-4, 5)
        out = -int((around * places[None, :]).sum()), -int((around * places[:, None]).sum())
        length = max(abs(out[0]), abs(out[1]))
        if not length:
            return None
        longest = float(np.sqrt(np.float64(out[0] * out[0] + out[1] * out[1])))
        return (x, y), (out[0] / longest, out[1] / longest)


def render_pcb(
    rng: np.random.Generator, height: int, width: int, count: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, Box]]]:
    """Renders a piece of a bare board.

    Args:
        rng: Source of all randomness.
        height: In pixels.
        width: In pixels.
        count: How many defects at most.

    Returns:
        ``(height, width) uint8`` grey, copper black, and ``(label, box)`` of every defect.
    """
    board = _Board(*draw_layout(rng, height, width))
    for _ in range(count):
        kinds = list(_DEFECTS)
        rng.shuffle(kinds)
        for kind in kinds:  # the next type where the board offers no place for the one drawn first
            box = _place(rng, board, kind)
            if box is not None:
                board.found.append((LABELS.index(kind), box))
                break
    return _binarised(rng, board.copper), board.found


def _place(rng: np.random.Generator, board: _Board, kind: str) -> Box | None:
    """Draws one defect that hides no other."""
    for _ in range(_ATTEMPTS):
        stroke = _DEFECTS[kind](rng, board)
        if stroke is None:
            continue
        points, thickness, copper = stroke
        after = board.copper.copy()
        _scribble(rng, after, points, thickness, 255 if copper else 0)
        box = _changed(board, after)
        if box is not None and _is_free(box, board.found):
            board.copper = after
            return box
    return None


_Stroke = tuple[list[tuple[float, float]], int, bool]
"""Points of a ragged line, its thickness in pixels, and whether it adds copper or takes it away."""


def _open(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A gap right across a trace."""
    if not board.segments:
        return None
    x1, y1, x2, y2, trace = board.segments[int(rng.integers(len(board.segments)))]
    length = max(abs(x2 - x1), abs(y2 - y1))
    if length < 50:
        return None
    share = rng.uniform(0.25, 0.75)
    x, y = x1 + (x2 - x1) * share, y1 + (y2 - y1) * share
    norm = float(np.sqrt(np.float64((x2 - x1) ** 2 + (y2 - y1) ** 2)))
    across = (y1 - y2) / norm, (x2 - x1) / norm
    if not board.is_copper(x, y):
        return None
    ends = [board.run((x, y), (across[0] * way, across[1] * way), trace) for way in (1, -1)]
    if ends[0] is None or ends[1] is None or ends[0] + ends[1] > trace + 4:
        return None
    slant = rng.uniform(-0.5, 0.5)
    from_, to = ends[0] + 1, -(ends[1] + 1)
    line = [(x + across[0] * d - across[1] * d * slant, y + across[1] * d + across[0] * d * slant) for d in (from_, to)]
    return line, int(rng.integers(4, 13)), False


def _short(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A bridge from one piece of copper to the next."""
    edge = board.draw_edge(rng)
    if edge is None:
        return None
    (x, y), (dx, dy) = edge
    gap = board.run((x + dx * 2, y + dy * 2), (dx, dy), 55)
    if gap is None or gap < 4 or board.is_copper(x + dx * 2, y + dy * 2):
        return None
    landing = board.run((x + dx * (gap + 3), y + dy * (gap + 3)), (dx, dy), 5)
    if landing is not None:
        return None
    line = [(x - dx * 2, y - dy * 2), (x + dx * (gap + 5), y + dy * (gap + 5))]
    return line, int(rng.integers(4, 12)), True


def _mousebite(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A bite out of an edge that leaves copper behind it."""
    edge = board.draw_edge(rng)
    if edge is None:
        return None
    (x, y), (dx, dy) = edge
    inside = board.run((x - dx, y - dy), (-dx, -dy), 40)
    if inside is not None and inside < 9:
        return None
    deepest = 18 if inside is None else min(18, inside * 0.6)  # a deeper one would be nearly an open
    depth = rng.uniform(min(5, deepest - 1), deepest)
    thickness = int(rng.integers(4, max(5, min(12, int(deepest)))))
    slant = rng.uniform(-0.4, 0.4)
    reach = max(1.0, depth - thickness / 2)
    return (
        [(x + dx * 2, y + dy * 2), (x - dx * reach - dy * reach * slant, y - dy * reach + dx * reach * slant)],
        thickness,
        False,
    )


def _spur(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A bump on an edge that reaches no other copper."""
    edge = board.draw_edge(rng)
    if edge is None:
        return None
    (x, y), (dx, dy) = edge
    gap = board.run((x + dx * 2, y + dy * 2), (dx, dy), 40)
    if board.is_copper(x + dx * 2, y + dy * 2) or (gap is not None and gap < 12):
        return None
    longest = 18 if gap is None else min(18, gap - 6)
    length = rng.uniform(min(6, longest - 1), longest)
    slant = rng.uniform(-0.6, 0.6)
    tip = x + dx * length - dy * length * slant, y + dy * length + dx * length * slant
    return [(x - dx * 2, y - dy * 2), tip], int(rng.integers(4, 9)), True


def _copper(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A spurious island."""
    return _island(rng, board, copper=True, clearance=18)


def _pin_hole(rng: np.random.Generator, board: _Board) -> _Stroke | None:
    """A hole inside the copper."""
    return _island(rng, board, copper=False, clearance=12)


def _island(rng: np.random.Generator, board: _Board, *, copper: bool, clearance: int) -> _Stroke | None:
    centre = int(rng.integers(0, board.width)), int(rng.integers(0, board.height))
    if not board.is_uniform(centre, clearance, copper=not copper):
        return None
    reach = (clearance - 5) * 0.8
    ends = rng.uniform(-reach, reach, (2, 2))
    line = [(centre[0] + float(dx), centre[1] + float(dy)) for dx, dy in ends]
    return line, int(rng.integers(4, 10)), copper


_DEFECTS: dict[str, Callable[[np.random.Generator, _Board], _Stroke | None]] = {
    "open": _open,
    "short": _short,
    "mousebite": _mousebite,
    "spur": _spur,
    "copper": _copper,
    "pin-hole": _pin_hole,
}


def _scribble(
    rng: np.random.Generator, copper: Mask, points: list[tuple[float, float]], thickness: int, value: int
) -> None:
    """Draws an irregular line: short strokes of changing thickness."""
    (x1, y1), (x2, y2) = points
    parts = max(1, int(max(abs(x2 - x1), abs(y2 - y1)) / 5))
    shake = max(1, thickness // 3)
    knots = []
    for index in range(parts + 1):
        share = index / parts
        jitter = rng.integers(-shake, shake + 1, 2) if 0 < index < parts else (0, 0)
        knots.append((round(x1 + (x2 - x1) * share) + int(jitter[0]), round(y1 + (y2 - y1) * share) + int(jitter[1])))
    for start, end in itertools.pairwise(knots):
        cv2.line(copper, start, end, value, max(2, thickness + int(rng.integers(-2, 2))))
    cv2.circle(copper, knots[-1], max(1, thickness // 2 - 1), value, -1)


def _changed(board: _Board, after: Mask) -> Box | None:
    """Box of the pixels that a stroke changed; ``None`` if there are too few."""
    change = cv2.absdiff(board.copper, after)
    if cv2.countNonZero(change) < 12:
        return None
    x, y, width, height = cv2.boundingRect(change)
    return (
        float(max(0, x - _MARGIN)),
        float(max(0, y - _MARGIN)),
        float(min(board.width, x + width + _MARGIN)),
        float(min(board.height, y + height + _MARGIN)),
    )


def _is_free(box: Box, found: list[tuple[int, Box]]) -> bool:
    return all(box[2] <= x1 or box[0] >= x2 or box[3] <= y1 or box[1] >= y2 for _, (x1, y1, x2, y2) in found)


def _binarised(rng: np.random.Generator, copper: Mask) -> npt.NDArray[np.uint8]:
    """Frays the edges as the camera's noise and the threshold do, and turns copper black."""
    soft = box_blur(copper.astype(np.float32), 3, 3) + white(rng, *copper.shape) * np.float32(30)
    return np.asarray(np.where(soft > 127, 0, 255), np.uint8)
