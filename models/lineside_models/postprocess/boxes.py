"""Shared by heads with anchors: identification of joined outputs, and shifts of anchors to boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import Candidates, Floats, HeadParams, Outputs, check_shape, finish, only
from lineside_models.preprocess import Letterbox

EXP_MAX = float(np.log(1000 / 16))
"""Cap on a log size before it is raised, as in torchvision's and Detectron's box coder."""


def joined(
    outputs: Outputs, frames: int, *, scores: str | None, boxes: str | None, centerness: str | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Returns scores ``(B, N, C)``, boxes ``(B, N, 4)`` and, if there is one, centerness ``(B, N, 1)``.

    Where they aren't named they are told apart by their last dimension; that fails with 4 classes, or with 1 beside a
    centerness, and then they must be named.

    Raises:
        BadInputFormatError: The shapes don't tell, or don't fit each other.
    """
    widths = {name: array.shape[-1] for name, array in outputs.items() if array.ndim == 3}
    named = {scores, boxes, centerness}
    fours = [name for name, width in widths.items() if width == 4 and name not in named]
    box = boxes or (fours[0] if len(fours) == 1 else None)
    ones = [name for name, width in widths.items() if width == 1 and name not in (*named, box)]
    centre = centerness or (ones[0] if len(ones) == 1 and len(widths) == 3 else None)
    rest = [name for name in widths if name not in (box, centre)]
    score = scores or (rest[0] if len(rest) == 1 else None)
    logits = only(outputs, score or "", "the class scores")
    sides = only(outputs, box or "", "the boxes")
    check_shape(logits, (frames, None, None), "the class scores")
    check_shape(sides, (frames, logits.shape[1], 4), "the boxes")
    if centre is None:
        return logits, sides, None
    middles = only(outputs, centre, "the centerness")
    check_shape(middles, (frames, logits.shape[1], 1), "the centerness")
    return logits, sides, middles


def decode_deltas(deltas: npt.NDArray[Any], anchors: Floats, weights: tuple[float, float, float, float]) -> Floats:
    """Returns the boxes ``(N, 4)`` that lie at the given shifts from their anchors (Girshick 2014, arXiv:1311.2524).

    Args:
        deltas: ``(N, 4)`` dx, dy, dw, dh.
        anchors: ``(N, 4)`` as ``x1, y1, x2, y2``.
        weights: The deltas were multiplied by these in training.
    """
    dx, dy, dw, dh = (deltas.astype(np.float32) / np.array(weights, np.float32)).T
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2
    moved = centre + np.stack([dx, dy], axis=1) * size
    half = np.exp(np.minimum(np.stack([dw, dh], axis=1), np.float32(EXP_MAX))) * size / 2
    return np.concatenate([moved - half, moved + half], axis=1)


def best_in_input(boxes: Floats, scores: npt.NDArray[Any], params: HeadParams, letterbox: Letterbox) -> Candidates:
    """Selects every class ``(N, C)`` of every box ``(N, 4)`` above the floor; boxes are clipped to the input first.

    torchvision, mmdetection and PicoDet cut before they suppress too; the YOLO family cuts behind.
    """
    row, label = np.nonzero(scores >= params.score_min)
    height, width = letterbox.canvas
    cut = np.clip(boxes[row], 0, np.array([width, height] * 2, np.float32))
    return finish(cut, scores[row, label], label.astype(np.int64), params, letterbox)[0]
