"""``segmentation``: a class for every pixel, as in exports of U-Net, DeepLab and torchvision.

Connected pixels of one class are one defect. (YOLO's instance masks belong to the YOLO heads.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.postprocess.candidates import (
    Candidates,
    Floats,
    HeadParams,
    Outputs,
    calibrated,
    check_shape,
    logit,
    only,
    read,
    sigmoid,
    softmax,
)
from lineside_models.postprocess.masks import cell_size, outline
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import ConfigError

Probabilities = npt.NDArray[np.float64]


class SegmentationParams(HeadParams, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``segmentation``, beside those of all heads.

    Attributes:
        activation: ``softmax`` where each pixel has one class, ``sigmoid`` where classes may lie over one another,
            ``none`` and ``sigmoid_in_graph`` where the graph ends with these probabilities.
        background: Channel that means no defect; ``None``, or ``none`` in a TOML file, where there is none. The labels
            are the other channels, in their order.
        pixel_threshold: With a sigmoid, the least score of a pixel that belongs to a class.
        area_min: Pieces of fewer cells of the output are left out.
        output: Name of the output; ``None`` where it is the only one.
    """

    activation: Literal["softmax", "sigmoid", "none", "sigmoid_in_graph"] = "softmax"
    background: int | Literal["none"] | None = 0
    pixel_threshold: float = 0.5
    area_min: int = 1
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.pixel_threshold < 1 or self.area_min < 1 or (self.background_channel or 0) < 0:
            raise ValueError("pixel_threshold lies between 0 and 1, area_min is positive, background isn't negative")

    @property
    def background_channel(self) -> int | None:
        """The channel that means no defect, if there is one."""
        return self.background if isinstance(self.background, int) else None


def segmentation(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Decodes each connected piece of a class, with box, outline and the mean score of its pixels."""
    checked = read(params, SegmentationParams)
    maps = only(outputs, checked.output, "the class maps")
    check_shape(maps, (len(letterboxes), None, None, None), "the class maps")
    if (checked.background_channel or 0) >= maps.shape[1]:
        raise ConfigError("postprocess.params.background", expected=f"below {maps.shape[1]}", actual=checked.background)
    return [_frame(frame, checked, letterbox) for frame, letterbox in zip(maps, letterboxes, strict=True)]


def pixel_labels(
    outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]
) -> list[npt.NDArray[np.uint8]]:
    """Returns the class of each pixel of each frame: ``(H, W) uint8``, 0 for nothing and k + 1 for the k-th label.

    What an evaluation compares with masks; a verdict's outlines are for people. Where classes may lie over one another
    the surest counts.

    Raises:
        ConfigError: As for `segmentation`.
        BadInputFormatError: As for `segmentation`.
    """
    checked = read(params, SegmentationParams)
    maps = only(outputs, checked.output, "the class maps")
    check_shape(maps, (len(letterboxes), None, None, None), "the class maps")
    found = []
    for frame, letterbox in zip(maps, letterboxes, strict=True):
        scores, members = _members(frame, checked)
        channels = [index for index in range(len(frame)) if index != checked.background_channel]
        sure = np.where(members[channels], scores[channels], -1.0)
        cells = np.where(sure.max(axis=0) >= 0, sure.argmax(axis=0) + 1, 0).astype(np.uint8)
        height, width = letterbox.canvas
        canvas = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        right, bottom = np.maximum(np.round(letterbox.whole[2:]), 1).astype(int).tolist()
        placed = cv2.resize(
            canvas[:bottom, :right], (letterbox.width, letterbox.height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        found.append(np.asarray(placed, np.uint8))
    return found


def _frame(maps: npt.NDArray[Any], params: SegmentationParams, letterbox: Letterbox) -> Candidates:
    scores, members = _members(maps, params)
    step = cell_size((maps.shape[1], maps.shape[2]), letterbox)
    pieces = [
        piece
        for label, channel in enumerate(index for index in range(len(maps)) if index != params.background_channel)
        for piece in _pieces(scores[channel], members[channel], label, params, step, letterbox)
    ]
    pieces.sort(key=lambda piece: -piece[0])
    kept = pieces[: params.max_detections]
    raw = np.array([piece[0] for piece in kept], np.float32)
    labels = np.array([piece[1] for piece in kept], np.int64)
    return Candidates(
        boxes=np.array([piece[2] for piece in kept], np.float32).reshape(-1, 4),
        scores=calibrated(logit(raw), labels, params.calibration) if params.calibration else raw,
        labels=labels,
        outlines=tuple(piece[3] for piece in kept),
    )


def _members(maps: npt.NDArray[Any], params: SegmentationParams) -> tuple[Probabilities, npt.NDArray[np.bool_]]:
    """Returns ``(C, h, w)`` scores, and which cells belong to each class."""
    if params.activation in ("sigmoid", "sigmoid_in_graph"):
        scores = sigmoid(maps) if params.activation == "sigmoid" else maps.astype(np.float64)
        return scores, scores >= params.pixel_threshold
    scores = softmax(maps, axis=0) if params.activation == "softmax" else maps.astype(np.float64)
    return scores, scores.argmax(axis=0)[None] == np.arange(len(maps))[:, None, None]


def _pieces(
    scores: Probabilities,
    members: npt.NDArray[np.bool_],
    label: int,
    params: SegmentationParams,
    step: Floats,
    letterbox: Letterbox,
) -> list[tuple[float, int, Floats, Floats]]:
    """Returns score, label, box and outline of each piece that is large and certain enough and lies in the frame."""
    count, marks, facts, _ = cv2.connectedComponentsWithStats(members.astype(np.uint8), connectivity=8)
    found = []
    edges = np.array([letterbox.width, letterbox.height] * 2, np.float32)
    for mark in range(1, count):
        left, top, width, height, area = (int(value) for value in facts[mark])
        inside = (slice(top, top + height), slice(left, left + width))
        piece = marks[inside] == mark
        score = float(scores[inside][piece].mean())
        corners = np.array([left, top, left + width, top + height], np.float32) * np.tile(step, 2)
        box = np.asarray(np.clip(corners, 0, edges), np.float32)
        if area >= params.area_min and score >= params.score_min and (box[2:] > box[:2]).all():
            found.append((score, label, box, outline(piece, (left, top), step, letterbox)))
    return found
