"""Frames on which a model has the largest errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.evaluation.figures import WorstFrame
from lineside_converters.evaluation.predictions import file_name
from lineside_converters.gates.disagreement import (
    ModelJudgement,
    count_by_type,
    detections_of,
    judgement_of,
    list_detections,
)
from lineside_models.datasets import Sample
from lineside_models.metrics import match
from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Manifest

WORST_MAX = 24
"""Frames that are named; a page draws the first half of them."""


def worst_of(
    manifest: Manifest,
    root: Path,
    samples: Sequence[Sample],
    truths: Sequence[AnnotatedFrame],
    found: Sequence[Candidates],
) -> tuple[WorstFrame, ...]:
    """Returns the frames with most errors, the worst first; frames without any are left out."""
    judgement = judgement_of(manifest, truths, found, found)
    rows = [
        _frame(judgement, sample, truth, judgement.counting(each), file_name(sample, root))
        for sample, truth, each in zip(samples, truths, found, strict=True)
    ]
    return tuple(sorted((row for row in rows if row.weight > 0), key=lambda row: -row.weight)[:WORST_MAX])


def _frame(
    judgement: ModelJudgement, sample: Sample, truth: AnnotatedFrame, found: Candidates, file: str
) -> WorstFrame:
    right = _right(truth, found, whole=judgement.whole)
    missed = len(truth.labels) - int(right.sum())
    false = found.scores[~right]
    return WorstFrame(
        frame=sample.part_id,
        file=file,
        truth=count_by_type([judgement.labels[label] for label in truth.labels]),
        found=list_detections(detections_of(found, judgement.labels)),
        missed=missed,
        false=len(false),
        weight=round(float(missed + false.sum()), 4),
    )


def _right(truth: AnnotatedFrame, found: Candidates, *, whole: bool) -> npt.NDArray[np.bool_]:
    """Returns ``(N,)`` whether each find is of a type that is there, and in its place."""
    if whole:
        return np.isin(found.labels, truth.labels)
    right = np.zeros(len(found), bool)
    for label in np.unique(found.labels):
        mine = np.flatnonzero(found.labels == label)
        right[mine] = match(found.boxes[mine], truth.boxes[truth.labels == label])
    return right
