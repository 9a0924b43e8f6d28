"""``dfl_anchor_free``: the head that lineside trains: class logits and distance distributions by stride."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lineside_models.postprocess.candidates import (
    Candidates,
    HeadParams,
    Least,
    Outputs,
    calibrated,
    floors_of,
    in_frame,
    logit_of,
    read,
    suppress,
)
from lineside_models.postprocess.decoders.dfl_cells import best_cells, boxes_of, vote
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError, ConfigError


class DflParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``dfl_anchor_free``, beside those of all heads.

    Attributes:
        strides: Of the maps, in pixels of the input.
        reg_bins: Bins of the distance distribution of one side.
        vote_iou: A kept box becomes the mean, weighted by score, of all boxes of its type that overlap it by this or
            more (Gidaris and Komodakis 2015, arXiv:1505.01749): loose textures have no one outline. 1: it stays.
        vote_from: Raw score above which a box has a vote. A verdict has to decode all that vote, and voters with small
            scores then cost more than all the rest.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    reg_bins: int = 16
    vote_iou: float = 1.0
    vote_from: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides or min(self.strides) < 1 or self.reg_bins < 2 or not 0 < self.vote_iou <= 1:
            raise ValueError("strides must be positive, reg_bins above 1, vote_iou between 0 and 1")
        if not 0 <= self.vote_from < 1:
            raise ValueError("vote_from must lie between 0 and 1")

    @property
    def votes_above(self) -> float:
        """The logit above which a box votes; infinite without voting."""
        return logit_of(max(self.vote_from, self.score_min)) if self.vote_iou < 1 else math.inf


def read_params(params: Mapping[str, Any]) -> DflParams:
    """Reads and checks the parameters of ``dfl_anchor_free``.

    Raises:
        ConfigError: A parameter is unknown, of another type or out of range; the message names it.
    """
    return read(params, DflParams)


def dfl_anchor_free(
    outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox], *, least_score: Least = 0.0
) -> list[Candidates]:
    """Maps ``cls_<stride>`` of logits and ``box_<stride>`` of distance distributions.

    A cell's centre lies at ``(x + 0.5, y + 0.5) * stride``; the distribution's mean is the distance in strides
    from there to the left, top, right and bottom side (Li et al. 2020, arXiv:2006.04388).

    Args:
        outputs: By name, the batch first.
        params: The manifest's, see `DflParams`.
        letterboxes: Of the frames of the batch.
        least_score: Candidates with a smaller calibrated score, of their type where there is one a type, aren't
            wanted. The others are the same as without it, at a fraction of the work: a box is suppressed only by better
            ones of its type, and of the rest only what has a vote is decoded.
    """
    checked = read_params(params)
    _check_maps(outputs, checked, len(letterboxes))
    return [_decode_frame(outputs, checked, index, box, least_score) for index, box in enumerate(letterboxes)]


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


def _decode_frame(
    outputs: Outputs, params: DflParams, index: int, letterbox: Letterbox, least_score: Least
) -> Candidates:
    maps, sides = ([outputs[f"{part}_{stride}"][index] for stride in params.strides] for part in ("cls", "box"))
    floors = floors_of(least_score, len(maps[0]), params.calibration, lowest=logit_of(params.score_min))
    cells = best_cells(maps, params.strides, np.minimum(floors, params.votes_above))
    wanted = np.flatnonzero(cells.logits > floors[cells.labels])
    if not len(wanted):
        return Candidates(np.empty((0, 4), np.float32), np.empty(0, np.float32), wanted)
    boxes = boxes_of(cells, sides, params.reg_bins)
    kept = wanted[suppress(boxes[wanted], cells.labels[wanted], params.nms_iou)]
    labels = cells.labels[kept]
    scores = calibrated(cells.logits[kept], labels, params.calibration)
    placed = boxes[kept]
    if params.vote_iou < 1 and len(kept):
        voters = int(np.count_nonzero(cells.logits > params.votes_above))
        placed = vote(cells, boxes, kept, voters, least_iou=params.vote_iou)
    return in_frame(placed, scores, labels, params, letterbox)[0].reaching(least_score)
