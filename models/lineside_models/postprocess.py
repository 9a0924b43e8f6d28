"""Tensors to detections, as the bundle's manifest says.

A decoder is found by the name that the manifest gives, and gets the manifest's parameters; the network's
graph ends with its raw maps, so that the same decoding serves every engine and no engine's NMS operator
makes a difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.inspection import Detection
from lineside_models.metrics import box_iou
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import BadInputFormatError, ConfigError

Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, npt.NDArray[Any]]

CANDIDATES_MAX = 1000
"""Cells a frame that are decoded, best first; the usual figure of one-stage detectors (FCOS, RetinaNet)."""

DEFAULT_THRESHOLD = 0.5
"""Where a manifest gives none: the finding is more likely right than wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidates:
    """Everything a frame may show, before a threshold is applied; highest score first.

    Attributes:
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels of the frame, x2 and y2 exclusive.
        scores: ``(N,) float32``, calibrated where the manifest has a calibration.
        labels: ``(N,) int64``, indices into the bundle's labels.
    """

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


class DflParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of ``dfl_anchor_free``.

    Attributes:
        strides: Of the maps, in pixels of the input.
        reg_bins: Bins of the distance distribution of one side.
        nms_iou: Boxes of one type that overlap more are one defect; which value is best depends on the training.
        vote_iou: A kept box becomes the mean, weighted by score, of all boxes of its type that overlap it by this or
            more (Gidaris and Komodakis 2015, arXiv:1505.01749): loose textures have no one outline. 1: it stays.
        score_min: Raw score below which a cell is not looked at.
        max_detections: Kept a frame.
        calibration: ``(a, b)`` a class: the probability of being right is ``sigmoid(a * logit + b)``.
            Empty: the raw score.
        thresholds: Calibrated score a class from which a candidate counts as a defect. Empty: 0.5.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    reg_bins: int = 16
    nms_iou: float = 0.6
    vote_iou: float = 1.0
    score_min: float = 0.01
    max_detections: int = 100
    calibration: tuple[tuple[float, float], ...] = ()
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        sane = self.strides and min(self.strides) > 0 and self.reg_bins > 1 and self.max_detections > 0
        shares = 0 < self.nms_iou <= 1 and 0 < self.vote_iou <= 1 and 0 < self.score_min < 1
        if not sane or not shares:
            raise ValueError(
                "strides, reg_bins, max_detections must be positive, nms_iou, vote_iou and score_min between 0 and 1"
            )
        if any(a <= 0 for a, _ in self.calibration):
            raise ValueError("the slope of a calibration must be above 0, or it would turn the order round")


Decoder = Callable[[Outputs, Mapping[str, Any], Sequence[Letterbox]], list[Candidates]]


def decode(outputs: Outputs, how: Postprocess, letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Turns the model's outputs into what each frame may show.

    Args:
        outputs: By name, the batch first.
        how: The manifest's post-processing.
        letterboxes: Of the frames of the batch, from `lineside_models.preprocess.prepare`.

    Returns:
        All candidates above the raw ``score_min``, a frame each: what an evaluation needs.

    Raises:
        ConfigError: There is no such decoder, or a parameter is unknown or out of range.
        BadInputFormatError: An output is missing or has another shape.
    """
    if how.name not in DECODERS:
        raise ConfigError("postprocess.name", expected=" or ".join(sorted(DECODERS)), actual=how.name)
    return DECODERS[how.name](outputs, how.params, letterboxes)


def select(
    candidates: Candidates, how: Postprocess, labels: Sequence[str], *, threshold: float | None = None
) -> tuple[Detection, ...]:
    """Picks the candidates that count as defects.

    Args:
        candidates: Of one frame.
        how: The manifest's post-processing.
        labels: The bundle's labels.
        threshold: One score for all types; ``None`` takes the manifest's own, one a type.

    Returns:
        The defects, highest score first.

    Raises:
        ConfigError: The manifest's thresholds and labels differ in number.
    """
    bars = thresholds_of(how, len(labels)) if threshold is None else np.full(len(labels), threshold)
    keep = np.flatnonzero(candidates.scores >= bars[candidates.labels])
    return tuple(
        Detection(type=labels[label], score=score, box=(box[0], box[1], box[2], box[3]))
        for label, score, box in zip(
            candidates.labels[keep].tolist(),
            candidates.scores[keep].tolist(),
            candidates.boxes[keep].tolist(),
            strict=True,
        )
    )


def thresholds_of(how: Postprocess, classes: int) -> npt.NDArray[np.float64]:
    """Returns the manifest's threshold of each class, 0.5 where it has none.

    Raises:
        ConfigError: There is not one for each class.
    """
    given = how.params.get("thresholds") or (DEFAULT_THRESHOLD,) * classes
    if len(given) != classes:
        raise ConfigError("postprocess.params.thresholds", expected=f"{classes} numbers", actual=len(given))
    return np.array(given, np.float64)


def read_params(params: Mapping[str, Any]) -> DflParams:
    """Reads and checks the parameters of ``dfl_anchor_free``.

    Raises:
        ConfigError: A parameter is unknown, of another type or out of range; the message names it.
    """
    try:
        return msgspec.convert(params, DflParams)
    except msgspec.ValidationError as error:
        raise ConfigError(f"postprocess.params: {error}") from error


def _dfl_anchor_free(outputs: Outputs, params: Mapping[str, Any], letterboxes: Sequence[Letterbox]) -> list[Candidates]:
    """Maps ``cls_<stride>`` of logits and ``box_<stride>`` of distance distributions.

    A cell's centre lies at ``(x + 0.5, y + 0.5) * stride``; the distribution's mean is the distance in strides
    from there to the left, top, right and bottom side (Li et al. 2020, arXiv:2006.04388).
    """
    checked = read_params(params)
    classes = _check_maps(outputs, checked, len(letterboxes))
    return [_decode_frame(outputs, checked, classes, index, box) for index, box in enumerate(letterboxes)]


DECODERS: dict[str, Decoder] = {"dfl_anchor_free": _dfl_anchor_free}
"""Decoders by the name that a manifest gives. A new one is added here."""


def _check_maps(outputs: Outputs, params: DflParams, frames: int) -> int:
    """Returns the number of classes."""
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
    return classes


def _decode_frame(outputs: Outputs, params: DflParams, classes: int, index: int, letterbox: Letterbox) -> Candidates:
    logits, labels, boxes = _survivors(outputs, params, index)
    if not len(logits):
        return Candidates(boxes, logits, labels)
    kept = _suppress(boxes, labels, params.nms_iou)
    scores = _calibrated(logits[kept], labels[kept], params.calibration)
    voted = _vote(boxes, labels, logits, kept, params.vote_iou) if params.vote_iou < 1 else boxes[kept]
    placed = letterbox.to_frame(voted)
    # What lies wholly in the padding has no area in the frame.
    real = np.flatnonzero((placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1]))
    order = real[np.argsort(-scores[real], kind="stable")][: params.max_detections]
    return Candidates(placed[order], scores[order], labels[kept][order])


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


def _suppress(boxes: Floats, labels: npt.NDArray[np.int64], most_iou: float) -> npt.NDArray[np.int64]:
    """Returns the indices that are left when of overlapping boxes of one label only the first is kept."""
    sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    kept = []
    for label in np.unique(labels):  # label by label: its cost grows with the square of the number of boxes
        members = np.flatnonzero(labels == label)
        rectangles: Any = sized[members]
        ranks: Any = np.arange(len(members), 0, -1, dtype=np.float32)  # in order already; negative scores are refused
        kept.append(members[np.asarray(cv2.dnn.NMSBoxes(rectangles, ranks, 0.0, most_iou), np.int64)])
    return np.concatenate(kept)


def _vote(
    boxes: Floats, labels: npt.NDArray[np.int64], logits: Floats, kept: npt.NDArray[np.int64], least_iou: float
) -> Floats:
    """Returns the kept boxes, each the mean of those of its type around it, weighted by their raw scores."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    voted = boxes[kept]
    for label in np.unique(labels):
        members, chosen = np.flatnonzero(labels == label), np.flatnonzero(labels[kept] == label)
        weights = (box_iou(boxes[kept[chosen]], boxes[members]) >= least_iou) * scores[members]
        total = weights.sum(axis=1, keepdims=True)
        chosen, weights, total = (each[total[:, 0] > 0] for each in (chosen, weights, total))  # not those without area
        voted[chosen] = weights @ boxes[members] / total
    return voted


def _calibrated(logits: Floats, labels: npt.NDArray[np.int64], calibration: tuple[tuple[float, float], ...]) -> Floats:
    exponent = logits.astype(np.float64)
    if calibration:
        pairs = np.array(calibration, np.float64)[labels]
        exponent = pairs[:, 0] * exponent + pairs[:, 1]
    return (1 / (1 + np.exp(-np.clip(exponent, -80, 80)))).astype(np.float32)
