"""``detections``: exports that include non-maximum suppression.

- torchvision's detectors, exported whole: ``boxes (N, 4)``, ``scores (N,)``, ``labels (N,)`` of one frame;
  ``first_class = 1``.
- TensorFlow Object Detection and ``TFLite_Detection_PostProcess``: ``(B, N, 4)`` as y1, x1, y2, x2 in shares of the
  input; ``order = "yxyx"``, ``shares = true``, ``first_class = 1`` (0 in TFLite).
- OpenVINO's ``DetectionOutput``: one output ``(1, 1, N, 7)`` of frame, label, score, x1, y1, x2, y2 in shares;
  ``shares = true``, ``first_class = 1``.
- RT-DETR, D-FINE and DEIM by their own exporters: ``labels``, ``boxes`` and ``scores`` of the best queries;
  ``shares = true`` where the input ``orig_target_sizes`` is 1 by 1.
- mmdeploy, RTMDet among them: ``dets (B, K, 5)`` of x1, y1, x2, y2, score and ``labels (B, K)``; ``boxes = "dets"``.
- PaddleDetection with suppression: rows ``(M, 6)`` of label, score, x1, y1, x2, y2 of one frame; ``rows`` names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import Candidates, HeadParams, Outputs, check_shape, only, place, read
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError

Rows = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
_ROW = 7  # columns of DetectionOutput
_PADDLE_ROW = 6
_SCORED_BOX = 5


class DetectionsParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``detections``, beside those of all heads.

    Attributes:
        boxes: Name of the output of boxes; with five columns the last one is the score.
        scores: Name of the output of scores.
        labels: Name of the output of labels.
        order: Order of a box's numbers.
        shares: Whether boxes are in shares of the input instead of pixels of it.
        first_class: Number that the model gives to the first label; 1 where 0 is the background.
        rows: Name of the output of rows of label, score and box, where there is one.
    """

    boxes: str = "boxes"
    scores: str = "scores"
    labels: str = "labels"
    order: Literal["xyxy", "yxyx"] = "xyxy"
    shares: bool = False
    first_class: int = 0
    rows: str = ""


def detections(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Reads the graph's boxes, frame by frame."""
    checked = read(params, DetectionsParams)
    return [
        _frame(_rows(outputs, checked, index, len(letterboxes)), checked, letterbox)
        for index, letterbox in enumerate(letterboxes)
    ]


def _rows(outputs: Outputs, params: DetectionsParams, index: int, frames: int) -> Rows:
    """Returns boxes ``(N, 4)``, scores ``(N,)`` and labels ``(N,)`` of one frame."""
    if params.rows:
        if frames != 1:
            raise BadInputFormatError(
                "frames in a batch", expected="1, as the rows do not tell frames apart", actual=frames
            )
        rows = only(outputs, params.rows, "the detections")
        check_shape(rows, (None, _PADDLE_ROW), "the detections")
        return rows[:, 2:], rows[:, 1], rows[:, 0]
    if len(outputs) == 1:
        rows = only(outputs, None, "the detections")
        check_shape(rows, (1, 1, None, _ROW), "the detections")
        mine = rows[0, 0][rows[0, 0, :, 0] == index]
        return mine[:, 3:], mine[:, 2], mine[:, 1]
    boxes, labels = (only(outputs, getattr(params, what), f"the {what}") for what in ("boxes", "labels"))
    scored = boxes.ndim > 1 and boxes.shape[-1] == _SCORED_BOX
    scores = boxes[..., 4] if scored else only(outputs, params.scores, "the scores")
    boxes = boxes[..., :4] if scored else boxes
    if boxes.ndim == 2 and frames == 1:
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    check_shape(boxes, (frames, None, 4), "the boxes")
    check_shape(scores, boxes.shape[:2], "the scores")
    check_shape(labels, boxes.shape[:2], "the labels")
    return boxes[index], scores[index], labels[index]


def _frame(rows: Rows, params: DetectionsParams, letterbox: Letterbox) -> Candidates:
    boxes = rows[0].astype(np.float32)
    if params.order == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    if params.shares:
        height, width = letterbox.canvas
        boxes = boxes * np.array([width, height, width, height], np.float32)
    labels = np.asarray(np.round(rows[2]), np.int64) - params.first_class
    kept = np.flatnonzero((rows[1] >= params.score_min) & (labels >= 0))
    return place(boxes, rows[1], labels, kept, params, letterbox)[0]
