"""Evaluation of classifiers: one type a frame, and the surest answer counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_converters.data.calibration_data import AnnotatedFrames, annotated_frame
from lineside_converters.evaluation.bundle_accuracy import EvaluationFacts, confusion_matrix, facts_of
from lineside_converters.evaluation.figures import ConfusionMatrix, Interval, PartVerdicts, WorstFrame
from lineside_converters.evaluation.frame_tasks import find_in_tasks
from lineside_converters.evaluation.part_verdicts import part_verdicts, parts_shown, strength_of
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.evaluation.worst_frames import worst_of
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models.datasets import Sample, load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.metrics import CONFIDENCE, DetectionCounts, wilson
from lineside_models.postprocess import Candidates
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.good_classes import good_of
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import DatasetError
from lineside_runtime.session import Session


class TypeFigures(ReportStruct, frozen=True, kw_only=True):
    """Figures of one type.

    Attributes:
        precision: Precision of the frames that were taken for it; ``None`` where there are none.
        recall: Recall of the frames that show it.
        f1: Harmonic mean of the two.
        support: Frames that show it.
    """

    precision: float | None
    recall: float
    f1: float
    support: int


class ClassifierEvaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of a classifier on one fold.

    Attributes:
        top1: Share of the frames whose surest type is right.
        top5: Share of the frames whose type is among the five surest; ``None`` with fewer than six types.
        f1_macro: Mean of the types' ``f1``, over those that the frames show.
        good_or_bad: The verdict on whole parts; a part is good if its class means good parts.
        per_class: By type that the frames show.
        worst_frames: The surest of the wrong answers first.
    """

    task: str = "classification"
    top1: float
    top1_interval: Interval
    top5: float | None
    f1_macro: float
    good_or_bad: PartVerdicts
    per_class: dict[str, TypeFigures]
    confusion: ConfusionMatrix
    worst_frames: tuple[WorstFrame, ...]


def judge_classifier(session: Session, root: Path, request: EvaluationRequest) -> ClassifierEvaluation:
    """Evaluates a classifier on frames of one type each."""
    request.refuse_detector_options("a classifier")
    dataset = load_dataset(root, request.fold)
    samples = [_of_one_type(sample) for sample in evenly_spread(dataset.samples, request.max_frames)]
    if not samples:
        raise DatasetError(f"{dataset.name} has no samples to judge on", expected="at least one", actual=0)
    labels = session.manifest.labels
    frames = AnnotatedFrames(
        [partial(annotated_frame, one, labels, number, dataset) for number, one in enumerate(samples)]
    )
    truths, judged = find_in_tasks(session, frames, request.tasks, request.on_progress)
    found = [each.candidates for each in judged]
    types = np.array([truth.labels[0] for truth in truths], np.int64)
    return ClassifierEvaluation(
        **facts_of(
            session,
            dataset.name,
            request.fold,
            [each.timings for each in judged],
            [each.used_device for each in judged],
            workers=request.tasks.workers,
        ),
        **_figures(types, found, labels),
        good_or_bad=_verdicts(
            session.manifest,
            types,
            found,
            parts_shown(root, [one.path for one in samples], dataset.name),
            request.fold,
        ),
        confusion=confusion_matrix(session, truths, found),
        worst_frames=worst_of(session.manifest, root, samples, truths, found),
    )


def _verdicts(
    manifest: Manifest, types: npt.NDArray[np.int64], found: Sequence[Candidates], parts: Sequence[str], fold: str
) -> PartVerdicts:
    policy = VerdictPolicy(manifest)
    strong = [strength_of(policy.decide(each, (1, 1)), policy.thresholds) for each in found]  # no region has a size
    return part_verdicts(strong, np.isin(types, good_of(manifest.postprocess)).tolist(), parts, fold=fold)


def _of_one_type(sample: Sample) -> Sample:
    """Returns the sample with its type once: boxes of one type also say what the frame shows."""
    types = np.unique(sample.labels)
    if len(types) != 1:
        raise DatasetError(
            f"{sample.path}: what it shows",
            expected="one type a frame, for a classifier",
            actual=f"{len(types)} types",
            action="Give a data set with a folder a class, or a list of images with class numbers.",
        )
    return dataclasses.replace(sample, labels=types)


def _figures(types: npt.NDArray[np.int64], found: Sequence[Candidates], labels: Sequence[str]) -> dict[str, Any]:
    answers = np.array([each.labels[0] if len(each) else -1 for each in found], np.int64)
    per_class = {labels[label]: _type_figures(types == label, answers == label) for label in np.unique(types).tolist()}
    right = int((answers == types).sum())
    low, high = wilson(right, len(types))
    among = [label in each.labels[:5] for label, each in zip(types, found, strict=True)]
    return {
        "top1": right / len(types),
        "top1_interval": Interval(low=low, high=high, confidence=CONFIDENCE, method="wilson"),
        "top5": float(np.mean(among)) if len(labels) > 5 else None,
        "f1_macro": float(np.mean([each.f1 for each in per_class.values()])),
        "per_class": per_class,
    }


def _type_figures(there: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> TypeFigures:
    counts = DetectionCounts(
        int((there & predicted).sum()), int((~there & predicted).sum()), int((there & ~predicted).sum())
    )
    return TypeFigures(precision=counts.precision_or_none, recall=counts.recall, f1=counts.f1, support=int(there.sum()))
