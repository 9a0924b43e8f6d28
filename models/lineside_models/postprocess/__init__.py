"""Post-processing: tensors to detections, by the decoder that the manifest names.

A decoder is found by the name that the manifest gives, and gets the manifest's parameters; the network's
graph ends with its raw maps, so that the same decoding serves every engine and no engine's NMS operator
makes a difference. `DECODERS` lists them; one head a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.inspection import Detection
from lineside_models.postprocess.candidates import Candidates, HeadParams, Least, Outputs, check_finite, read
from lineside_models.postprocess.decoders.anomaly import anomaly_maps, heat_map
from lineside_models.postprocess.decoders.box_scores import box_scores, detr
from lineside_models.postprocess.decoders.classification import ClassificationParams, classification
from lineside_models.postprocess.decoders.dense import fcos, retinanet
from lineside_models.postprocess.decoders.detections import detections
from lineside_models.postprocess.decoders.dfl import DflParams, dfl_anchor_free, read_params
from lineside_models.postprocess.decoders.distances import distances
from lineside_models.postprocess.decoders.segmentation import segmentation
from lineside_models.postprocess.decoders.ssd import ssd
from lineside_models.postprocess.decoders.yolo import yolo_end2end, yolov5, yolov8, yolox
from lineside_models.postprocess.recognition import count_classes, recognise
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import ConfigError

__all__ = [
    "DECODERS",
    "WHOLE_FRAME",
    "Candidates",
    "Decoder",
    "DflParams",
    "HeadParams",
    "Least",
    "as_detections",
    "check_labels",
    "count_classes",
    "decode",
    "heat_map",
    "least_wanted",
    "nearest",
    "read_params",
    "recognise",
    "select",
    "thresholds_of",
    "unsure_from_of",
]

_NO_OUTLINE = np.empty((0, 2), np.float32)

DEFAULT_THRESHOLD = 0.5
"""Where a manifest gives none: the finding is more likely right than wrong."""

NEAR_MISS_FROM = 0.5
"""Share of its threshold from which a candidate is worth telling that it came near."""

WHOLE_FRAME = ("anomaly_maps", "classification")
"""Decoders whose strongest candidate says something of the whole frame, however small its score is."""

Decoder = Callable[[Outputs, Mapping[str, Any], Sequence[Letterbox]], list[Candidates]]


def decode(
    outputs: Outputs, how: Postprocess, letterboxes: Sequence[Letterbox], *, least_score: Least = 0.0
) -> list[Candidates]:
    """Turns a model's outputs into candidates of each frame.

    Args:
        outputs: By name, the batch first.
        letterboxes: Of the frames of the batch, from `lineside_models.preprocess.prepare`.
        least_score: Candidates with a smaller score, of their type where there is one a type, aren't wanted; a verdict
            needs none below `least_wanted`, and lineside's own detector then has a fraction of the work.

    Returns:
        The candidates above the raw ``score_min``, a frame each: all of them, which is what an evaluation needs, or
        those with ``least_score`` or more.

    Raises:
        ConfigError: There is no such decoder, or a parameter is unknown or out of range.
        BadInputFormatError: An output is missing, has another shape or holds NaN or infinity.
    """
    if how.name not in DECODERS:
        raise ConfigError("postprocess.name", expected=" or ".join(sorted(DECODERS)), actual=how.name)
    check_finite(outputs)
    if how.name == "dfl_anchor_free":
        return dfl_anchor_free(outputs, how.params, letterboxes, least_score=least_score)
    found = DECODERS[how.name](outputs, how.params, letterboxes)
    return [each.reaching(least_score) for each in found]


def least_wanted(how: Postprocess, classes: int, *, threshold: float | None = None) -> npt.NDArray[np.float64]:
    """Returns ``(C,)`` the score below which no candidate can be a defect of its type, or a near miss told exactly.

    Args:
        threshold: As for `select`.

    Raises:
        ConfigError: The manifest's thresholds and labels differ in number.
    """
    if how.name in WHOLE_FRAME:
        return np.zeros(classes)
    bars = thresholds_of(how, classes) if threshold is None else np.full(classes, threshold)
    return bars * NEAR_MISS_FROM


def select(
    candidates: Candidates, how: Postprocess, labels: Sequence[str], *, threshold: float | None = None
) -> tuple[Detection, ...]:
    """Picks the candidates that count as defects.

    Args:
        threshold: One score for all types; ``None`` takes the manifest's own, one a type.

    Returns:
        The defects, highest score first.

    Raises:
        ConfigError: The manifest's thresholds and labels differ in number, or the model has more classes than labels.
    """
    bars = thresholds_of(how, len(labels)) if threshold is None else np.full(len(labels), threshold)
    check_labels(candidates, labels)
    return as_detections(candidates, candidates.scores >= bars[candidates.labels], labels)


def check_labels(candidates: Candidates, labels: Sequence[str]) -> None:
    """Refuses candidates of a class without a label.

    Raises:
        ConfigError: The model has more classes than labels.
    """
    if len(candidates) and candidates.labels.max() >= len(labels):
        raise ConfigError(
            "the model has more classes than the bundle has labels",
            expected=f"at least {candidates.labels.max() + 1} labels",
            actual=len(labels),
        )


def as_detections(candidates: Candidates, keep: npt.NDArray[np.bool_], labels: Sequence[str]) -> tuple[Detection, ...]:
    """Returns some of the candidates as detections, in their order.

    Args:
        keep: ``(N,)`` which of them.
    """
    places = np.flatnonzero(keep)
    outlines = candidates.outlines or (_NO_OUTLINE,) * len(candidates)
    return tuple(
        Detection(
            type=labels[label],
            score=score,
            box=(box[0], box[1], box[2], box[3]),
            outline=tuple((x, y) for x, y in outlines[place].tolist()),
        )
        for place, label, score, box in zip(
            places.tolist(),
            candidates.labels[places].tolist(),
            candidates.scores[places].tolist(),
            candidates.boxes[places].tolist(),
            strict=True,
        )
    )


def nearest(scores: npt.NDArray[Any], bars: npt.NDArray[np.float64], below: npt.NDArray[np.bool_]) -> float:
    """Returns the largest ratio of a score to its threshold; 0 without scores.

    Args:
        scores: ``(N,)``.
        bars: ``(N,)`` the threshold of each.
        below: ``(N,)`` which of them.
    """
    return float((scores[below] / bars[below]).max()) if below.any() else 0.0


def thresholds_of(how: Postprocess, classes: int) -> npt.NDArray[np.float64]:
    """Returns the manifest's threshold of each class, 0.5 where it has none, infinite for a class of good parts.

    Raises:
        ConfigError: There is not one for each class, or one is not between 0 and 1.
    """
    return _one_each(how, "thresholds", classes, DEFAULT_THRESHOLD)


def unsure_from_of(how: Postprocess, classes: int) -> npt.NDArray[np.float64]:
    """Returns the score of each class from which the manifest is unsure, infinite where it has no such band.

    Raises:
        ConfigError: As for `thresholds_of`.
    """
    return _one_each(how, "unsure_from", classes, np.inf)


def _one_each(how: Postprocess, name: str, classes: int, default: float) -> npt.NDArray[np.float64]:
    given = getattr(read({name: how.params.get(name) or ()}, HeadParams), name) or (default,) * classes
    if len(given) != classes:
        raise ConfigError(f"postprocess.params.{name}", expected=f"{classes} numbers", actual=len(given))
    values = np.array(given, np.float64)
    if how.name == "classification":
        values[[index for index in read(how.params, ClassificationParams).good if index < classes]] = np.inf
    return values


DECODERS: dict[str, Decoder] = {
    "anomaly_maps": anomaly_maps,
    "box_scores": box_scores,
    "classification": classification,
    "detections": detections,
    "detr": detr,
    "dfl_anchor_free": dfl_anchor_free,
    "distances": distances,
    "fcos": fcos,
    "retinanet": retinanet,
    "segmentation": segmentation,
    "ssd": ssd,
    "yolo_end2end": yolo_end2end,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolox": yolox,
}
"""Decoders by the name that a manifest gives. A new one is added here."""
