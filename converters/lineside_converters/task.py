"""What a model is asked to do, and the one number that says how well it does it.

- detection: mAP@0.5 over every find above the least raw score;
- classification: top-1;
- generic: nobody here reads the outputs; outputs are compared, and a metric is the caller's (`Optimizer(metric=…)`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lineside_converters.statistics import Drop, drop_of_map50, drop_of_mean
from lineside_models import metrics
from lineside_models.postprocess import Candidates, decode
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Manifest
from lineside_runtime.tensors import Array


class Truth(Protocol):
    """What is truly in a frame."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """``(N, 4)``; ``(0, 4)`` where the whole frame has one type."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)``, indices into the model's labels."""


class Task(Protocol):
    """How answers are read and judged."""

    @property
    def metric(self) -> str:
        """Name of the metric, such as ``top-1``; 1 is perfect and 0 the worst."""

    def score(self, truths: Sequence[Truth], answers: Sequence[Candidates]) -> float:
        """Returns the metric."""

    def drop(
        self, truths: Sequence[Truth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns how much lower the metric is afterwards, with its interval."""


def read_answer(outputs: Mapping[str, Array], manifest: Manifest, letterbox: Letterbox) -> Candidates:
    """Returns what the outputs say of one frame."""
    return decode(outputs, manifest.postprocess, [letterbox])[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """Boxes with types.

    Attributes:
        labels: The model's.
    """

    labels: tuple[str, ...]
    metric: str = "mAP@0.5"

    def score(self, truths: Sequence[Truth], answers: Sequence[Candidates]) -> float:
        """Returns the mean average precision at an overlap of 0.5."""
        return metrics.evaluate(truths, answers, labels=self.labels, thresholds=0.5).map50

    def drop(
        self, truths: Sequence[Truth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns its drop."""
        return drop_of_map50(truths, before, after, types=len(self.labels), seed=seed)


@dataclasses.dataclass(frozen=True, slots=True)
class Classification:
    """One type for the whole frame."""

    metric: str = "top-1"

    def score(self, truths: Sequence[Truth], answers: Sequence[Candidates]) -> float:
        """Returns the share of frames whose likeliest type is the true one."""
        return float(np.mean(_right(truths, answers)))

    def drop(
        self, truths: Sequence[Truth], before: Sequence[Candidates], after: Sequence[Candidates], *, seed: int
    ) -> Drop:
        """Returns its drop."""
        return drop_of_mean(_right(truths, before), _right(truths, after), seed=seed)


def top(answer: Candidates) -> int:
    """Returns the likeliest type of a frame; -1 if there is none."""
    return int(answer.labels[np.argmax(answer.scores)]) if len(answer) else -1


def expected_drop(before: Sequence[Candidates], after: Sequence[Candidates]) -> float:
    """Returns how much top-1 is expected to fall where nobody knows the truth.

    The source model's probabilities stand for it: a frame that is now taken for another type costs the difference of
    the probabilities that the source gave the two. A change of mind between two equally likely types costs nothing.
    """

    def given(answer: Candidates, label: int) -> float:
        scores = answer.scores[answer.labels == label]
        return float(scores[0]) if len(scores) else 0.0

    losses = [given(one, top(one)) - given(one, top(two)) for one, two in zip(before, after, strict=True)]
    return float(np.mean(losses))


def task_of(manifest: Manifest) -> Task | None:
    """Returns how the model is judged; ``None`` where its outputs are for the caller alone."""
    if manifest.task == "generic":
        return None
    return Classification() if manifest.task == "classification" else Detection(manifest.labels)


def _right(truths: Sequence[Truth], answers: Sequence[Candidates]) -> npt.NDArray[np.float64]:
    pairs = zip(truths, answers, strict=True)
    return np.array([top(answer) in truth.labels.tolist() for truth, answer in pairs], np.float64)
