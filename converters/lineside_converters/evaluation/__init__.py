"""``lineside evaluate``: how good a bundle is on annotated images, everything there is; one judge a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineside_converters.evaluation.anomaly import AnomalyEvaluation, judge_anomaly
from lineside_converters.evaluation.asked import Asked
from lineside_converters.evaluation.classifier import ClassifierEvaluation, judge_classifier
from lineside_converters.evaluation.detector import DetectorEvaluation, judge_detector
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Session

Result = DetectorEvaluation | ClassifierEvaluation | AnomalyEvaluation

__all__ = ["JUDGES", "AnomalyEvaluation", "Asked", "ClassifierEvaluation", "DetectorEvaluation", "judge"]

JUDGES: dict[str, Callable[[Session, Path, Asked], Any]] = {
    "anomaly": judge_anomaly,
    "classification": judge_classifier,
    "detection": judge_detector,
}
"""Judges by the task that a manifest gives. A new one is added here."""


def judge(bundle: Bundle | Path | str, root: Path, asked: Asked) -> Result:
    """Judges a bundle on a data set.

    Args:
        bundle: An opened bundle, its folder or a ``.lsb``.
        root: The data set's folder.
        asked: What of it, and what to write.

    Returns:
        The figures, as they travel in JSON: what the judge of the bundle's task gives.

    Raises:
        ConfigError: Nobody judges the bundle's task.
        LinesideError: As for the task's judge and `Session`.
    """
    with Session(bundle, asked.config) as session:
        task = session.manifest.task
        if task not in JUDGES:
            raise ConfigError("task of the bundle", expected=" or ".join(sorted(JUDGES)), actual=task)
        result: Result = JUDGES[task](session, Path(root), asked)
        return result
