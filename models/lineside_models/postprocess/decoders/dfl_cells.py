"""Cells of ``dfl_anchor_free``: selection, boxes, and the vote of neighbours.

Most of this is a matter of microseconds: arrays are short, and what a call to numpy costs before it begins counts.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import CANDIDATES_MAX, Floats, Ints, sigmoid
from lineside_models.postprocess.grids import KEPT, fixed

EXP_MAX = 80.0
"""Up to here a logit can be raised as it is without overflow."""

HELD_MAX = 1 << 17
"""Numbers that a thread keeps room for: a verdict's. Whoever decodes everything needs more, and waits for it anyway."""

PAIRS_TOGETHER = 4096
"""Pairs of boxes up to this number are looked at in one go; more than that label by label, each with its own only."""

_TINY = np.float32(1e-9)
_LOCAL = threading.local()


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The cells of all maps, one map after the other, in each row after row.

    Attributes:
        starts: Number of the first cell of each map, and how many there are in all.
        centre: ``(2, cells)`` x and y of a cell's centre, in strides.
        stride: ``(cells,)`` in pixels of the input.
    """

    starts: tuple[int, ...]
    centre: Floats
    stride: Floats


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """The best cells of one frame; a cell with two labels occurs twice.

    Attributes:
        logits: ``(N,)``, falling.
        labels: ``(N,)`` indices of types.
        cell: ``(N,)`` numbers in the grid.
    """

    logits: Floats
    labels: Ints
    cell: Ints
    grid: Grid

    def take(self, which: Ints) -> Cells:
        """Returns some of them."""
        return Cells(self.logits.take(which), self.labels.take(which), self.cell.take(which), self.grid)


@functools.lru_cache(maxsize=KEPT)
def grid_of(shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> Grid:
    """Returns the cells of maps of the given heights and widths."""
    centres, sizes, starts = [], [], [0]
    for (height, width), step in zip(shapes, strides, strict=True):
        row, column = np.divmod(np.arange(height * width), width)
        centres.append(np.stack([column, row]).astype(np.float32) + np.float32(0.5))
        sizes.append(np.full(height * width, step, np.float32))
        starts.append(starts[-1] + height * width)
    centre, stride = np.concatenate(centres, axis=1), np.concatenate(sizes)
    return Grid(tuple(starts), fixed(centre), fixed(stride))


def best_cells(maps: Sequence[npt.NDArray[Any]], strides: tuple[int, ...], floors: npt.NDArray[np.float64]) -> Cells:
    """Returns the cells whose logit lies above the floor of its type, best first, at most `CANDIDATES_MAX`.

    Of equals those of the first map come first, there those of the first label. The limit is one on the best cells of
    all types: what lies below its type's floor, and above the lowest of the floors, counts for it.

    Args:
        maps: ``(C, H, W)`` of class logits, one a stride.
        strides: In pixels of the input.
        floors: ``(C,)`` logits.
    """
    grid = grid_of(tuple((logits.shape[1], logits.shape[2]) for logits in maps), strides)
    least = np.float32(floors.min())
    logits, labels, cells = [], [], []
    for start, end, each in zip(grid.starts[:-1], grid.starts[1:], maps, strict=True):
        flat = each.reshape(-1).astype(np.float32, copy=False)
        (place,) = (flat > least).nonzero()
        if not len(place):
            continue
        label = place // (end - start)
        logits.append(flat.take(place))
        labels.append(label)
        cells.append(place - label * (end - start) + start)
    if not logits:
        nothing = np.empty(0, np.int64)
        return Cells(np.empty(0, np.float32), nothing, nothing, grid)
    found = Cells(np.concatenate(logits), np.concatenate(labels), np.concatenate(cells), grid)
    if len(found.logits) > CANDIDATES_MAX:
        last = len(found.logits) - CANDIDATES_MAX
        found = found.take(np.flatnonzero(found.logits >= np.partition(found.logits, last)[last]))
    order = np.argsort(-found.logits, kind="stable")[:CANDIDATES_MAX]
    return found.take(order[found.logits[order] > floors[found.labels[order]]])


def boxes_of(cells: Cells, sides: Sequence[npt.NDArray[Any]], bins: int) -> Floats:
    """Returns ``(N, 4)`` boxes in pixels of the input: each side's mean distance, seen from the cell's centre.

    Args:
        sides: ``(4 * bins, H, W)`` of distance distributions, one a map.
        bins: Of the distribution of one side.
    """
    order = np.argsort(cells.cell, kind="stable")  # map after map
    cell = cells.cell[order]
    ends = np.searchsorted(cell, cells.grid.starts).tolist()
    logits = _workspace(4 * bins * len(cell)).reshape(4 * bins, -1)
    for each, first, start, end in zip(sides, cells.grid.starts[:-1], ends[:-1], ends[1:], strict=True):
        if end > start:
            logits[:, start:end] = each.reshape(4 * bins, -1).take(cell[start:end] - first, axis=1)
    distances = _means(logits.reshape(4, bins, -1))
    centre = cells.grid.centre.take(cell, axis=1)
    corners = np.concatenate([centre - distances[:2], centre + distances[2:]])
    corners *= cells.grid.stride.take(cell)
    boxes = np.empty((len(cell), 4), np.float32)
    boxes[order] = corners.T
    return boxes


def _means(sides: Floats) -> Floats:
    """Returns ``(4, N)`` means of ``(4, bins, N)`` logits of distributions over 0, 1, 2 …; the logits are lost."""
    if not sides.max() < EXP_MAX:
        sides -= sides.max(axis=1, keepdims=True)
    np.exp(sides, out=sides)
    total = sides.sum(axis=1)
    sides *= _steps(sides.shape[1])  # no product of matrices: BLAS would wake threads
    return np.asarray(sides.sum(axis=1) / total, np.float32)


@functools.lru_cache(maxsize=KEPT)
def _steps(bins: int) -> Floats:
    return fixed(np.arange(bins, dtype=np.float32)[:, None])


def _workspace(size: int) -> Floats:
    """Returns uninitialised memory of this thread.

    A fresh array of this size is memory that the system gives and takes back each time: that costs as much as the work.
    """
    held: Floats | None = getattr(_LOCAL, "held", None)
    if held is None or len(held) < size:
        held = np.empty(size, np.float32)
        if size <= HELD_MAX:
            _LOCAL.held = held
    return held[:size]


def vote(cells: Cells, boxes: Floats, kept: Ints, voters: int, *, least_iou: float) -> Floats:
    """Returns the kept boxes, each the mean of the voters of its type around it, weighted by their raw scores.

    Args:
        cells: All that were decoded, best first.
        boxes: ``(N, 4)`` theirs.
        kept: Numbers of those that are kept.
        voters: So many of the best have a vote.
        least_iou: Overlap from which a box votes.
    """
    around = boxes[:voters]
    mine, types, labels = boxes[kept], cells.labels[kept], cells.labels[:voters]
    weights = sigmoid(cells.logits[:voters]).astype(np.float32)
    if len(kept) * voters <= PAIRS_TOGETHER:
        return _means_around(mine, around, weights * (types[:, None] == labels), least_iou)
    for label in set(types.tolist()):
        asked, asking = np.flatnonzero(labels == label), np.flatnonzero(types == label)
        mine[asking] = _means_around(mine[asking], around[asked], weights[asked], least_iou)
    return mine


def _means_around(boxes: Floats, voters: Floats, weights: Floats, least_iou: float) -> Floats:
    """Returns boxes ``(N, 4)`` moved to the mean of the ``(M, 4)`` around them; weights are ``(M,)`` or ``(N, M)``."""
    first, second = boxes.T[:, :, None], voters.T[:, None]
    sides = np.minimum(first[2:], second[2:])
    sides -= np.maximum(first[:2], second[:2])
    np.maximum(sides, 0, out=sides)
    shared = sides[0] * sides[1]
    # As intersection over union, without dividing; what has no area overlaps with nothing.
    near = shared * np.float32(1 + 1 / least_iou) >= np.maximum(_areas(first) + _areas(second), _TINY)
    weights = weights * near
    total = weights.sum(axis=1)[:, None]
    sums = np.einsum("kn,nc->kc", weights, voters)  # no product of matrices: BLAS would wake threads
    return np.asarray(np.divide(sums, total, out=boxes, where=total > 0), np.float32)


def _areas(corners: Floats) -> Floats:
    """Returns the areas of boxes whose corners' coordinates are the first dimension."""
    return np.asarray((corners[2] - corners[0]) * (corners[3] - corners[1]), np.float32)
