"""Evaluation of detectors, also of those that give outlines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lineside_converters.data.calibration_data import AnnotatedFrame, AnnotatedFrames, annotated_frame
from lineside_converters.data.reference_frames import (
    compares,
    load_compared,
    refuse_single_frames,
    split_by_registration,
)
from lineside_converters.evaluation.bundle_accuracy import Evaluation, check_labels, confusion_matrix, figures_of
from lineside_converters.evaluation.figures import (
    ConfusionMatrix,
    Interval,
    PartVerdicts,
    PrecisionRecallCurve,
    WorstFrame,
)
from lineside_converters.evaluation.frame_tasks import find_in_tasks
from lineside_converters.evaluation.good_parts import simulated, templates
from lineside_converters.evaluation.part_verdicts import (
    JUDGED,
    Floats,
    PartStrengths,
    good_or_bad,
    strength_of,
    with_faults,
)
from lineside_converters.evaluation.predictions import write_predictions
from lineside_converters.evaluation.request import CombinedProgress, EvaluationRequest
from lineside_converters.evaluation.worst_frames import worst_of
from lineside_converters.gates.statistics import CONFIDENCE, interval_of_f1, interval_of_map50
from lineside_models.datasets import Dataset, Sample, load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.folds import parts_of
from lineside_models.metrics import RECALL_POINTS, Matched, match_type, precision_at_recalls
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_models.verdict.decision import VerdictPolicy
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import DatasetError
from lineside_runtime.session import Session

TRAIN = "train"


class DetectorEvaluation(Evaluation, frozen=True, kw_only=True):
    """Figures of a detector on one fold, beyond those of `Evaluation`.

    Attributes:
        thresholds: The bundle's thresholds, by type of the data set.
        curves: By type; none for a type that no image shows.
        faults: Frames that can't be compared with their reference: `good_or_bad` counts them as rejected, the figures
            by type leave them out.
        worst_frames: The worst first.
    """

    task: str = "detection"
    map50_interval: Interval
    f1_interval: Interval
    thresholds: dict[str, float]
    confusion: ConfusionMatrix
    curves: dict[str, PrecisionRecallCurve]
    good_or_bad: PartVerdicts
    faults: int = 0
    worst_frames: tuple[WorstFrame, ...]


def judge_detector(session: Session, root: Path, request: EvaluationRequest) -> DetectorEvaluation:
    """Evaluates a detector on annotated frames, and on good parts where there are some."""
    if request.clean_simulated:
        refuse_single_frames(session.manifest, "simulator frames")
    dataset = load_dataset(root, request.fold, references=compares(session.manifest))
    _check(dataset, session.manifest.labels)
    samples, faults = split_by_registration(evenly_spread(dataset.samples, request.max_frames), session.manifest)
    if not samples:
        raise DatasetError(f"{dataset.name} has no samples to judge on", expected="at least one", actual=0)
    goods = [
        *templates(root, dataset, request.fold, session.manifest),
        *simulated(request.clean_simulated, dataset.labels),
    ]
    others = (
        _to_choose_on(root, dataclasses.replace(dataset, samples=tuple(samples)), request, session.manifest)
        if goods or any(not len(one.labels) for one in samples)
        else dataclasses.replace(dataset, samples=())
    )
    steps = CombinedProgress(
        request.on_progress, len(samples) + sum(each.count for each in goods) + len(others.samples)
    )

    truths, judged = find_in_tasks(session, _frames(session, samples, dataset), request.tasks, steps.update)
    found = [each.candidates for each in judged]
    if request.predictions is not None:
        write_predictions(request.predictions, root, samples, found, session.manifest.labels)
    part_of = parts_of(root, dataset.name)
    parts = [part_of(one) for one in (*samples, *faults)]
    strong = PartStrengths(with_faults(_strengths(session, found), len(faults)), parts)
    labels = [*(truth.labels for truth in truths), *(fault.labels for fault in faults)]
    bad = np.array([len(each) > 0 for each in labels], np.bool_)
    good = [(f"frames without a defect, fold {request.fold}", strong.of(~bad))] if (~bad).any() else []
    for each in goods:
        values = with_faults(_strong_in(session, each.frames, request, steps), each.faults)
        good.append((each.source, PartStrengths(values, each.parts)))
    chosen = (
        [
            (
                f"fold {request.choose_on or TRAIN}",
                _strong_in(session, _frames(session, others.samples, others), request, steps),
            )
        ]
        if others.samples
        else []
    )
    chosen.append((JUDGED, strong.values[bad & np.isfinite(strong.values)]))
    figures = msgspec.structs.asdict(
        figures_of(session, dataset, request.fold, truths, judged, workers=request.tasks.workers)
    )
    return DetectorEvaluation(
        **figures,
        **_intervals(session, dataset, truths, found, parts[: len(truths)]),
        thresholds={name: bar for name, bar in _bars(session).items() if name in dataset.labels},
        confusion=confusion_matrix(session, truths, found),
        curves=_curves(session, dataset, truths, found),
        good_or_bad=good_or_bad(strong.of(bad), good, chosen),
        faults=len(faults) + sum(each.faults for each in goods),
        worst_frames=worst_of(session.manifest, root, samples, truths, found),
    )


def _check(dataset: Dataset, labels: Sequence[str]) -> None:
    if not dataset.boxed:
        raise DatasetError(
            f"{dataset.name} says what whole images show, and the bundle is a detector",
            expected="boxes",
            actual="a type an image",
            action="Give a data set with boxes, or a classifier.",
        )
    check_labels(dataset, labels)


def _frames(session: Session, samples: Sequence[Sample], dataset: Dataset) -> AnnotatedFrames:
    labels = session.manifest.labels
    return AnnotatedFrames(
        [partial(annotated_frame, one, labels, number, dataset) for number, one in enumerate(samples)]
    )


def _to_choose_on(root: Path, judged: Dataset, request: EvaluationRequest, manifest: Manifest) -> Dataset:
    """Returns bad frames of another fold to choose the threshold factor on; none without such a fold."""
    fold, none = request.choose_on or TRAIN, dataclasses.replace(judged, samples=())
    if fold == request.fold:
        return none
    try:
        found = load_compared(root, fold, manifest)
    except DatasetError:
        if request.choose_on is not None:
            raise
        return none  # nobody has named it, and there is none
    paths = {one.path for one in judged.samples}
    if any(one.path in paths for one in found.samples):
        return none
    bad = evenly_spread([one for one in found.samples if len(one.labels)], request.max_frames)
    return dataclasses.replace(found, samples=tuple(bad))


def _strengths(session: Session, found: Sequence[Candidates]) -> Floats:
    policy = VerdictPolicy(session.manifest)
    return np.array([strength_of(policy.decide(each, (1, 1)), policy.thresholds) for each in found])  # no regions


def _strong_in(
    session: Session, frames: AnnotatedFrames, request: EvaluationRequest, steps: CombinedProgress
) -> Floats:
    _, judged = find_in_tasks(session, frames, request.tasks, steps.update)
    return _strengths(session, [each.candidates for each in judged])


def _bars(session: Session) -> dict[str, float]:
    manifest = session.manifest
    bars = thresholds_of(manifest.postprocess, len(manifest.labels)).tolist()
    return dict(zip(manifest.labels, bars, strict=True))


def _intervals(
    session: Session,
    dataset: Dataset,
    truths: Sequence[AnnotatedFrame],
    found: Sequence[Candidates],
    parts: Sequence[str],
) -> dict[str, Any]:
    labels, bars = session.manifest.labels, np.array(list(_bars(session).values()))
    counts = []
    for truth, each in zip(truths, found, strict=True):
        own = [label for label, name in enumerate(labels) if name in dataset.labels]
        there = np.isin(own, truth.labels)
        predicted = np.isin(own, each.labels[each.scores >= bars[each.labels]])
        counts.append(((there & predicted).sum(), (~there & predicted).sum(), (there & ~predicted).sum()))
    ends = {
        "map50_interval": interval_of_map50(truths, found, types=len(labels), parts=parts),
        "f1_interval": interval_of_f1(counts, parts=parts),
    }
    return {
        name: Interval(low=low, high=high, confidence=CONFIDENCE, method="bootstrap")
        for name, (low, high) in ends.items()
    }


def _curves(
    session: Session, dataset: Dataset, truths: Sequence[AnnotatedFrame], found: Sequence[Candidates]
) -> dict[str, PrecisionRecallCurve]:
    made = {}
    for label, (name, bar) in enumerate(_bars(session).items()):
        matched = match_type(truths, found, label)
        if name in dataset.labels and matched.truths.sum():
            made[name] = _curve(matched, bar)
    return made


def _curve(matched: Matched, bar: float) -> PrecisionRecallCurve:
    count = int(matched.truths.sum())
    order = np.argsort(-matched.scores, kind="stable")
    right, above = matched.right[order], int((matched.scores >= bar).sum())
    hits = int(right[:above].sum())
    return PrecisionRecallCurve(
        recall=tuple(round(float(recall), 2) for recall in np.linspace(0, 1, RECALL_POINTS)),
        precision=tuple(round(float(each), 4) for each in precision_at_recalls(right, count)),
        recall_at_threshold=hits / count,
        precision_at_threshold=hits / above if above else None,
    )
