"""The cells of ``dfl_anchor_free``: which are worth decoding, their boxes, and the vote of their neighbours.

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

SAMPLE_STEP = 61
"""Of so many logits one is looked at to guess a floor that few pass; a prime, so that it doesn't follow the columns."""

EXP_MAX = 80.0
"""Up to here a logit can be raised as it is without overflow."""

HELD_MAX = 1 << 17
"""Numbers that a thread keeps room for: a verdict's. Whoever decodes everything needs more, and waits for it anyway."""

_ROUNDING_PX = 0.01
_LOCAL = threading.local()
_NO_VOTE = 1e-300


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The cells of all maps, one map after the other, in each row after row.

    Attributes:
        starts: Number of the first cell of each map, and how many there are in all.
        centre: ``(2, cells)`` x and y of a cell's centre, in strides.
        stride: ``(cells,)`` in pixels of the input.
        place: ``(2, cells)`` x and y of a cell's centre, in pixels of the input.
    """

    starts: tuple[int, ...]
    centre: Floats
    stride: Floats
    place: Floats


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """The best cells of one frame; one with two labels is in it twice.

    Attributes:
        logits: ``(N,)``.
        labels: ``(N,)`` indices of types, rising.
        cell: ``(N,)`` numbers in the grid; rising where the label is one.
        grid: Of the maps.
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
    return Grid(tuple(starts), fixed(centre), fixed(stride), fixed(centre * stride))


def best_cells(maps: Sequence[npt.NDArray[Any]], strides: tuple[int, ...], floor: float) -> Cells:
    """Returns the cells whose logit lies above the floor, at most `CANDIDATES_MAX`.

    Of equals those of the first map are taken, there those of the first label.

    Args:
        maps: ``(C, H, W)`` of class logits, one a stride.
        strides: In pixels of the input.
        floor: Logit.
    """
    grid = grid_of(tuple((logits.shape[1], logits.shape[2]) for logits in maps), strides)
    joined = np.concatenate([logits.reshape(len(logits), -1) for logits in maps], axis=1)
    flat = joined.reshape(-1).astype(np.float32, copy=False)
    place = _above(flat, floor)
    cells, logits = joined.shape[1], flat[place]
    if len(place) > CANDIDATES_MAX:
        last = len(logits) - CANDIDATES_MAX
        least = np.partition(logits, last)[last]
        keep, equal = logits > least, np.flatnonzero(logits == least)
        level = np.searchsorted(grid.starts, place[equal] % cells, side="right")
        keep[equal[np.argsort(level, kind="stable")][: CANDIDATES_MAX - np.count_nonzero(keep)]] = True
        place, logits = place[keep], logits[keep]
    labels = place // cells
    return Cells(logits, labels, place - labels * cells, grid)


def _above(flat: Floats, floor: float) -> Ints:
    """Returns where values above the floor stand, with luck only some more than the `CANDIDATES_MAX` highest."""
    sample = flat[::SAMPLE_STEP]
    rank = len(sample) - 2 * CANDIDATES_MAX // SAMPLE_STEP
    guess = np.partition(sample, rank)[rank] if rank > 0 else floor
    if guess > floor:
        places = np.flatnonzero(flat > guess)
        if len(places) >= CANDIDATES_MAX:
            return places
    return np.flatnonzero(flat > floor)


def boxes_of(cells: Cells, sides: Sequence[npt.NDArray[Any]], bins: int) -> Floats:
    """Returns ``(N, 4)`` boxes in pixels of the input: each side's mean distance, seen from the cell's centre.

    Args:
        cells: To decode.
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
        with np.errstate(invalid="ignore"):  # of an infinite one: its box is no number, and left out
            sides -= sides.max(axis=1, keepdims=True)
    np.exp(sides, out=sides)
    total = sides.sum(axis=1)
    sides *= np.arange(sides.shape[1], dtype=np.float32)[:, None]  # no product of matrices: BLAS would wake threads
    return np.asarray(sides.sum(axis=1) / total, np.float32)


def _workspace(size: int, kind: type[np.floating[Any]] = np.float32) -> npt.NDArray[Any]:
    """Returns so many numbers of this thread's own memory, with whatever is in them.

    A fresh array of this size is memory that the system gives and takes back each time: that costs as much as the work.
    """
    held: npt.NDArray[Any] | None = getattr(_LOCAL, kind.__name__, None)
    if held is None or len(held) < size:
        held = np.empty(size, kind)
        if size <= HELD_MAX:
            setattr(_LOCAL, kind.__name__, held)
    return held[:size]


def vote(
    cells: Cells, kept: Cells, boxes: Floats, sides: Sequence[npt.NDArray[Any]], *, bins: int, least_iou: float
) -> Floats:
    """Returns the kept boxes, each the mean of those of its type around it, weighted by their raw scores.

    Args:
        cells: All that may vote.
        kept: ``N`` of them.
        boxes: ``(N, 4)`` theirs, finite.
        sides: As for `boxes_of`.
        bins: As for `boxes_of`.
        least_iou: Overlap from which a box votes.
    """
    if not len(boxes):
        return boxes
    pair = np.flatnonzero(_may_overlap(cells, kept, boxes, least_iou))
    row = pair // len(cells.cell)
    pair -= row * len(cells.cell)
    asked = np.zeros(len(cells.cell), bool)
    asked[pair] = True
    voters = cells.take(np.flatnonzero(asked))
    column = (np.cumsum(asked) - 1).take(pair)
    around = boxes_of(voters, sides, bins).T.astype(np.float64)
    if not np.isfinite(around.sum()):
        around[:, ~np.isfinite(around).all(axis=0)] = 0  # without area: no vote
    pairs = _workspace(11 * len(pair), np.float64).reshape(11, -1)
    mine = around.take(column, axis=1, out=pairs[:4], mode="clip")
    theirs = boxes.T.astype(np.float64).take(row, axis=1, out=pairs[4:8], mode="clip")
    weights = sigmoid(voters.logits).take(column)
    weights *= _overlaps(theirs, mine, pairs[8:]) >= least_iou
    starts = np.searchsorted(row, np.arange(len(boxes)))  # nobody has no pair: every box is near itself
    total = np.add.reduceat(weights, starts)
    mine *= weights
    voted = (np.add.reduceat(mine, starts, axis=1) / np.maximum(total, _NO_VOTE)).T
    return np.asarray(np.where(total[:, None] > 0, voted, boxes), np.float32)


def _overlaps(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], space: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Returns the overlaps ``(N,)`` of boxes ``(4, N)``, in the first of three rows ``(3, N)`` that may be written to.

    The same numbers as `lineside_models.metrics.box_iou`, without memory of its own.
    """
    shared, side, other = space
    np.subtract(np.minimum(first[2], second[2], out=side), np.maximum(first[0], second[0], out=shared), out=shared)
    np.maximum(shared, 0, out=shared)
    np.subtract(np.minimum(first[3], second[3], out=side), np.maximum(first[1], second[1], out=other), out=side)
    shared *= np.maximum(side, 0, out=side)
    union = np.multiply(np.subtract(first[2], first[0], out=side), np.subtract(first[3], first[1], out=other), out=side)
    union += np.multiply(np.subtract(second[2], second[0], out=other), second[3] - second[1], out=other)
    union -= shared
    shared /= np.maximum(union, _NO_VOTE, out=union)
    return np.asarray(shared, np.float64)


def _may_overlap(cells: Cells, kept: Cells, boxes: Floats, least_iou: float) -> npt.NDArray[np.bool_]:
    """Returns ``(N, cells)``: one label, and not so far off that the boxes can't overlap by ``least_iou``.

    A cell's centre lies in its box. Of a box that overlaps by t, on each axis at most (1 - t) lies outside, and what
    lies inside is no longer than the other box: so its centre is at most (1 - t) / t sides of that away from it.
    """
    reach = (boxes[:, 2:] - boxes[:, :2]) * np.float32((1 - least_iou) / least_iou) + np.float32(_ROUNDING_PX)
    low, high = boxes[:, :2] - reach, boxes[:, 2:] + reach
    x, y = cells.grid.place.take(cells.cell, axis=1)
    near = kept.labels[:, None] == cells.labels
    near &= x >= low[:, :1]
    near &= x <= high[:, :1]
    near &= y >= low[:, 1:]
    near &= y <= high[:, 1:]
    return np.asarray(near, bool)
