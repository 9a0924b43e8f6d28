"""Evaluation of segmenters: the class of every pixel against a mask."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_converters.evaluation.bundle_accuracy import EvaluationFacts, facts_of
from lineside_converters.evaluation.figures import ConfusionMatrix, EvaluationRate, Interval, PartVerdicts, WorstFrame
from lineside_converters.evaluation.frame_tasks import run_in_tasks
from lineside_converters.evaluation.part_verdicts import part_verdicts, parts_shown, strength_of
from lineside_converters.evaluation.predictions import file_name
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.gates.statistics import CONFIDENCE, interval_of_mean_iou
from lineside_converters.pixel_metrics import Pixels, count_pixels, mean_iou, overlaps, shown_labels
from lineside_converters.reports.report_parts import ReportStruct
from lineside_models.datasets import Sample
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.masks import MaskDataset, load_masks
from lineside_models.inspection import Timings
from lineside_models.metrics import DetectionCounts, compare, wilson
from lineside_models.postprocess import decode
from lineside_models.postprocess.decoders.segmentation import pixel_labels
from lineside_models.preprocess import prepare
from lineside_models.verdict.decision import Decision, VerdictPolicy
from lineside_models.vision.images import read_image
from lineside_runtime.errors import DatasetError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

NOTHING = "nothing"
WORST_MAX = 24


class MaskFigures(ReportStruct, frozen=True, kw_only=True):
    """Figures of one type.

    Attributes:
        iou: Pixels that mask and answer both show, over those that one of them shows, in all frames.
        precision: Precision of the pixels that were taken for it; ``None`` where there are none.
        recall: Recall of the pixels that show it.
        f1_image: F1 of the question whether an image shows the type, by any pixel.
        support: Pixels that show it.
    """

    iou: float
    precision: float | None
    recall: float
    f1_image: float
    support: int
    support_images: int


class SegmenterEvaluation(EvaluationFacts, frozen=True, kw_only=True):
    """Figures of a segmenter on one fold.

    Attributes:
        mean_iou: Mean of ``iou`` over the types that the masks show.
        f1: By image and type, summed over the types.
        good_or_bad: The verdict on whole parts, by the bundle's thresholds; a part without a defect's pixel is good.
        false_rejects: Frames without a defect in which some pixel is taken for one; ``None`` where there are none.
        per_class: By type that the masks show.
        confusion: Pixels.
        worst_frames: Those with the lowest IoU first; ``weight`` is 1 less it.
    """

    task: str = "segmentation"
    mean_iou: float
    mean_iou_interval: Interval
    f1: float
    good_or_bad: PartVerdicts
    false_rejects: EvaluationRate | None
    per_class: dict[str, MaskFigures]
    confusion: ConfusionMatrix
    worst_frames: tuple[WorstFrame, ...]


def judge_segmenter(session: Session, root: Path, request: EvaluationRequest) -> SegmenterEvaluation:
    """Evaluates a segmenter on images with masks."""
    request.refuse_detector_options("a segmenter")
    data, labels = load_masks(root, request.fold), session.manifest.labels
    samples = evenly_spread(data.samples, request.max_frames)
    unknown = sorted(set(data.labels) - set(labels))
    if unknown or not samples:
        raise DatasetError(
            f"masks of {root}",
            expected=f"at least one, and only types of {', '.join(labels)}",
            actual=", ".join(unknown) or "no frame",
            action="Give data of the bundle's own types.",
        )
    found = run_in_tasks(session, partial(_tables, data), samples, request.tasks, request.on_progress)
    tables, timings = [table for table, _, _ in found], [timing for _, timing, _ in found]
    thresholds = VerdictPolicy(session.manifest).thresholds
    strong = [strength_of(decision, thresholds) for _, _, decision in found]
    counts = np.stack(tables)
    return SegmenterEvaluation(
        **facts_of(session, "masks", request.fold, timings, [session.used_device], workers=request.tasks.workers),
        **_figures(counts, labels),
        good_or_bad=part_verdicts(
            strong,
            [not table[1:].any() for table in tables],
            parts_shown(root, [one.path for one in samples]),
            fold=request.fold,
        ),
        confusion=_matrix(counts.sum(axis=0), labels),
        worst_frames=_worst(root, samples, counts, labels),
    )


def _tables(
    data: MaskDataset, session: Session, samples: Sequence[Sample], on_progress: CountListener | None
) -> list[tuple[Pixels, Timings, Decision]]:
    policy = VerdictPolicy(session.manifest)
    found = []
    for number, sample in enumerate(samples):
        found.append(_one(session, data, sample, policy))
        if on_progress is not None:
            on_progress(number + 1, len(samples))
    return found


def _one(
    session: Session, data: MaskDataset, sample: Sample, policy: VerdictPolicy
) -> tuple[Pixels, Timings, Decision]:
    """Returns the pixels of a frame by ``(true, found)`` class, where class 0 is nothing; and the verdict on it."""
    manifest, image = session.manifest, read_image(sample.path)
    marks = [time.perf_counter_ns()]
    tensor, letterbox = prepare(image, manifest.preprocess)
    marks.append(time.perf_counter_ns())
    outputs = session.predict({manifest.preprocess.input: tensor})
    marks.append(time.perf_counter_ns())
    predicted = pixel_labels(outputs, manifest.postprocess.params, [letterbox])[0]
    marks.append(time.perf_counter_ns())
    own = np.array([0, *(manifest.labels.index(name) + 1 for name in data.labels)], np.uint8)
    table = count_pixels(own[data.mask_of(sample)], predicted, len(manifest.labels) + 1, where=str(sample.path))
    spent = [(end - start) / 1e6 for start, end in itertools.pairwise(marks)]
    timings = Timings(preprocess_ms=spent[0], inference_ms=spent[1], postprocess_ms=spent[2])
    decision = policy.decide(decode(outputs, manifest.postprocess, [letterbox])[0], image.shape[:2])
    return table, timings, decision


def _figures(counts: Pixels, labels: Sequence[str]) -> dict[str, Any]:
    shared, union = overlaps(counts)
    true, predicted = counts.sum(axis=2)[:, 1:], counts.sum(axis=1)[:, 1:]
    shown = shown_labels(counts).tolist()
    images = {label: compare(true[:, label] > 0, predicted[:, label] > 0) for label in range(len(labels))}
    per_class = {
        labels[k]: MaskFigures(
            iou=_share(shared[:, k].sum(), union[:, k].sum()),
            precision=_share(shared[:, k].sum(), predicted[:, k].sum()) if predicted[:, k].any() else None,
            recall=_share(shared[:, k].sum(), true[:, k].sum()),
            f1_image=images[k].f1,
            support=int(true[:, k].sum()),
            support_images=int((true[:, k] > 0).sum()),
        )
        for k in shown
    }
    low, high = interval_of_mean_iou(shared[:, shown], union[:, shown]) if shown else (0.0, 0.0)
    right, false, missed = (sum(getattr(each, name) for each in images.values()) for name in ("tp", "fp", "fn"))
    return {
        "mean_iou": mean_iou(counts),
        "mean_iou_interval": Interval(low=low, high=high, confidence=CONFIDENCE, method="bootstrap"),
        "f1": DetectionCounts(right, false, missed).f1,
        "false_rejects": _false_rejects(true, predicted),
        "per_class": per_class,
    }


def _false_rejects(true: Pixels, predicted: Pixels) -> EvaluationRate | None:
    good = ~true.any(axis=1)
    parts, rejected = int(good.sum()), int(predicted[good].any(axis=1).sum())
    if not parts:
        return None
    low, high = wilson(rejected, parts)
    interval = Interval(low=low, high=high, confidence=CONFIDENCE, method="wilson")
    return EvaluationRate(
        source="frames without a defect", parts=parts, rejected=rejected, rate=rejected / parts, interval=interval
    )


def _matrix(counts: Pixels, labels: Sequence[str]) -> ConfusionMatrix:
    """Returns the pixels by class, nothing last."""
    order = [*range(1, len(labels) + 1), 0]
    rows = counts[np.ix_(order, order)].tolist()
    return ConfusionMatrix(labels=(*labels, NOTHING), counts=tuple(tuple(row) for row in rows))


def _worst(root: Path, samples: Sequence[Sample], counts: Pixels, labels: Sequence[str]) -> tuple[WorstFrame, ...]:
    shared, union = overlaps(counts)
    rows = []
    for sample, table, both, either in zip(samples, counts, shared.sum(axis=1), union.sum(axis=1), strict=True):
        there, predicted = table.sum(axis=1)[1:] > 0, table.sum(axis=0)[1:] > 0
        rows.append(
            WorstFrame(
                frame=sample.part_id,
                file=file_name(sample, root),
                truth=_names(there, labels),
                found=_names(predicted, labels),
                missed=int((there & ~predicted).sum()),
                false=int((predicted & ~there).sum()),
                weight=round(1 - float(_share(both, either)), 4),
            )
        )
    return tuple(sorted((row for row in rows if row.weight > 0), key=lambda row: -row.weight)[:WORST_MAX])


def _names(shown: npt.NDArray[np.bool_], labels: Sequence[str]) -> str:
    return ", ".join(name for name, there in zip(labels, shown.tolist(), strict=True) if there) or NOTHING


def _share(part: np.int64 | int, whole: np.int64 | int) -> float:
    return float(part / whole) if whole else 1.0
