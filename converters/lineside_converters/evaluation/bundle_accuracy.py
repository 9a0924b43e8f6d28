"""Accuracy and latency of a bundle on annotated images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lineside_converters.data.calibration_data import AnnotatedFrame, annotated_frame
from lineside_converters.evaluation.bundle_runner import EvaluationRun, judge
from lineside_converters.evaluation.figures import ConfusionMatrix
from lineside_converters.gates.disagreement import confusion_of, judgement_of
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models import metrics
from lineside_models.datasets import Dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.inspection import Timings
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import DatasetError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

WARM_FRAMES = 2


class ClassFigures(ReportStruct, frozen=True, kw_only=True):
    """Figures of one type.

    Attributes:
        ap50: Average precision at an overlap of 0.5; ``None`` if no image shows the type.
        precision: Precision of the boxes above the type's threshold; ``None`` where there are none.
        recall: Recall of the true boxes.
        f1_image: F1 of the question whether an image shows the type, at the type's threshold.
        support: True boxes.
    """

    ap50: float | None
    precision: float | None
    recall: float
    f1_image: float
    support: int
    support_images: int


class StageLatency(ReportStruct, frozen=True, kw_only=True):
    """Latency of one stage in milliseconds, one frame at a time."""

    p50: float
    p95: float
    mean: float


class EvaluationLatency(ReportStruct, frozen=True, kw_only=True):
    """Latency of a frame in milliseconds, one frame at a time: total and by stage."""

    p50: float
    p95: float
    mean: float
    preprocess: StageLatency
    inference: StageLatency
    postprocess: StageLatency


class EvaluationFacts(ReportStruct, frozen=True, kw_only=True):
    """Figures of an evaluation of any task: bundle, frames and latency.

    Attributes:
        bundle: ``name@version``.
        digest: sha256 of the bundle's manifest.
        dataset: Name of the data set; ``masks`` of a folder of masks.
        latency_ms: From the frame to its finds or verdict, one frame at a time, and by stage.
        used_device: Every device that answered, such as ``ort/cpu:0``.
        workers: Tasks that ran at once; with several, latencies are of a processor whose cores are all busy.
    """

    bundle: str
    digest: str
    variant: str
    dataset: str
    fold: str
    frames: int
    latency_ms: EvaluationLatency
    requested_device: str
    used_device: str
    workers: int = 1


def facts_of(
    session: Session,
    dataset: str,
    fold: str,
    timings: Sequence[Timings],
    used_devices: Iterable[str],
    *,
    workers: int = 1,
) -> dict[str, Any]:
    """Returns the fields of `EvaluationFacts` for frames that a session has judged."""
    return {
        "bundle": session.manifest.identity,
        "digest": session.bundle.digest,
        "variant": session.variant,
        "dataset": dataset,
        "fold": fold,
        "frames": len(timings),
        "latency_ms": latency_of(timings),
        "requested_device": session.requested_device,
        "used_device": ", ".join(sorted(set(used_devices))),
        "workers": workers,
    }


class Evaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of one bundle on one fold.

    Attributes:
        map50: Mean of ``ap50`` over the types that the images show; from every find above the least raw score.
        f1: By image and type, over the data set's types, at the manifest's thresholds.
        f1_boxes: By box, over the data set's types, at the manifest's thresholds.
        false_boxes_of_other_types: Boxes above their threshold of types that this data set doesn't have.
        per_class: By type of the data set.
    """

    map50: float
    f1: float
    f1_boxes: float
    false_boxes_of_other_types: int
    per_class: dict[str, ClassFigures]


def evaluate(
    bundle: Bundle | Path | str,
    dataset: Dataset,
    *,
    fold: str = "",
    max_frames: int | None = None,
    config: Config | None = None,
    on_progress: CountListener | None = None,
) -> Evaluation:
    """Evaluates a bundle on a data set.

    Args:
        bundle: An opened bundle, its folder or a ``.lsb``.
        dataset: From `lineside_models.datasets.load_dataset`.
        fold: Its name, for the result.
        max_frames: At most so many frames, spread over all; ``None`` for all.
    """
    samples = evenly_spread(dataset.samples, max_frames)
    if not samples:
        raise DatasetError(f"{dataset.name} has no samples to judge on", expected="at least one", actual=0)
    with Session(bundle, config) as session:
        labels = session.manifest.labels
        check_labels(dataset, labels)
        frames = (annotated_frame(sample, labels, number, dataset) for number, sample in enumerate(samples))
        truths, judged = find(session, frames, total=len(samples), on_progress=on_progress)
        return figures_of(session, dataset, fold, truths, judged)


def figures_of(
    session: Session,
    dataset: Dataset,
    fold: str,
    truths: Sequence[AnnotatedFrame],
    judged: Sequence[EvaluationRun],
    *,
    workers: int = 1,
) -> Evaluation:
    """Computes the figures from what `find` found."""
    labels = session.manifest.labels
    figures = metrics.evaluate(
        truths,
        [each.candidates for each in judged],
        labels=labels,
        thresholds=thresholds_of(session.manifest.postprocess, len(labels)),
    )
    return Evaluation(
        map50=figures.map50,
        **_of_types(figures, [label for label in labels if label in dataset.labels]),
        **facts_of(
            session,
            dataset.name,
            fold,
            [each.timings for each in judged],
            [each.used_device for each in judged],
            workers=workers,
        ),
    )


def find(
    session: Session, frames: Iterable[AnnotatedFrame], *, total: int = 0, on_progress: CountListener | None = None
) -> tuple[list[AnnotatedFrame], list[EvaluationRun]]:
    """Runs frames through a session one by one; the first ones twice, so that no time includes the warm-up.

    Args:
        frames: Annotated frames; their pictures are not kept.

    Returns:
        The frames' truths and everything found in each.
    """
    truths: list[AnnotatedFrame] = []
    judged: list[EvaluationRun] = []
    for number, frame in enumerate(frames):
        if number < WARM_FRAMES:
            judge(session, frame.frame)
        judged.append(judge(session, frame.frame))
        truths.append(frame.without_image())
        if on_progress is not None:
            on_progress(number + 1, total)
    return truths, judged


def check_labels(dataset: Dataset, labels: Sequence[str]) -> None:
    """Refuses a data set with types that the bundle doesn't know."""
    unknown = [label for label in dataset.labels if label not in labels]
    if unknown:
        raise DatasetError(
            f"{dataset.name} annotates types that the bundle doesn't know",
            expected=f"types of {', '.join(labels)}",
            actual=", ".join(unknown),
            action="Give a bundle that was trained for these types.",
        )


def _of_types(figures: metrics.DetectionMetrics, types: Sequence[str]) -> dict[str, Any]:
    mine = [figures.classes[name] for name in types]
    others = [each for name, each in figures.classes.items() if name not in types]
    return {
        "f1": _sum([each.images for each in mine]).f1,
        "f1_boxes": _sum([each.boxes for each in mine]).f1,
        "false_boxes_of_other_types": sum(each.boxes.fp for each in others),
        "per_class": {name: _class_figures(figures.classes[name]) for name in types},
    }


def _sum(counts: Sequence[metrics.DetectionCounts]) -> metrics.DetectionCounts:
    return metrics.DetectionCounts(sum(c.tp for c in counts), sum(c.fp for c in counts), sum(c.fn for c in counts))


def _class_figures(each: metrics.ClassMetrics) -> ClassFigures:
    return ClassFigures(
        ap50=each.ap50,
        precision=each.boxes.precision_or_none,
        recall=each.boxes.recall,
        f1_image=each.images.f1,
        support=each.truths,
        support_images=each.images.tp + each.images.fn,
    )


def latency_of(timings: Sequence[Timings]) -> EvaluationLatency:
    """Returns the percentiles of each stage over the frames."""
    total = _stage([each.total_ms for each in timings])
    return EvaluationLatency(
        p50=total.p50,
        p95=total.p95,
        mean=total.mean,
        preprocess=_stage([each.preprocess_ms for each in timings]),
        inference=_stage([each.inference_ms for each in timings]),
        postprocess=_stage([each.postprocess_ms for each in timings]),
    )


def _stage(values_ms: Sequence[float]) -> StageLatency:
    return StageLatency(
        p50=float(np.percentile(values_ms, 50)),
        p95=float(np.percentile(values_ms, 95)),
        mean=float(np.mean(values_ms)),
    )


def confusion_matrix(
    session: Session, truths: Sequence[AnnotatedFrame], found: Sequence[Candidates]
) -> ConfusionMatrix:
    """Returns which types were taken for which; see `confusion_of`."""
    confusion = confusion_of(judgement_of(session.manifest, truths, found, found))
    return ConfusionMatrix(labels=confusion.labels, counts=confusion.before)
