"""Slicing of large frames into overlapping pieces, and merging of their candidates.

As in SAHI (Akyon et al. 2022, arXiv:2202.06934): the pieces lie on a grid, the last ones against the frame's edge, and
the whole frame may be one more of them. Putting together looks at what two pieces both saw: two boxes of one type are
one defect if, cut to the area that both pieces show, the smaller lies in the other by half or more. So the two halves
of a defect on a seam meet in the overlap, however long each half is; SAHI compares whole boxes and leaves long halves
apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Slicing

Floats = npt.NDArray[np.float64]

SAME = 0.5
"""Share of the smaller box that must lie in the other (SAHI's ``match_threshold`` with ``IOS``)."""

CANDIDATES_MAX = 1000
"""Of all pieces of a frame, best first."""

ENTIRE = 0.5
"""Least area of a box, as a share of the largest one of the same defect, for which it shows the whole defect."""

CUT = 0.02
"""A box that ends within this share of its piece's side of an inner edge was cut by it."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameSlice:
    """Piece of a frame that goes through the model by itself.

    Attributes:
        x1: Left edge, in pixels of the frame.
        y1: Upper edge.
        x2: Right edge, exclusive.
        y2: Lower edge, exclusive.
    """

    x1: int
    y1: int
    x2: int
    y2: int


def slice_frame(size: tuple[int, int], slicing: Slicing | None) -> tuple[FrameSlice, ...]:
    """Returns the slices of a frame.

    Args:
        size: ``(height, width)`` of the frame in pixels.
        slicing: How; ``None`` for not at all.

    Returns:
        The frame as one piece, if it is not to be cut or is no larger than a piece.
    """
    height, width = size
    whole = FrameSlice(0, 0, width, height)
    if slicing is None or max(size) <= slicing.side_px:
        return (whole,)
    side = slicing.side_px
    cut = tuple(
        FrameSlice(x, y, min(x + side, width), min(y + side, height))
        for y in _starts(height, slicing)
        for x in _starts(width, slicing)
    )
    return (*cut, whole) if slicing.whole else cut


def _starts(length: int, slicing: Slicing) -> list[int]:
    """Returns the starts of pieces along one side, evenly spread, with at least the overlap."""
    last = length - slicing.side_px
    if last <= 0:
        return [0]
    steps = int(np.ceil(last / max(1.0, slicing.side_px * (1 - slicing.overlap))))
    return [round(number * last / steps) for number in range(steps + 1)]


def merge_slices(found: Sequence[tuple[FrameSlice, Candidates]], size: tuple[int, int]) -> Candidates:
    """Merges the candidates of all pieces of a frame, each defect once.

    Of the boxes of one defect that no edge cut, the best is kept of those that show most of it: a piece can be surer of
    a part of what the whole frame shows. If every one was cut, it is the box around all of them.

    Args:
        found: Each piece with its candidates, boxes in pixels of the piece.
        size: ``(height, width)`` of the frame in pixels.

    Returns:
        The candidates of the frame, highest score first; each with the highest score of its boxes.
    """
    if len(found) == 1:
        return found[0][1]
    seen = _gather(found, size)
    if not len(seen.scores):
        return found[0][1]
    boxes, scores, labels, origin = [], [], [], []
    for label in np.unique(seen.labels):
        of = np.flatnonzero(seen.labels == label)
        views = _views(seen.boxes[of], seen.pieces[of], seen.numbers[of])
        for group in _groups(views, seen.numbers[of].tolist()):
            members = of[group]
            whole = _entire(members[~seen.cut[members]], seen.boxes)
            best = int(whole[0]) if len(whole) else int(members[0])
            alone = bool(len(whole)) or len(members) == 1
            boxes.append(seen.boxes[best] if alone else _around(seen.boxes[members]))
            scores.append(seen.scores[members[0]])
            labels.append(label)
            origin.append(best if alone else -1)
    order = np.argsort(-np.array(scores), kind="stable")
    empty = np.empty((0, 2), np.float32)
    return Candidates(
        np.array(boxes, np.float32)[order],
        np.array(scores, np.float32)[order],
        np.array(labels, np.int64)[order],
        tuple(seen.outlines[origin[n]] if origin[n] >= 0 else empty for n in order) if seen.outlines else (),
    )


def _entire(members: npt.NDArray[np.int64], boxes: Floats) -> npt.NDArray[np.int64]:
    """Returns those of the boxes of one defect that are not much smaller than the largest one."""
    areas = np.prod(boxes[members, 2:] - boxes[members, :2], axis=1)
    return np.asarray(members[areas >= ENTIRE * areas.max(initial=0.0)])


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """All candidates of all pieces in pixels of the frame, highest score first; ``cut`` by an inner edge or not."""

    boxes: Floats
    scores: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    pieces: Floats
    cut: npt.NDArray[np.bool_]
    outlines: tuple[npt.NDArray[np.float32], ...]


def _gather(found: Sequence[tuple[FrameSlice, Candidates]], size: tuple[int, int]) -> _Seen:
    counts = [len(each) for _, each in found]
    numbers = np.repeat(np.arange(len(found)), counts)
    edges = np.array([dataclasses.astuple(piece) for piece, _ in found], np.float64)[numbers]
    boxes = np.concatenate([each.boxes for _, each in found]).astype(np.float64) + np.tile(edges[:, :2], 2)
    near = CUT * (edges[:, 2:] - edges[:, :2])
    frame = np.array([size[1], size[0]], np.float64)
    low = (boxes[:, :2] - edges[:, :2] < near) & (edges[:, :2] > 0)
    high = (edges[:, 2:] - boxes[:, 2:] < near) & (edges[:, 2:] < frame)
    cut = np.asarray((low | high).any(axis=1), bool)
    scores = np.concatenate([each.scores for _, each in found])
    order = np.argsort(-scores, kind="stable")[:CANDIDATES_MAX]
    outlines: list[npt.NDArray[np.float32]] = []
    for piece, each in found:
        outlines += [outline + np.array([piece.x1, piece.y1], np.float32) for outline in each.outlines]
    return _Seen(
        boxes[order],
        scores[order],
        np.concatenate([each.labels for _, each in found])[order],
        numbers[order],
        edges[order],
        cut[order],
        tuple(outlines[place] for place in order) if outlines else (),
    )


def _views(boxes: Floats, edges: Floats, numbers: npt.NDArray[np.int64]) -> list[list[int]]:
    """Returns for each box which others are views of the same defect from another piece."""
    one, two = _touching(boxes)
    apart = numbers[one] != numbers[two]
    one, two = one[apart], two[apart]
    low = np.maximum(edges[one, :2], edges[two, :2])
    high = np.minimum(edges[one, 2:], edges[two, 2:])
    first_low, first_high = np.maximum(boxes[one, :2], low), np.minimum(boxes[one, 2:], high)
    second_low, second_high = np.maximum(boxes[two, :2], low), np.minimum(boxes[two, 2:], high)
    shared = np.clip(np.minimum(first_high, second_high) - np.maximum(first_low, second_low), 0, None).prod(axis=1)
    first = np.clip(first_high - first_low, 0, None).prod(axis=1)
    second = np.clip(second_high - second_low, 0, None).prod(axis=1)
    smaller = np.minimum(first, second)
    same = np.flatnonzero((smaller > 0) & (shared >= SAME * smaller))
    views: list[list[int]] = [[] for _ in range(len(boxes))]
    for left, right in zip(one[same].tolist(), two[same].tolist(), strict=True):
        views[left].append(right)
        views[right].append(left)
    return views


def _touching(boxes: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the pairs of boxes that overlap along x, by a sweep from left to right."""
    order = np.argsort(boxes[:, 0], kind="stable")
    behind = np.searchsorted(boxes[order, 0], boxes[order, 2], side="left")
    counts = np.maximum(behind - np.arange(1, len(boxes) + 1), 0)
    one = np.repeat(np.arange(len(boxes)), counts)
    two = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[one], order[two]


def _groups(views: list[list[int]], numbers: list[int]) -> list[list[int]]:
    """Returns the views of each defect, best first. A piece has one view of a defect: its own NMS has seen to that."""
    free = [True] * len(numbers)
    groups: list[list[int]] = []
    for first in range(len(numbers)):
        if not free[first]:
            continue
        group, taken, reached = [first], {numbers[first]}, set(views[first])
        free[first] = False
        while more := [view for view in reached if free[view] and numbers[view] not in taken]:
            best = min(more)
            group.append(best)
            taken.add(numbers[best])
            free[best] = False
            reached.update(views[best])
        groups.append(sorted(group))
    return groups


def _around(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
