"""The task of a model, and the metric that measures it.

- detection: mAP@0.5 over every find above the least raw score;
- classification: top-1;
- a segmenter, where the frames have masks: mean IoU;
- spans: F1 of the values of each document (`document_inputs`);
- generic: outputs are not decoded; they are compared, and a metric is the caller's (`Optimizer(metric=…)`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lineside_converters.gates.statistics import Drop, drop_of_map50, drop_of_mean, drop_of_mean_iou
from lineside_converters.pixel_metrics import Mask, SegmentationAnswer, count_pixels, mean_iou
from lineside_models import metrics
from lineside_models.postprocess import Candidates, decode
from lineside_models.postprocess.decoders.segmentation import pixel_labels
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Manifest
from lineside_runtime.tensors import Array


class FrameTruth(Protocol):
    """Annotations of a frame."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """``(N, 4)``; ``(0, 4)`` where the whole frame has one type."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)``, indices into the model's labels."""


class Task(Protocol):
    """How answers are read and measured."""

    @property
    def metric(self) -> str:
        """Name of the metric, such as ``top-1``; 1 is perfect and 0 the worst."""

    def score(self, truths: Sequence[FrameTruth], answers: Sequence[Candidates]) -> float:
        """Returns the metric."""

    def drop(
        self, truths: Sequence[FrameTruth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns how much lower the metric is afterwards, with its interval."""


def read_answer(
    outputs: Mapping[str, Array], manifest: Manifest, letterbox: Letterbox, mask: Mask | None = None
) -> Candidates:
    """Decodes the outputs of one frame; with its mask, its pixels are compared too.

    Raises:
        DatasetError: The mask is of another size than the frame.
    """
    found = decode(outputs, manifest.postprocess, [letterbox])[0]
    if mask is None:
        return found
    predicted = pixel_labels(outputs, manifest.postprocess.params, [letterbox])[0]
    table = count_pixels(mask, predicted, len(manifest.labels) + 1, where="a judged frame")
    return SegmentationAnswer(found.boxes, found.scores, found.labels, found.outlines, table=table)


@dataclasses.dataclass(frozen=True, slots=True)
class DetectionTask:
    """Boxes with types."""

    labels: tuple[str, ...]
    metric: str = "mAP@0.5"

    def score(self, truths: Sequence[FrameTruth], answers: Sequence[Candidates]) -> float:
        """Returns the mean average precision at an overlap of 0.5."""
        return metrics.evaluate(truths, answers, labels=self.labels, thresholds=0.5).map50

    def drop(
        self, truths: Sequence[FrameTruth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns its drop."""
        return drop_of_map50(truths, before, after, types=len(self.labels), seed=seed)


@dataclasses.dataclass(frozen=True, slots=True)
class ClassificationTask:
    """One type for the whole frame."""

    metric: str = "top-1"

    def score(self, truths: Sequence[FrameTruth], answers: Sequence[Candidates]) -> float:
        """Returns the share of frames whose likeliest type is the true one."""
        return float(np.mean(_right(truths, answers)))

    def drop(
        self, truths: Sequence[FrameTruth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns its drop."""
        return drop_of_mean(_right(truths, before), _right(truths, after), seed=seed)


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentationTask:
    """A type for every pixel, compared with masks; answers are `SegmentationAnswer`."""

    metric: str = "mean IoU"

    def score(self, truths: Sequence[FrameTruth], answers: Sequence[Candidates]) -> float:
        """Returns the mean over the types of shared over joint pixels."""
        return mean_iou(_tables(answers))

    def drop(
        self, truths: Sequence[FrameTruth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns its drop."""
        return drop_of_mean_iou(_tables(before), _tables(after), seed=seed)


def _tables(answers: Sequence[Candidates]) -> npt.NDArray[np.int64]:
    return np.stack([answer.table for answer in answers if isinstance(answer, SegmentationAnswer)])


def top(answer: Candidates) -> int:
    """Returns the likeliest type of a frame; -1 if there is none."""
    return int(answer.labels[np.argmax(answer.scores)]) if len(answer) else -1


def expected_drop(before: Sequence[Candidates], after: Sequence[Candidates]) -> float:
    """Returns the expected drop of top-1 where the frames are not annotated.

    The source model's probabilities stand for it: a frame that is now taken for another type costs the difference of
    the probabilities that the source gave the two. A change of mind between two equally likely types costs nothing.
    """

    def given(answer: Candidates, label: int) -> float:
        scores = answer.scores[answer.labels == label]
        return float(scores[0]) if len(scores) else 0.0

    losses = [given(one, top(one)) - given(one, top(two)) for one, two in zip(before, after, strict=True)]
    return float(np.mean(losses))


def is_segmenter(manifest: Manifest) -> bool:
    """Returns whether a model gives every pixel a type."""
    return manifest.task == "detection" and manifest.postprocess.name == "segmentation"


def task_of(manifest: Manifest, *, masks: bool = False) -> Task | None:
    """Returns the task of a model; ``None`` where its outputs are for the caller alone.

    Args:
        masks: Whether the frames that it is judged on have masks.
    """
    if manifest.task in ("generic", "spans"):  # documents are judged by `document_inputs.DocumentMetric`
        return None
    if masks and is_segmenter(manifest):
        return SegmentationTask()
    return ClassificationTask() if manifest.task == "classification" else DetectionTask(manifest.labels)


def _right(truths: Sequence[FrameTruth], answers: Sequence[Candidates]) -> npt.NDArray[np.float64]:
    pairs = zip(truths, answers, strict=True)
    return np.array([top(answer) in truth.labels.tolist() for truth, answer in pairs], np.float64)
