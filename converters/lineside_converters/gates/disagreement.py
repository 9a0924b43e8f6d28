"""Disagreements of two models: confusion matrices, and the frames concerned.

Only what a line would act upon counts: findings above their type's threshold, or a classifier's first answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.reports.report_parts import Confusion, Disagreement
from lineside_models.inspection import Detection
from lineside_models.metrics import box_iou
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_runtime.bundle import Manifest

NOTHING = "nothing"
OTHERS = "other types"

MIN_IOU = 0.5
LABELS_MAX = 20
"""Types that a confusion matrix shows, those that are confused most; a matrix of a thousand is no picture."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelJudgement:
    """Answers of both models to the same frames.

    Attributes:
        frames: Annotated frames; boxes don't count if ``whole``, and images aren't used.
        before: What the source model finds, all candidates.
        after: What the new one finds.
        thresholds: ``(labels,)``, from which a finding counts.
        whole: Whether the frame as a whole has one type, and the best candidate is the answer.
    """

    frames: Sequence[AnnotatedFrame]
    before: Sequence[Candidates]
    after: Sequence[Candidates]
    labels: Sequence[str]
    thresholds: npt.NDArray[np.float64]
    whole: bool = False

    def counting(self, found: Candidates) -> Candidates:
        """Returns the findings that a line would act upon."""
        if self.whole:
            return _chosen(found, np.arange(min(1, len(found))))
        return _chosen(found, np.flatnonzero(found.scores >= self.thresholds[found.labels]))


@dataclasses.dataclass(frozen=True, slots=True)
class DisagreeingFrame:
    """A frame on which the models disagree, with the data to draw it.

    Attributes:
        row: For ``report.json``.
        number: Number of the frame among those that were judged.
        before: Answers of the source model, above the thresholds.
        after: Answers of the new one.
        weight: Sum of the scores of what only one of them finds.
    """

    row: Disagreement
    number: int
    before: tuple[Detection, ...]
    after: tuple[Detection, ...]
    weight: float


def judgement_of(
    manifest: Manifest, frames: Sequence[AnnotatedFrame], before: Sequence[Candidates], after: Sequence[Candidates]
) -> ModelJudgement:
    """Returns both models' answers, with the labels and thresholds of the manifest."""
    return ModelJudgement(
        frames=frames,
        before=before,
        after=after,
        labels=manifest.labels,
        thresholds=thresholds_of(manifest.postprocess, len(manifest.labels)),
        whole=manifest.task == "classification",
    )


def confusion_of(judged: ModelJudgement) -> Confusion:
    """Counts the confusions of both models.

    A detector's finding belongs to the true box that it overlaps most, from 0.5 on, the surest finding first. What is
    left of the truth was taken for nothing, and what is left of the findings is a false find. Types that neither are
    there nor are found have no row.
    """
    matrices = [
        sum(
            (
                _confuse(truth, judged.counting(found), judged)
                for truth, found in zip(judged.frames, model, strict=True)
            ),
            np.zeros((len(judged.labels) + 1,) * 2, np.int64),
        )
        for model in (judged.before, judged.after)
    ]
    names = [*judged.labels, NOTHING]
    if judged.whole and not any(matrix[-1].any() or matrix[:, -1].any() for matrix in matrices):
        matrices, names = [matrix[:-1, :-1] for matrix in matrices], names[:-1]
    seen = np.flatnonzero(sum(matrix.sum(0) + matrix.sum(1) for matrix in matrices))
    matrices, names = [matrix[np.ix_(seen, seen)] for matrix in matrices], [names[index] for index in seen]
    if len(names) > LABELS_MAX + 1:
        matrices, names = _largest(matrices, names)
    before, after = (tuple(tuple(map(int, row)) for row in matrix) for matrix in matrices)
    return Confusion(labels=tuple(names), before=before, after=after)


def disagreeing_frames(judged: ModelJudgement) -> list[DisagreeingFrame]:
    """Returns the frames on which only one model finds something, the surest difference first."""
    found = []
    for number, (frame, one, two) in enumerate(zip(judged.frames, judged.before, judged.after, strict=True)):
        before, after = judged.counting(one), judged.counting(two)
        weight = _alone(before, after, judged.whole) + _alone(after, before, judged.whole)
        if weight > 0:
            drawn = [detections_of(each, judged.labels) for each in (before, after)]
            row = Disagreement(
                frame=frame.frame.part_id or f"{frame.frame.source} {frame.frame.sequence}".strip(),
                truth=count_by_type([judged.labels[label] for label in frame.labels]),
                before=list_detections(drawn[0]),
                after=list_detections(drawn[1]),
            )
            found.append(DisagreeingFrame(row, number, drawn[0], drawn[1], weight))
    return sorted(found, key=lambda each: -each.weight)


def _chosen(found: Candidates, rows: npt.NDArray[Any]) -> Candidates:
    return Candidates(found.boxes[rows], found.scores[rows], found.labels[rows])


def _confuse(truth: AnnotatedFrame, found: Candidates, judged: ModelJudgement) -> npt.NDArray[np.int64]:
    nothing = len(judged.labels)
    counts = np.zeros((nothing + 1,) * 2, np.int64)
    if judged.whole:
        answer = int(found.labels[0]) if len(found) else nothing
        counts[int(truth.labels[0]) if len(truth.labels) else nothing, answer] = 1
        return counts
    partner = _partners(found.boxes, truth.boxes)
    for label, place in zip(found.labels, partner, strict=True):
        counts[truth.labels[place] if place >= 0 else nothing, label] += 1
    for place in set(range(len(truth.labels))) - set(partner.tolist()):
        counts[truth.labels[place], nothing] += 1
    return counts


def _partners(found: npt.NDArray[Any], true: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the number of each finding's true box, of any type, or -1; the surest finding chooses first."""
    partner = np.full(len(found), -1, np.int64)
    if not len(true):
        return partner
    overlap = box_iou(found, true)
    for row in range(len(found)):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= MIN_IOU:
            partner[row] = best
            overlap[:, best] = -1
    return partner


def _alone(one: Candidates, other: Candidates, whole: bool) -> float:
    """Sums the scores of findings of ``one`` that ``other`` does not have, of one type and in one place."""
    if not len(one):
        return 0.0
    like = one.labels[:, None] == other.labels[None]
    if not whole:
        like = like & (box_iou(one.boxes, other.boxes) >= MIN_IOU)
    return float(one.scores[~like.any(axis=1)].sum())


def _largest(
    matrices: Sequence[npt.NDArray[np.int64]], names: Sequence[str]
) -> tuple[list[npt.NDArray[np.int64]], list[str]]:
    """Keeps the types that are confused most, and counts the others together."""
    wrong = sum(matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal() for matrix in matrices)
    kept = sorted(np.argsort(-np.asarray(wrong), kind="stable")[: LABELS_MAX - 1].tolist())
    group = np.full(len(names), len(kept), np.int64)
    group[kept] = np.arange(len(kept))
    small = [np.zeros((len(kept) + 1,) * 2, np.int64) for _ in matrices]
    for target, matrix in zip(small, matrices, strict=True):
        np.add.at(target, (group[:, None], group[None]), matrix)
    return small, [*(names[index] for index in kept), OTHERS]


def detections_of(found: Candidates, labels: Sequence[str]) -> tuple[Detection, ...]:
    """Returns candidates as detections."""
    return tuple(
        Detection(type=labels[label], score=float(score), box=(float(b[0]), float(b[1]), float(b[2]), float(b[3])))
        for label, score, b in zip(found.labels, found.scores, found.boxes, strict=True)
    )


def list_detections(found: Sequence[Detection]) -> str:
    """Returns findings as text, with their scores."""
    return ", ".join(f"{each.type} {each.score:.2f}" for each in found) or NOTHING


def count_by_type(names: Sequence[str]) -> str:
    """Returns types as text, each with its number where there are several."""
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items()) or NOTHING
