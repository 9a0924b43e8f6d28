"""``dfl_anchor_free``: the head that lineside trains, raw maps a stride of class logits and distance distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.metrics import box_iou
from lineside_models.postprocess.candidates import (
    CANDIDATES_MAX,
    Candidates,
    Floats,
    HeadParams,
    Outputs,
    calibrated,
    in_frame,
    read,
    sigmoid,
    suppress,
)
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError, ConfigError


class DflParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``dfl_anchor_free``, beside those of all heads.

    Attributes:
        strides: Of the maps, in pixels of the input.
        reg_bins: Bins of the distance distribution of one side.
        vote_iou: A kept box becomes the mean, weighted by score, of all boxes of its type that overlap it by this or
            more (Gidaris and Komodakis 2015, arXiv:1505.01749): loose textures have no one outline. 1: it stays.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    reg_bins: int = 16
    vote_iou: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides or min(self.strides) < 1 or self.reg_bins < 2 or not 0 < self.vote_iou <= 1:
            raise ValueError("strides must be positive, reg_bins above 1, vote_iou between 0 and 1")


def read_params(params: Mapping[str, Any]) -> DflParams:
    """Reads and checks the parameters of ``dfl_anchor_free``.

    Raises:
        ConfigError: A parameter is unknown, of another type or out of range; the message names it.
    """
    return read(params, DflParams)


def dfl_anchor_free(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Maps ``cls_<stride>`` of logits and ``box_<stride>`` of distance distributions.

    A cell's centre lies at ``(x + 0.5, y + 0.5) * stride``; the distribution's mean is the distance in strides
    from there to the left, top, right and bottom side (Li et al. 2020, arXiv:2006.04388).
    """
    checked = read_params(params)
    _check_maps(outputs, checked, len(letterboxes))
    return [_decode_frame(outputs, checked, index, box) for index, box in enumerate(letterboxes)]


def _check_maps(outputs: Outputs, params: DflParams, frames: int) -> None:
    classes = 0
    for stride in params.strides:
        scores, sides = outputs.get(f"cls_{stride}"), outputs.get(f"box_{stride}")
        if scores is None or sides is None:
            raise BadInputFormatError(
                f"the outputs of stride {stride} are missing",
                expected=f"cls_{stride} and box_{stride}",
                actual=", ".join(sorted(outputs)) or "no outputs",
                action="Name the model's outputs so, or correct postprocess.params.strides.",
            )
        classes = classes or (scores.shape[1] if scores.ndim == 4 else 0)
        expected = (frames, classes, *scores.shape[2:]), (frames, 4 * params.reg_bins, *scores.shape[2:])
        if scores.ndim != 4 or (scores.shape, sides.shape) != expected:
            raise BadInputFormatError(
                f"the outputs of stride {stride} have the wrong shape",
                expected=f"{expected[0]} and {expected[1]}",
                actual=f"{scores.shape} and {sides.shape}",
                action="Correct postprocess.params.reg_bins and strides.",
            )
    if params.calibration and len(params.calibration) != classes:
        raise ConfigError("postprocess.params.calibration", expected=f"{classes} pairs", actual=len(params.calibration))


def _decode_frame(outputs: Outputs, params: DflParams, index: int, letterbox: Letterbox) -> Candidates:
    logits, labels, boxes = _survivors(outputs, params, index)
    if not len(logits):
        return Candidates(boxes, logits, labels)
    kept = suppress(boxes, labels, params.nms_iou)
    scores = calibrated(logits[kept], labels[kept], params.calibration)
    voted = _vote(boxes, labels, logits, kept, params.vote_iou) if params.vote_iou < 1 else boxes[kept]
    return in_frame(voted, scores, labels[kept], params, letterbox)[0]


def _survivors(outputs: Outputs, params: DflParams, index: int) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """Returns logits, labels and boxes (in pixels of the input) of the cells worth decoding, highest logit first."""
    floor = np.float32(np.log(params.score_min / (1 - params.score_min)))
    flat = [outputs[f"cls_{stride}"][index].reshape(-1) for stride in params.strides]
    places = [np.flatnonzero(scores > floor) for scores in flat]
    logits = np.concatenate([scores[place] for scores, place in zip(flat, places, strict=True)]).astype(np.float32)
    level = np.repeat(np.arange(len(flat)), [len(place) for place in places])
    order = np.argsort(-logits, kind="stable")[:CANDIDATES_MAX]
    place, level = np.concatenate(places)[order], level[order]
    labels, boxes = np.empty(len(order), np.int64), np.empty((len(order), 4), np.float32)
    for number, stride in enumerate(params.strides):
        here = np.flatnonzero(level == number)
        if len(here):
            sides = outputs[f"box_{stride}"][index]
            cells = sides.shape[1] * sides.shape[2]
            labels[here], cell = np.divmod(place[here], cells)
            boxes[here] = _cell_boxes(sides, cell, stride, params.reg_bins)
    return logits[order], labels, boxes


def _cell_boxes(sides: npt.NDArray[Any], cell: npt.NDArray[np.int64], stride: int, bins: int) -> Floats:
    """Returns ``(N, 4)`` boxes of the given cells: each side's mean distance, seen from the cell's centre."""
    distribution = sides.reshape(4, bins, -1)[:, :, cell].astype(np.float32)
    distribution -= distribution.max(axis=1, keepdims=True)
    np.exp(distribution, out=distribution)
    steps = np.arange(bins, dtype=np.float32)[None, :, None]
    left, top, right, bottom = (distribution * steps).sum(axis=1) / distribution.sum(axis=1)
    row, column = np.divmod(cell, sides.shape[2])
    x, y = column.astype(np.float32) + np.float32(0.5), row.astype(np.float32) + np.float32(0.5)
    return np.asarray(np.stack([x - left, y - top, x + right, y + bottom], axis=1) * np.float32(stride), np.float32)


def _vote(
    boxes: Floats, labels: npt.NDArray[np.int64], logits: Floats, kept: npt.NDArray[np.int64], least_iou: float
) -> Floats:
    """Returns the kept boxes, each the mean of those of its type around it, weighted by their raw scores."""
    scores = sigmoid(logits)
    voted = boxes[kept]
    for label in np.unique(labels):
        members, chosen = np.flatnonzero(labels == label), np.flatnonzero(labels[kept] == label)
        weights = (box_iou(boxes[kept[chosen]], boxes[members]) >= least_iou) * scores[members]
        total = weights.sum(axis=1, keepdims=True)
        chosen, weights, total = (each[total[:, 0] > 0] for each in (chosen, weights, total))  # not those without area
        voted[chosen] = weights @ boxes[members] / total
    return voted
