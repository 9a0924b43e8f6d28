"""Heads of the YOLO family.

| name | output | source |
| --- | --- | --- |
| ``yolov5`` | ``(B, N, 5 + C)``: x, y, w, h in pixels, objectness, classes; N = 3 x cells | YOLOv5, YOLOv7 |
| ``yolov8`` | ``(B, 4 + C, N)``: x, y, w, h in pixels, classes; N = cells | YOLOv8, YOLO11 (`ultralytics` export) |
| ``yolox`` | ``(B, N, 5 + C)``: offset and log size in strides, objectness, classes; N = cells | YOLOX |
| ``yolo_end2end`` | ``(B, K, 6)``: x1, y1, x2, y2 in pixels, score, class; no doubles | YOLOv10, exports with NMS |

x and y are the box's centre. Scores are probabilities already: the graph ends behind its sigmoid. ``yolov5`` and
``yolov8`` take a second output of prototypes ``(B, M, h, w)`` where the first has M more columns, as the exports for
instance segmentation do; then each candidate has an outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import (
    Candidates,
    Floats,
    HeadParams,
    Ints,
    Outputs,
    check_shape,
    finish,
    only,
    place,
    read,
)
from lineside_models.postprocess.grids import grid
from lineside_models.postprocess.masks import with_outlines
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError

ULTRALYTICS_NMS_IOU = 0.7  # `ultralytics` predict's default


class YoloParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of the YOLO heads, beside those of all heads.

    Attributes:
        output: Name of the output; ``None`` where it is the only one, or the only one with three dimensions.
        prototypes: Name of the output of prototypes; ``None`` where it is the only one with four dimensions.
        multi_label: Whether a box counts for every class above the floor, or for its best one only, as the `predict`
            of these projects does.
    """

    nms_iou: float = ULTRALYTICS_NMS_IOU
    output: str | None = None
    prototypes: str | None = None
    multi_label: bool = False


class YoloxParams(YoloParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``yolox``.

    Attributes:
        strides: Of the grids, in the order in which their cells follow one another.
        decoded: The graph has decoded the boxes to pixels already (YOLOX's ``--decode_in_inference``, YOLOv6).
    """

    strides: tuple[int, ...] = (8, 16, 32)
    decoded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides or min(self.strides) < 1:
            raise ValueError("strides must be positive")


def yolov5(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes boxes with an objectness: the score is objectness x class."""
    checked = read(params, YoloParams)
    rows, prototypes = _parts(outputs, checked, len(letterboxes))
    return _with_masks(rows, prototypes, checked, letterboxes, objectness=True)


def yolov8(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes boxes without an objectness, one column a cell."""
    checked = read(params, YoloParams)
    columns, prototypes = _parts(outputs, checked, len(letterboxes))
    return _with_masks(columns.transpose(0, 2, 1), prototypes, checked, letterboxes, objectness=False)


def yolox(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes boxes that are offsets from their cell: ``(xy + cell) * stride`` and ``exp(wh) * stride``."""
    checked = read(params, YoloxParams)
    rows, _ = _parts(outputs, checked, len(letterboxes))
    _check_columns(rows, 6)
    return [_yolox_frame(rows[index], checked, letterbox) for index, letterbox in enumerate(letterboxes)]


def yolo_end2end(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Reads boxes of graphs that include non-maximum suppression."""
    checked = read(params, YoloParams)
    rows, _ = _parts(outputs, checked, len(letterboxes))
    check_shape(rows, (len(letterboxes), None, 6), "the boxes")
    found = []
    for frame, letterbox in zip(rows, letterboxes, strict=True):
        kept = np.flatnonzero(frame[:, 4] >= checked.score_min)
        boxes, labels = frame[:, :4].astype(np.float32), frame[:, 5].astype(np.int64)
        found.append(place(boxes, frame[:, 4], labels, kept, checked, letterbox)[0])
    return found


def _with_masks(
    rows: npt.NDArray[Any],
    prototypes: npt.NDArray[Any] | None,
    params: YoloParams,
    letterboxes: Sequence[Letterbox],
    *,
    objectness: bool,
) -> list[Candidates]:
    """Decodes rows of a box, an objectness if there is one, the classes, and a coefficient for each prototype."""
    first = 4 + objectness
    masks = 0 if prototypes is None else prototypes.shape[1]
    _check_columns(rows, first + 1 + masks)
    last = rows.shape[2] - masks
    return [
        _decode(
            _corners(row[:, :4]),
            row[:, first:last] * row[:, 4:5] if objectness else row[:, first:last],
            row[:, last:],
            None if prototypes is None else prototypes[index],
            params,
            letterbox,
        )
        for index, (row, letterbox) in enumerate(zip(rows, letterboxes, strict=True))
    ]


def _yolox_frame(rows: npt.NDArray[Any], params: YoloxParams, letterbox: Letterbox) -> Candidates:
    boxes = rows[:, :4].astype(np.float32)
    if not params.decoded:
        cells, strides = grid(letterbox.canvas, params.strides)
        check_shape(rows, (len(cells), None), f"the cells of strides {params.strides}")
        boxes = np.concatenate([(boxes[:, :2] + cells) * strides, np.exp(np.minimum(boxes[:, 2:], 20)) * strides], 1)
    return _decode(_corners(boxes), rows[:, 5:] * rows[:, 4:5], rows[:, :0], None, params, letterbox)


def _parts(outputs: Outputs, params: YoloParams, frames: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Returns the output of boxes and that of prototypes, told apart by their dimensions where none is named."""
    flat = {name: array for name, array in outputs.items() if array.ndim == 3}
    rows = only(outputs if params.output else flat, params.output, "the boxes")
    check_shape(rows, (frames, None, None), "the boxes")
    deep = [name for name, array in outputs.items() if array.ndim == 4]
    if params.prototypes is None and len(deep) != 1:
        return rows, None
    prototypes = only(outputs, params.prototypes or deep[0], "the prototypes")
    check_shape(prototypes, (frames, None, None, None), "the prototypes")
    return rows, prototypes


def _check_columns(rows: npt.NDArray[Any], least: int) -> None:
    if rows.shape[2] < least:
        raise BadInputFormatError(
            "the output of the boxes has too few columns",
            expected=f"{least} or more",
            actual=rows.shape[2],
            action="Name another decoder in the manifest's postprocess.",
        )


def _corners(boxes: npt.NDArray[Any]) -> Floats:
    centre, half = boxes[:, :2].astype(np.float32), boxes[:, 2:].astype(np.float32) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _above(scores: npt.NDArray[Any], params: YoloParams) -> tuple[Ints, Ints]:
    """Returns rows and columns of the scores that count."""
    if params.multi_label:
        rows, columns = np.nonzero(scores >= params.score_min)
        return rows, columns
    box = np.flatnonzero(scores.max(axis=1) >= params.score_min)
    return box, scores[box].argmax(axis=1)


def _decode(
    boxes: Floats,
    scores: npt.NDArray[Any],
    coefficients: npt.NDArray[Any],
    prototypes: npt.NDArray[Any] | None,
    params: YoloParams,
    letterbox: Letterbox,
) -> Candidates:
    """Selects boxes ``(N, 4)`` with scores ``(N, C)`` above the floor."""
    box, label = _above(scores, params)
    found, which = finish(boxes[box], scores[box, label], label.astype(np.int64), params, letterbox)
    if prototypes is None:
        return found
    return with_outlines(found, coefficients[box[which]], prototypes, letterbox)
