"""Evaluate a bundle on annotated images or documents, with one module a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineside_converters.evaluation.anomaly import AnomalyEvaluation, judge_anomaly
from lineside_converters.evaluation.classifier import ClassifierEvaluation, judge_classifier
from lineside_converters.evaluation.combination import CombinationEvaluation, CombinedInspector, judge_combination
from lineside_converters.evaluation.detector import DetectorEvaluation, judge_detector
from lineside_converters.evaluation.documents import DocumentEvaluation, judge_documents
from lineside_converters.evaluation.request import EvaluationRequest
from lineside_converters.evaluation.segmenter import SegmenterEvaluation, judge_segmenter
from lineside_converters.tasks import is_segmenter
from lineside_models.datasets.folds import check_fold
from lineside_runtime.bundle import Bundle, Manifest
from lineside_runtime.errors import ConfigError
from lineside_runtime.files import ensure_writable
from lineside_runtime.session import Session

__all__ = [
    "JUDGES",
    "AnomalyEvaluation",
    "ClassifierEvaluation",
    "CombinationEvaluation",
    "CombinedInspector",
    "DetectorEvaluation",
    "DocumentEvaluation",
    "EvaluationRequest",
    "SegmenterEvaluation",
    "bundle_accuracy",
    "figures",
    "judge",
    "judge_combination",
    "page",
    "task_of",
]

JUDGES: dict[str, Callable[[Session, Path, EvaluationRequest], Any]] = {
    "anomaly": judge_anomaly,
    "classification": judge_classifier,
    "detection": judge_detector,
    "segmentation": judge_segmenter,
    "spans": judge_documents,
}
"""Evaluations by task, see `task_of`. A new one is added here."""

Result = DetectorEvaluation | ClassifierEvaluation | SegmenterEvaluation | AnomalyEvaluation | DocumentEvaluation


def task_of(manifest: Manifest) -> str:
    """Returns a bundle's task: the manifest's, and ``segmentation`` for a segmenter."""
    return "segmentation" if is_segmenter(manifest) else manifest.task


def judge(bundle: Bundle | Path | str, root: Path, request: EvaluationRequest) -> Result:
    """Evaluates a bundle on a data set.

    Args:
        bundle: An opened bundle, its folder or a ``.lsb``; of one model, see `judge_combination`.
        root: The data set's folder.
        request: Which frames, and what to write.

    Returns:
        The figures, as they travel in JSON: what the judge of the bundle's task gives.

    Raises:
        DatasetError: A fold is named of a folder that has none.
        ConfigError: Nobody judges the bundle's task, or the finds can't be written where they shall be.
    """
    if request.predictions is not None:
        ensure_writable(request.predictions)
    with Session(bundle, request.config) as session:
        task = task_of(session.manifest)
        if task not in JUDGES:
            raise ConfigError("task of the bundle", expected=" or ".join(sorted(JUDGES)), actual=task)
        if task != "spans":  # documents name their fold themselves
            check_fold(Path(root), request.fold)
        result: Result = JUDGES[task](session, Path(root), request)
        return result
