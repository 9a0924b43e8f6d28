"""Fit a detector's score calibration and thresholds again, on frames that it has not learned.

Training fits them on the float network. INT8 moves scores a little, and other parameters of the decoder (suppression,
voting) other boxes: what is right is then another set of finds.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_converters.bundles.packaging import THRESHOLDS_HEADING, check_place
from lineside_converters.thresholds.frames import FrameRequest, FrameSet, gather_frames, read
from lineside_converters.thresholds.outcomes import folds_by_part
from lineside_converters.thresholds.output import write_reading
from lineside_converters.thresholds.reliability import reliability
from lineside_converters.thresholds.report import Reliability
from lineside_converters.thresholds.scoring import FrameScores, score
from lineside_converters.training.detection import score_calibration
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, DatasetError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

_FITTED = ("calibration", "thresholds", "unsure_from")


@dataclasses.dataclass(frozen=True, slots=True)
class RecalibrationResult:
    """Result of `refit`.

    Attributes:
        frames: Description of the frames that it was fitted on.
        calibration: ``(a, b)`` of each type: the probability of being right is ``sigmoid(a * logit + b)``.
        thresholds: On that probability, the best mean of image and box F1 of each type.
        f1_before: Image F1 of all types on these frames, read as before. The new one beside it is the best that there
            is on them, and will be lower on others.
        f1: With the new calibration and thresholds.
        reliability: Of the scores under maps fitted on frames of other parts; ``None`` with too few of them.
    """

    bundle: Bundle
    frames: str
    calibration: tuple[tuple[float, float], ...]
    thresholds: tuple[float, ...]
    f1_before: float
    f1: float
    reliability: Reliability | None


def refit(
    bundle: Bundle,
    request: FrameRequest,
    out: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    keep_thresholds: bool = False,
    version: str = "",
    overwrite: bool = False,
    on_progress: CountListener | None = None,
) -> RecalibrationResult:
    """Writes a new version of a detector's bundle, with scores and thresholds fitted through its own engine.

    Args:
        bundle: A detector's; it stays as it is.
        request: Frames with boxes, best those that training held out.
        changes: Parameters of the post-processing that change at the same time, such as ``{"vote_iou": 1.0}``.
        keep_thresholds: Whether the thresholds move with the scores, so that every verdict stays as it was; otherwise
            new ones are chosen for the best F1.
        version: Version of the new bundle; the old one's with its last number one higher if empty.

    Raises:
        ConfigError: The bundle is no detector's, or a parameter is unknown.
        DatasetError: The data has no boxes.
    """
    check_place(bundle, out, version=version, overwrite=overwrite)
    if bundle.manifest.task != "detection":
        raise ConfigError("bundle to fit scores of", expected="a detector", actual=bundle.manifest.task)
    frames = gather_frames(bundle, request)
    if not frames.boxed:
        raise DatasetError("scores are fitted on boxes", expected="data with boxes", actual=frames.description)
    own = dict(bundle.manifest.postprocess.params)
    raw = {name: value for name, value in {**own, **(changes or {})}.items() if name not in _FITTED}
    before = _f1(_scored(bundle, own, frames, on_progress), np.array(own.get("thresholds") or 0.5))
    scores = _scored(bundle, raw, frames, on_progress)
    finds = _finds(scores, frames, len(bundle.manifest.labels))
    maps = score_calibration.calibrate(scores.best, scores.shows)
    thresholds = _moved(own, maps) if keep_thresholds else score_calibration.choose_thresholds(finds, maps)
    params = {**raw, "calibration": [list(pair) for pair in maps], "thresholds": list(thresholds)}
    after = _f1(dataclasses.replace(scores, best=score_calibration.apply_maps(scores.best, maps)), np.array(thresholds))
    proven = reliability(_cross_fitted(scores), scores.shows, bundle.manifest.labels)
    card = _card(bundle, frames, changes or {}, before, after, proven, kept=keep_thresholds)
    made = write_reading(bundle, params, out, card=card, version=version, overwrite=overwrite)
    return RecalibrationResult(made, frames.description, maps, thresholds, before, after, proven)


def _cross_fitted(scores: FrameScores) -> npt.NDArray[np.float64]:
    """Returns ``(F, C)`` scores of each frame under maps that were fitted on frames of other parts."""
    fold, fitted = folds_by_part(scores), np.zeros(scores.best.shape)
    for number in np.unique(fold):
        here = fold == number
        maps = score_calibration.calibrate(scores.best[~here], scores.shows[~here])
        fitted[here] = score_calibration.apply_maps(scores.best[here], maps)
    return fitted


def _moved(own: Mapping[str, Any], maps: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Returns the thresholds of the bundle as scores under other maps."""
    thresholds = own.get("thresholds") or (0.5,) * len(maps)
    before = own.get("calibration") or ((1.0, 0.0),) * len(maps)
    raw = [score_calibration.raw_score(threshold, pair) for threshold, pair in zip(thresholds, before, strict=True)]
    moved = score_calibration.apply_maps(np.array([raw]), maps)[0]
    return tuple(float(threshold) for threshold in moved)


def _scored(
    bundle: Bundle, params: Mapping[str, Any], frames: FrameSet, on_progress: CountListener | None
) -> FrameScores:
    with tempfile.TemporaryDirectory(prefix="lineside-refit-") as folder:
        draft = write_reading(bundle, params, Path(folder, "draft"), card="", version="draft")
        with Session(draft, Config(threads=1)) as session:
            return score(session, frames, on_progress=on_progress)


def _finds(scores: FrameScores, frames: FrameSet, types: int) -> score_calibration.CalibrationFinds:
    found = scores.finds
    truths = sum((np.bincount(true.labels, minlength=types) for true in read(frames)), np.zeros(types, np.int64))
    return score_calibration.CalibrationFinds(
        found.scores, found.labels, found.right, found.frames, scores.shows, truths
    )


def _f1(scores: FrameScores, thresholds: npt.NDArray[np.float64]) -> float:
    predicted = (scores.best >= thresholds) & (scores.best > 0)
    return float(2 * (predicted & scores.shows).sum() / max(1, predicted.sum() + scores.shows.sum()))


def _error(proven: Reliability) -> str:
    return f"Expected calibration error {proven.ece:.3f} ({proven.low:.3f} to {proven.high:.3f})"


def _card(
    bundle: Bundle,
    frames: FrameSet,
    changes: Mapping[str, Any],
    before: float,
    after: float,
    proven: Reliability | None,
    *,
    kept: bool,
) -> str:
    with_what = "".join(f", with {name} = {value}" for name, value in changes.items())
    what = "Calibration fitted, and thresholds moved with it," if kept else "Calibration and thresholds fitted"
    best = "" if kept else ", which is the best there is on them"
    lines: Sequence[str] = [
        THRESHOLDS_HEADING,
        "",
        f"{what} with `lineside bundle refit` from `{bundle.manifest.identity}`{with_what}, on {frames.description}.",
        f"Image F1 on these frames {before:.3f} before and {after:.3f} after{best}.",
        *([] if proven is None else [f"{_error(proven)} on parts that the calibration was not fitted on."]),
        *(f"- {note}" for note in frames.notes),
        "",
    ]
    return "\n".join(lines)
