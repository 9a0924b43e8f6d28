"""Discriminative head beside the banks: a small network that tells marked defects from good cells.

As in SuperSimpleNet (arXiv:2508.19060), a few marked bad parts are enough. The head sees the whitened features of both
scales, so that it needs few steps, and is trained by numpy: a device has no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.copy_paste import paste_defects, squared
from lineside_models.anomaly.coreset import Floats, Ints
from lineside_models.anomaly.defect_types import UNTYPED
from lineside_models.anomaly.features import FrameFeatures, collect_features, features_bundle
from lineside_models.anomaly.names import LABEL
from lineside_models.frame import Frame, UInt8Array

HIDDEN = 64
STEPS = 400
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
DROPOUT = 0.2
BAD_BATCH, GOOD_BATCH = 128, 384
BAD_WEIGHT = 3.0
"""Loss of a bad cell: both kinds then count the same in a batch."""

GOOD_CELLS = 15_000
STRANGEST = 8
"""Cells that are taken as the defect of a bad frame without a box: those that the banks know least."""

BOX_SHARE = 0.25
"""Share of the cells in a frame's boxes that are taken as the defect: those that the banks know least. The others are
often good. Chosen, as `TRUSTED`, on magnetic-tile without its validation fold, by tile."""

TRUSTED = 20
"""Marked frames from which on the head counts as much as both banks, also where their defects were not pasted on good
frames; with fewer, as one of them."""

HEAD_WEIGHTS = ("hidden", "hidden_bias", "last")
"""Names of the head's weights in the graph, before `names.HEAD`; fields of `MarkedHead`."""

Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class MarkedFrame:
    """A bad frame.

    Attributes:
        boxes: ``(N, 4)``: ``x1, y1, x2, y2`` of its defects in pixels; none if it isn't known where they are.
        types: Type of each box; without boxes, one for the frame; none if they aren't known.
    """

    frame: Frame
    boxes: npt.NDArray[np.floating[Any]]
    types: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class MarkedFeatures:
    """Features of bad frames, and where their defects are.

    Attributes:
        defects: ``(frames, cells)`` of the finest scale; nothing in a row if it isn't known where.
        types: ``(frames, cells)``: index into ``names``, or `UNTYPED`; ``None`` without any type.
        pasted: The same of good frames on which their defects were pasted; ``None`` without boxes or good frames.
    """

    features: FrameFeatures
    defects: Bools
    types: Ints | None = None
    names: tuple[str, ...] = ()
    pasted: MarkedFeatures | None = None


def collect_marked(
    marked: Iterable[MarkedFrame], good: Sequence[UInt8Array] = (), *, threads: int = 1, seed: int = 0
) -> MarkedFeatures | None:
    """Computes the features of bad frames; ``None`` without any.

    Args:
        good: Good frames on which their defects are pasted, `squared`; without any nothing is pasted.
        seed: Of the random generator.

    Raises:
        BadInputFormatError: A frame holds no image.
        DeviceError: The features can't be computed here.
    """
    known = list(marked)
    if not known:
        return None
    features = collect_features((each.frame for each in known), threads=threads)
    pasted = _pasted(known, good, threads, seed) if len(good) else None
    side = round(features.scales[0].shape[2] ** 0.5)
    sizes = [(each.frame.image.shape[0], each.frame.image.shape[1]) for each in known]
    defects = [cells_in(each.boxes, size, side) for each, size in zip(known, sizes, strict=True)]
    names = tuple(sorted({name for each in known for name in each.types} - {LABEL}))
    types = np.stack([_types_in(each, size, side, names) for each, size in zip(known, sizes, strict=True)])
    return MarkedFeatures(features, np.stack(defects), types if names else None, names, pasted)


def _pasted(known: Sequence[MarkedFrame], good: Sequence[UInt8Array], threads: int, seed: int) -> MarkedFeatures | None:
    how = features_bundle().manifest.preprocess
    marks = [(squared(each.frame.image, how), _squared_boxes(each, good[0].shape[0])) for each in known]
    frames = paste_defects(marks, good, seed=seed)
    if not frames:
        return None
    features = collect_features((Frame(image=image) for image, _ in frames), threads=threads)
    side = round(features.scales[0].shape[2] ** 0.5)
    return MarkedFeatures(features, np.stack([cells_in(box[None], (len(image),) * 2, side) for image, box in frames]))


def _squared_boxes(marked: MarkedFrame, side: int) -> Floats:
    height, width = marked.frame.image.shape[:2]
    return np.asarray(np.asarray(marked.boxes, np.float64) * side / np.array([width, height] * 2), np.float32)


def _types_in(marked: MarkedFrame, size: tuple[int, int], side: int, names: tuple[str, ...]) -> Ints:
    """Returns the type of each cell, ``(side * side,)``; of a frame without boxes every cell has the frame's."""
    types = np.full(side * side, UNTYPED, np.int64)
    number_of = {LABEL: UNTYPED} | {name: number for number, name in enumerate(names)}
    if marked.types and not len(marked.boxes):
        types[:] = number_of[marked.types[0]]
    for box, name in zip(marked.boxes, marked.types, strict=False):
        types[cells_in(box[None], size, side)] = number_of[name]
    return types


@dataclasses.dataclass(frozen=True, slots=True)
class MarkedHead:
    """Weights of the head, for joined features of C channels.

    Attributes:
        hidden: ``(C, HIDDEN) float32``.
        hidden_bias: ``(HIDDEN,) float32``.
        last: ``(HIDDEN, 1) float32``.
    """

    hidden: Floats
    hidden_bias: Floats
    last: Floats

    def values(self, joined: Floats) -> Floats:
        """Returns the head's value of each cell of ``(..., C)``: the greater, the more a marked defect."""
        return np.asarray((np.maximum(joined @ self.hidden + self.hidden_bias, 0) @ self.last)[..., 0], np.float32)


def join(turned: Sequence[Floats]) -> Floats:
    """Returns the features of all scales at each cell of the finest one.

    Args:
        turned: ``(..., cells, C)`` a scale, the finest first; a coarser grid's cells are repeated.
    """
    count = turned[0].shape[-2]
    return np.concatenate([each[..., places(count, each.shape[-2]), :] for each in turned], axis=-1)


def places(fine: int, coarse: int) -> Ints:
    """Returns the cell of a coarse square grid under each cell of a fine one, by their numbers of cells."""
    side, other = round(fine**0.5), round(coarse**0.5)
    line = np.arange(side) * other // side
    return np.asarray((line[:, None] * other + line).ravel(), np.int64)


def cells_in(boxes: npt.NDArray[np.floating[Any]], size: tuple[int, int], side: int) -> Bools:
    """Returns which cells of a stretched frame show a box, ``(side * side,)``: their middle, or the box's, is in it.

    Args:
        boxes: ``(N, 4)``: ``x1, y1, x2, y2`` in pixels.
        size: Height and width of the frame.
    """
    shown = np.zeros((side, side), np.bool_)
    for left, top, right, bottom in np.asarray(boxes, np.float64) * side / np.array([size[1], size[0]] * 2):
        rows, columns = (
            (np.arange(side) + 0.5 >= low) & (np.arange(side) + 0.5 < high)
            for low, high in ((top, bottom), (left, right))
        )
        rows[min(int((top + bottom) / 2), side - 1)] = columns[min(int((left + right) / 2), side - 1)] = True
        shown |= rows[:, None] & columns
    return shown.ravel()


def defect_cells(boxed: Bools, strangeness: Floats) -> Ints:
    """Returns the indices of the cells of a bad frame that are taken as its defect.

    Args:
        boxed: ``(cells,)``: those in a box; none if it is not known where the defect is.
        strangeness: ``(cells,)``: how far each is from the banks.
    """
    inside = np.flatnonzero(boxed)
    if not len(inside):
        return np.argsort(-strangeness, kind="stable")[:STRANGEST]
    count = max(1, round(BOX_SHARE * len(inside)))
    return inside[np.argsort(-strangeness[inside], kind="stable")[:count]]


def train_head(good: Floats, bad: Sequence[Floats], *, seed: int) -> MarkedHead:
    """Trains a head by AdamW (arXiv:1711.05101).

    Args:
        good: ``(N, C)``: joined features of cells of good frames.
        bad: ``(cells, C)`` a bad frame: those of its defect. Frames count the same, whatever the size of the defect.
        seed: Of the random generator.
    """
    random = np.random.default_rng(seed)
    channels = good.shape[1]
    unit = float(good.std())
    weights = [
        np.asarray(random.uniform(-1, 1, shape) / fan**0.5, np.float32)
        for shape, fan in (((channels, HIDDEN), channels), ((HIDDEN,), channels), ((HIDDEN, 1), HIDDEN), ((1,), HIDDEN))
    ]
    means, squares = ([np.zeros_like(each) for each in weights] for _ in range(2))
    wanted = np.repeat(np.array([[1], [0]], np.float32), [BAD_BATCH, GOOD_BATCH], axis=0)
    loss = np.asarray(np.where(wanted > 0, BAD_WEIGHT, 1) / len(wanted), np.float32)
    cells_of_bad, sizes = np.concatenate(bad), np.array([len(each) for each in bad])
    starts = np.cumsum(sizes) - sizes
    for step in range(1, STEPS + 1):
        frames = random.integers(len(bad), size=BAD_BATCH)
        rows = cells_of_bad[starts[frames] + random.integers(sizes[frames])]
        cells = np.concatenate([rows, good[random.integers(len(good), size=GOOD_BATCH)]])
        batch = np.asarray(cells / unit, np.float32)
        kept = np.asarray(random.random((len(batch), HIDDEN)) >= DROPOUT, np.float32) / (1 - DROPOUT)
        for weight, gradient, mean, square in zip(
            weights, _gradients(weights, batch, kept, wanted, loss), means, squares, strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient * gradient - square)
            change = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            weight -= LEARNING_RATE * (change + WEIGHT_DECAY * weight)
    hidden, hidden_bias, last, _ = weights
    return MarkedHead(np.asarray(hidden / unit, np.float32), hidden_bias, last)


def _gradients(
    weights: Sequence[Floats], batch: Floats, kept: Floats, wanted: Floats, loss: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Returns the gradients of the binary cross-entropy by back-propagation."""
    hidden, hidden_bias, last, bias = weights
    before = batch @ hidden + hidden_bias
    after = np.maximum(before, 0) * kept
    at_end = (1 / (1 + np.exp(-np.clip(after @ last + bias, -30, 30))) - wanted) * loss
    at_hidden = (at_end @ last.T) * kept * (before > 0)
    return batch.T @ at_hidden, at_hidden.sum(axis=0), after.T @ at_end, at_end.sum(axis=0)
