"""``box_scores`` and ``detr``: boxes that the graph has decoded, each with a score of every class.

- ``detr``: logits ``(B, Q, C)`` and boxes ``(B, Q, 4)``, centre and size in shares of the input (RT-DETR, D-FINE, DEIM,
  RF-DETR).
- ``box_scores``: boxes ``(B, N, 4)`` in pixels and scores ``(B, N, C)`` or ``(B, C, N)`` (PicoDet and PP-YOLOE of
  PaddleDetection without suppression), or both joined ``(B, N, 4 + C)`` (PicoDet and RTMDet of LibreYOLO).

The rows of ``detr`` are the answers to queries, trained so that no two give the same object (Carion et al. 2020,
arXiv:2005.12872): there is no suppression. A row counts for every class above the floor, as in the top-k of these
projects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.boxes import best_in_input
from lineside_models.postprocess.candidates import (
    Candidates,
    Floats,
    HeadParams,
    Outputs,
    check_shape,
    only,
    read,
    sigmoid,
    softmax,
)
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError


class BoxScoresParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``box_scores``, beside those of all heads.

    Attributes:
        scores: Name of the output of scores; empty where one output holds boxes and scores.
        boxes: Name of the output of boxes.
        activation: What makes probabilities of the scores: ``softmax`` over all columns, ``none`` where they are some.
        order: Numbers of a box: corners, or centre and size.
        shares: Whether boxes are in shares of the input instead of pixels of it.
        first_class: Column of the first label.
        background: Whether the last column stands for no object.
    """

    scores: str = ""
    boxes: str = ""
    activation: Literal["sigmoid", "softmax", "none"] = "none"
    order: Literal["xyxy", "cxcywh"] = "xyxy"
    shares: bool = False
    first_class: int = 0
    background: bool = False


class DetrParams(BoxScoresParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``detr``: those of ``box_scores`` with other defaults; ``nms_iou`` 1 suppresses nothing."""

    nms_iou: float = 1.0
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    order: Literal["xyxy", "cxcywh"] = "cxcywh"
    shares: bool = True


def box_scores(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Reads decoded boxes, and suppresses duplicates."""
    return _decode(outputs, read(params, BoxScoresParams), letterboxes)


def detr(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Reads the answers to a transformer's queries."""
    return _decode(outputs, read(params, DetrParams), letterboxes)


def _decode(outputs: Outputs, params: BoxScoresParams, letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    boxes, scores = _parts(outputs, params, len(letterboxes))
    return [_frame(boxes[index], scores[index], params, letterbox) for index, letterbox in enumerate(letterboxes)]


def answers(outputs: Outputs, params: Mapping[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns boxes ``(B, Q, 4)`` and scores ``(B, Q, C)``, 0 to 1, of the outputs that ``detr`` reads.

    Raises:
        ConfigError: A parameter is unknown, of another type or out of range; the message names it.
        BadInputFormatError: An output is missing or has another shape.
    """
    checked = read(params, DetrParams)
    boxes, scores = _parts(outputs, checked, len(only(outputs, checked.boxes or None, "the boxes")))
    return boxes.astype(np.float64), _probabilities(scores, checked).astype(np.float64)


def _parts(outputs: Outputs, params: BoxScoresParams, frames: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if not params.scores:
        rows = only(outputs, params.boxes or None, "boxes and scores")
        check_shape(rows, (frames, None, None), "boxes and scores")
        boxes, scores = rows[:, :, :4], rows[:, :, 4:]
    else:
        boxes, scores = only(outputs, params.boxes, "the boxes"), only(outputs, params.scores, "the scores")
        check_shape(boxes, (frames, None, 4), "the boxes")
        if scores.ndim == 3 and scores.shape[1] != boxes.shape[1] == scores.shape[2]:
            scores = scores.transpose(0, 2, 1)
        check_shape(scores, (*boxes.shape[:2], None), "the scores")
    if scores.shape[2] <= params.first_class + params.background:
        raise BadInputFormatError(
            "the output of the scores has too few columns",
            expected=f"more than {params.first_class + params.background}",
            actual=scores.shape[2],
            action="Name another decoder in the manifest's postprocess.",
        )
    return boxes, scores


def _frame(boxes: npt.NDArray[Any], scores: npt.NDArray[Any], params: BoxScoresParams, box: Letterbox) -> Candidates:
    scores = _probabilities(scores, params)
    kept = np.flatnonzero(scores.max(axis=1) >= params.score_min)
    height, width = box.canvas
    size = np.array([width, height, width, height] if params.shares else [1] * 4, np.float32)
    return best_in_input(corners(boxes[kept], params.order) * size, scores[kept], params, box)


def _probabilities(scores: npt.NDArray[Any], params: BoxScoresParams) -> npt.NDArray[Any]:
    """Returns the scores ``(…, C)`` of the labels, 0 to 1."""
    if params.activation != "none":
        scores = sigmoid(scores) if params.activation == "sigmoid" else softmax(scores, axis=-1)
    return scores[..., params.first_class : scores.shape[-1] - params.background]


def corners(boxes: npt.NDArray[Any], order: str) -> Floats:
    """Returns ``(N, 4)`` boxes as ``x1, y1, x2, y2``."""
    plain = boxes.astype(np.float32)
    if order == "xyxy":
        return plain
    half = plain[:, 2:] / 2
    return np.concatenate([plain[:, :2] - half, plain[:, :2] + half], axis=1)
