"""The cells of ``dfl_anchor_free``: which are worth decoding, their boxes, and the vote of their neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.metrics import box_iou
from lineside_models.postprocess.candidates import CANDIDATES_MAX, Floats, Ints, sigmoid

SAMPLE_STEP = 61
"""Of so many logits one is looked at to guess a floor that few pass; a prime, so that it doesn't follow the columns."""

_ROUNDING_PX = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """Cells of one frame, in the order of their maps; a cell with two labels is in it twice.

    Attributes:
        logits: ``(N,)``.
        labels: ``(N,)`` indices of types.
        level: ``(N,)`` number of the map.
        cell: ``(N,)`` place in the map, row after row.
        centres: ``(N, 2)`` x and y in pixels of the input.
        strides: ``(N,)`` pixels of the input from one cell to the next.
    """

    logits: Floats
    labels: Ints
    level: Ints
    cell: Ints
    centres: Floats
    strides: Floats


def best_cells(maps: Sequence[npt.NDArray[Any]], strides: Sequence[int], floor: np.float32) -> Cells:
    """Returns the cells whose logit lies above the floor, at most `CANDIDATES_MAX`; of equals the first.

    Args:
        maps: ``(C, H, W)`` of class logits, one a stride.
        strides: In pixels of the input.
        floor: Logit.
    """
    flat = np.concatenate([logits.reshape(-1) for logits in maps]).astype(np.float32, copy=False)
    place = _best_places(flat, floor)
    starts = np.cumsum([0, *(logits.size for logits in maps)])
    level = np.searchsorted(starts, place, side="right") - 1
    sizes = np.array([logits.shape[1] * logits.shape[2] for logits in maps])
    widths, steps = np.array([logits.shape[2] for logits in maps]), np.array(strides, np.float32)
    labels, cell = np.divmod(place - starts[level], sizes[level])
    row, column = np.divmod(cell, widths[level])
    centres = np.stack([column, row], axis=1).astype(np.float32) + np.float32(0.5)
    return Cells(flat[place], labels, level, cell, centres, steps[level])


def _best_places(flat: Floats, floor: np.float32) -> Ints:
    """Returns where the highest values above the floor stand, in their order."""
    sample = flat[::SAMPLE_STEP]
    rank = len(sample) - 2 * CANDIDATES_MAX // SAMPLE_STEP
    if rank > 0:  # among the thousands of values above the floor it is dear to look for the highest
        guess = np.partition(sample, rank)[rank]
        places = np.flatnonzero(flat > guess) if guess > floor else ()
        if len(places) >= CANDIDATES_MAX:
            return _highest(flat, places)
    places = np.flatnonzero(flat > floor)
    return places if len(places) <= CANDIDATES_MAX else _highest(flat, places)


def _highest(flat: Floats, places: Ints) -> Ints:
    """Returns those of the places where the `CANDIDATES_MAX` highest values stand; of equals the first."""
    values = flat[places]
    least = np.partition(values, len(values) - CANDIDATES_MAX)[len(values) - CANDIDATES_MAX]
    keep = values > least
    equal = np.flatnonzero(values == least)
    keep[equal[: CANDIDATES_MAX - int(keep.sum())]] = True
    return places[keep]


def cell_boxes(cells: Cells, wanted: Ints, sides: Sequence[npt.NDArray[Any]], bins: int) -> Floats:
    """Returns ``(N, 4)`` boxes in pixels of the input: each side's mean distance, seen from the cell's centre.

    Args:
        cells: Of the frame.
        wanted: ``(N,)`` which of them.
        sides: ``(4 * bins, H, W)`` of distance distributions, one a map.
        bins: Of the distribution of one side.
    """
    distribution = np.empty((4 * bins, len(wanted)), np.float32)
    level = cells.level[wanted]
    for number, distances in enumerate(sides):
        here = np.flatnonzero(level == number)
        if len(here):
            flat = distances.reshape(4 * bins, -1)
            distribution[:, here] = np.take(flat, cells.cell[wanted[here]], axis=1)
    distribution = distribution.reshape(4, bins, -1)
    distribution -= distribution.max(axis=1, keepdims=True)
    np.exp(distribution, out=distribution)
    total = distribution.sum(axis=1)
    distribution *= np.arange(bins, dtype=np.float32)[None, :, None]
    distances = distribution.sum(axis=1) / total
    x, y = cells.centres[wanted].T
    boxes = np.stack([x - distances[0], y - distances[1], x + distances[2], y + distances[3]], axis=1)
    return np.asarray(boxes * cells.strides[wanted][:, None], np.float32)


def vote(
    cells: Cells, chosen: Ints, boxes: Floats, sides: Sequence[npt.NDArray[Any]], *, reg_bins: int, least_iou: float
) -> Floats:
    """Returns boxes, each the mean of those of its type around it, weighted by their raw scores.

    Args:
        cells: All that may vote.
        chosen: ``(N,)`` which of them were kept.
        boxes: ``(N, 4)`` theirs.
        sides: As for `cell_boxes`.
        reg_bins: As for `cell_boxes`.
        least_iou: Overlap from which a box votes.
    """
    if not len(chosen):
        return boxes
    near = _may_overlap(cells, chosen, boxes, least_iou)
    voters = np.flatnonzero(near.any(axis=0))
    around = cell_boxes(cells, voters, sides, reg_bins)
    weights = ((box_iou(boxes, around) >= least_iou) & near[:, voters]) * sigmoid(cells.logits[voters])
    total = weights.sum(axis=1, keepdims=True)
    real = total[:, 0] > 0  # not those without area
    voted = boxes.copy()
    voted[real] = weights[real] @ around / total[real]
    return voted


def _may_overlap(cells: Cells, chosen: Ints, boxes: Floats, least_iou: float) -> npt.NDArray[np.bool_]:
    """Returns ``(N, cells)``: one label, and not so far off that the boxes can't overlap by ``least_iou``.

    A cell's centre lies in its box. Of a box that overlaps by t, on each axis at most (1 - t) lies outside, and what
    lies inside is no longer than the other box: so its centre is at most (1 - t) / t sides of that away from it.
    """
    reach = (boxes[:, 2:] - boxes[:, :2]) * np.float32((1 - least_iou) / least_iou) + np.float32(_ROUNDING_PX)
    low, high = boxes[:, :2] - reach, boxes[:, 2:] + reach
    x, y = (cells.centres * cells.strides[:, None]).T
    near = cells.labels[chosen][:, None] == cells.labels
    near &= x >= low[:, :1]
    near &= x <= high[:, :1]
    near &= y >= low[:, 1:]
    near &= y <= high[:, 1:]
    return near
