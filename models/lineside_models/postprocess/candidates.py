"""`Candidates`, and what every head shares: parameters, suppression, calibration, mapping to the frame."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import BadInputFormatError, ConfigError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Outputs = Mapping[str, npt.NDArray[Any]]
Least = float | npt.NDArray[np.float64]
"""The score below which no candidate is wanted, of all types or ``(C,)`` one a type."""

_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]

CANDIDATES_MAX = 1000
"""Cells a frame that are decoded, best first; the usual figure of one-stage detectors (FCOS, RetinaNet)."""

TOGETHER_MAX = 128
"""Boxes up to this number are suppressed in one call, the labels moved apart; for more the work, which grows with the
square of their number, is less label by label."""

_APART_MAX = 1e6  # up to here moving costs no digit of a box that counts
ROUNDING = 1e-3

_SCORE_MIN = 1e-7
_LOGIT_MAX = 80.0  # beyond it exp overflows, and the score is 0 or 1 anyway


@dataclasses.dataclass(frozen=True, slots=True)
class Candidates:
    """All detections of a frame before a threshold is applied; highest score first.

    Attributes:
        boxes: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels of the frame, x2 and y2 exclusive.
        scores: ``(N,) float32``, calibrated where the manifest has a calibration.
        labels: ``(N,) int64``, indices into the bundle's labels.
        outlines: For heads that give shapes, a polygon ``(K, 2) float32`` each, in pixels of the frame; else empty.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    outlines: tuple[Floats, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def reaching(self, least_score: Least) -> Candidates:
        """Returns those with at least this score, or that of their type."""
        keep = self.scores >= least_of(least_score, self.labels)
        return self if keep.all() else self.only(keep)

    def only(self, keep: npt.NDArray[np.bool_]) -> Candidates:
        """Returns the candidates that a mask or index ``(N,)`` selects."""
        outlines = tuple(each for each, kept in zip(self.outlines, keep.tolist(), strict=False) if kept)
        return Candidates(self.boxes[keep], self.scores[keep], self.labels[keep], outlines)


class HeadParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of all heads.

    Attributes:
        nms_iou: Boxes of one type that overlap more are one defect; which value is best depends on the training.
        score_min: Raw score below which nothing is looked at.
        max_detections: Kept a frame.
        calibration: ``(a, b)`` a class: the probability that the defect is there is ``sigmoid(a * logit + b)``.
            Empty: the raw score.
        thresholds: Calibrated score a class, 0 to 1, from which a candidate counts as a defect. Empty: 0.5.
        unsure_from: Calibrated score a class, 0 to 1, from which a candidate below its threshold makes a part unsure.
            Empty: none does.
    """

    nms_iou: float = 0.6
    score_min: float = 0.01
    max_detections: int = 100
    calibration: tuple[tuple[float, float], ...] = ()
    thresholds: tuple[_Score, ...] = ()
    unsure_from: tuple[_Score, ...] = ()

    def __post_init__(self) -> None:
        if self.max_detections < 1 or not 0 < self.nms_iou <= 1 or not 0 < self.score_min < 1:
            raise ValueError("max_detections must be positive, nms_iou and score_min between 0 and 1")
        if any(a <= 0 for a, _ in self.calibration):
            raise ValueError("the slope of a calibration must be above 0, or it would turn the order round")


P = TypeVar("P", bound=msgspec.Struct)


def read(params: Mapping[str, Any], kind: type[P]) -> P:
    """Reads and checks the parameters of a head.

    Raises:
        ConfigError: A parameter is unknown, of another type or out of range; the message names it.
    """
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"postprocess.params: {error}") from error


def sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Returns ``1 / (1 + exp(-values))`` without overflow."""
    inside = np.minimum(np.maximum(values.astype(np.float64), -_LOGIT_MAX), _LOGIT_MAX)  # np.clip takes twice as long
    return np.asarray(1 / (1 + np.exp(-inside)))


def softmax(values: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float64]:
    """Returns ``exp(values)`` over its sum along ``axis``, without overflow."""
    powers = values.astype(np.float64)
    powers = np.exp(powers - powers.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def logit(scores: npt.NDArray[Any]) -> Floats:
    """Returns the logits of probabilities."""
    inside = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)


def logit_of(score: float) -> float:
    """Returns the logit of one probability between 0 and 1, both excluded, as a map of float32 holds it."""
    return float(np.float32(math.log(score / (1 - score))))


def calibrated(logits: Floats, labels: Ints, calibration: tuple[tuple[float, float], ...]) -> Floats:
    """Returns the probability of being right for each logit.

    Raises:
        ConfigError: The calibration has no pair for one of the labels.
    """
    exponent = logits.astype(np.float64)
    if calibration:
        if len(labels) and labels.max() >= len(calibration):
            raise ConfigError(
                "postprocess.params.calibration",
                expected=f"at least {labels.max() + 1} pairs",
                actual=len(calibration),
            )
        slope, shift = pairs_of(calibration)
        exponent *= slope[labels]
        exponent += shift[labels]
    return sigmoid(exponent).astype(np.float32)


def least_of(least_score: Least, labels: Ints) -> Least:
    """Returns the least score of candidates of these labels.

    What has no label in the bundle counts as the last one: `lineside_models.postprocess.check_labels` is to meet it.
    """
    return least_score.take(labels, mode="clip") if isinstance(least_score, np.ndarray) else least_score


def floors_of(
    least_score: Least, classes: int, calibration: tuple[tuple[float, float], ...], *, lowest: float
) -> npt.NDArray[np.float64]:
    """Returns ``(C,)`` the logit of each type below which no calibrated score reaches the least that is wanted.

    They lie lower by a rounding: who looks for a score has to look closely at what lies above them.

    Args:
        least_score: See `Least`.
        calibration: ``(a, b)`` a class, or empty.
        lowest: No floor lies below this logit.
    """
    each = tuple(least_score.tolist()) if isinstance(least_score, np.ndarray) else (least_score,)
    return _floors(each, classes, calibration, lowest)


@functools.lru_cache(maxsize=16)
def _floors(
    least_scores: tuple[float, ...], classes: int, calibration: tuple[tuple[float, float], ...], lowest: float
) -> npt.NDArray[np.float64]:
    wanted = np.array(least_scores).take(np.arange(classes), mode="clip")
    bars = np.clip(wanted, _SCORE_MIN, 1 - _SCORE_MIN)
    slope, shift = pairs_of(calibration or ((1.0, 0.0),) * classes)
    reached = (np.log(bars / (1 - bars)) - ROUNDING - shift) / slope
    floors = np.where(wanted > 0, np.maximum(reached, lowest), lowest)
    floors.setflags(write=False)
    return floors


@functools.lru_cache(maxsize=16)
def pairs_of(calibration: tuple[tuple[float, float], ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns slopes and shifts, one a class."""
    slope, shift = np.array(calibration, np.float64).T
    return slope, shift


def suppress(boxes: Floats, labels: Ints, most_iou: float) -> Ints:
    """Returns the indices that non-maximum suppression keeps, label by label.

    Args:
        boxes: ``(N, 4)`` as ``x1, y1, x2, y2``, best first.
        labels: ``(N,)``.
        most_iou: Boxes that overlap more are one.

    Returns:
        Label after label, in each the best first.
    """
    if not len(boxes):
        return np.empty(0, np.int64)
    apart = 2.0 * float(np.abs(boxes).max()) + 1
    sized = boxes.astype(np.float64)
    sized[:, 2:] = boxes[:, 2:] - boxes[:, :2]
    if len(boxes) <= TOGETHER_MAX and apart < _APART_MAX:
        sized[:, 0] += labels * apart
        kept = _not_doubled(sized, most_iou)
        return kept[np.argsort(labels[kept], kind="stable")]
    groups = [np.flatnonzero(labels == label) for label in sorted(set(labels.tolist()))]
    return np.concatenate([members[_not_doubled(sized[members], most_iou)] for members in groups])


def _not_doubled(sized: npt.NDArray[np.float64], most_iou: float) -> Ints:
    """Returns which of ``(N, 4)`` boxes ``x, y, width, height``, best first, are no duplicates of a better one."""
    rectangles: Any = sized.tolist()  # OpenCV's binding reads lists in half the time of an array
    ranks: Any = list(range(len(sized), 0, -1))  # negative scores are refused
    return np.asarray(cv2.dnn.NMSBoxes(rectangles, ranks, 0.0, most_iou), np.int64)


def finish(
    boxes: Floats, scores: npt.NDArray[Any], labels: Ints, params: HeadParams, letterbox: Letterbox
) -> tuple[Candidates, Ints]:
    """Suppresses duplicates, calibrates, and maps the rest to the frame.

    Args:
        boxes: ``(N, 4)`` as ``x1, y1, x2, y2`` in pixels of the input, in any order.
        scores: ``(N,)`` probabilities.
        labels: ``(N,)``.

    Returns:
        The candidates, and which of the N each one is.
    """
    order = np.argsort(-scores, kind="stable")[:CANDIDATES_MAX]
    kept = order[suppress(boxes[order], labels[order], params.nms_iou)]
    return place(boxes, scores, labels, kept, params, letterbox)


def place(
    boxes: Floats, scores: npt.NDArray[Any], labels: Ints, kept: Ints, params: HeadParams, letterbox: Letterbox
) -> tuple[Candidates, Ints]:
    """Like `finish`, for boxes of which ``kept`` are known to be no duplicates."""
    raw = scores[kept].astype(np.float32)
    final = calibrated(logit(raw), labels[kept], params.calibration) if params.calibration else raw
    found, best = in_frame(boxes[kept], final, labels[kept], params, letterbox)
    return found, kept[best]


def in_frame(
    boxes: Floats, scores: Floats, labels: Ints, params: HeadParams, letterbox: Letterbox
) -> tuple[Candidates, Ints]:
    """Maps boxes ``(N, 4)`` of the input to the frame, and keeps the best of those inside it.

    Returns:
        The candidates, and which of the N each one is.
    """
    placed = letterbox.to_frame(boxes)
    # What lies wholly in the padding has no area in the frame.
    real = np.flatnonzero((placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1]))
    best = real[np.argsort(-scores[real], kind="stable")][: params.max_detections]
    return Candidates(placed[best], scores[best], labels[best]), best


def only(outputs: Outputs, name: str | None, what: str) -> npt.NDArray[Any]:
    """Returns the output of this name, or the only one there is if ``name`` is ``None``.

    Raises:
        BadInputFormatError: There is no such output, or there are several and none is named.
    """
    if name is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if name is None or name not in outputs:
        raise BadInputFormatError(
            f"which output holds {what} isn't clear",
            expected=name or f"postprocess.params to name the output of {what}",
            actual=", ".join(sorted(outputs)) or "no outputs",
            action="Name it in postprocess.params.",
        )
    return outputs[name]


def check_finite(outputs: Outputs) -> None:
    """Checks that outputs hold numbers: no comparison with NaN is true, so that a defect would pass as none.

    Raises:
        BadInputFormatError: A value is NaN or infinite.
    """
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise BadInputFormatError(
                f"the output {name!r} holds values that are no numbers",
                expected="finite numbers",
                actual=f"{np.count_nonzero(~np.isfinite(values))} of {values.size} NaN or infinite",
                action="Verify the bundle on this device; if its numbers are float16, choose another of its variants.",
            )


def check_shape(array: npt.NDArray[Any], expected: tuple[int | None, ...], what: str) -> None:
    """Checks an output's shape; ``None`` stands for any size.

    Raises:
        BadInputFormatError: It has another one.
    """
    fits = array.ndim == len(expected) and all(
        want in (None, size) for want, size in zip(expected, array.shape, strict=True)
    )
    if not fits:
        shown = ", ".join("any" if want is None else str(want) for want in expected)
        raise BadInputFormatError(
            f"the output of {what} has the wrong shape",
            expected=f"({shown})",
            actual=array.shape,
            action="Name another decoder or other outputs in the manifest's postprocess.",
        )
