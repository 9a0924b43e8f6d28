"""Run a bundle over frames and keep the best score of each type, and which finds are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.evaluation.frame_tasks import run_in_tasks
from lineside_converters.thresholds.frames import FrameSet
from lineside_models.inspector import Inspector
from lineside_models.metrics import box_iou, match_type
from lineside_models.postprocess import Candidates, check_labels
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.good_classes import good_of
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

AT_ONCE = 4

ENOUGH_GOOD = 100
"""Good parts from which they alone say how often good parts are rejected."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredFinds:
    """Candidates of all frames, in no order.

    Attributes:
        scores: ``(N,)`` calibrated.
        labels: ``(N,)``.
        right: ``(N,)`` whether each found a true box of its type, not yet found, by half or more.
        frames: ``(N,)`` number of each one's frame.
    """

    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    frames: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class FrameScores:
    """Scores of all frames.

    Attributes:
        best: ``(F, C)`` best score of each type in each frame; 0 where there is no candidate.
        beside: ``(F, C)`` the same of candidates that touch no true box: what a good part would have shown there. Not a
            number where the data has no boxes and the frame shows the type.
        shows: ``(F, C)`` whether each frame truly shows each type.
        finds: Every candidate; empty where the data has no boxes.
        unclaimed: ``(F,)`` which frames the bundle's own rules make unsure although no type reaches its threshold: a
            classifier's likeliest class is a defect that has no threshold of its own.
    """

    best: npt.NDArray[np.float64]
    beside: npt.NDArray[np.float64]
    shows: npt.NDArray[np.bool_]
    sources: tuple[str, ...]
    parts: tuple[str, ...]
    finds: ScoredFinds
    unclaimed: npt.NDArray[np.bool_]

    @property
    def rest_counts(self) -> bool:
        """Whether areas of bad parts beside their defects stand in for good parts, of which there are too few."""
        return int(self.good.sum()) < ENOUGH_GOOD

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """``(F,)`` which frames show no defect."""
        return np.asarray(~self.shows.any(axis=1), bool)


Batch = tuple[Callable[[], AnnotatedFrame], ...]
"""Frames that run at once."""


def find(
    session: Session, frames: FrameSet, *, tasks: TaskRunner = ALONE, on_progress: CountListener | None = None
) -> tuple[list[AnnotatedFrame], list[Candidates]]:
    """Runs the frames through the bundle: annotations of each, without its image, and every candidate."""
    count = len(frames.makers)
    batches = [frames.makers[begin : begin + AT_ONCE] for begin in range(0, count, AT_ONCE)]

    def count_frames(done: int, _: int) -> None:
        if on_progress is not None:
            on_progress(min(done * AT_ONCE, count), count)

    pairs = [pair for batch in run_in_tasks(session, _find, batches, tasks, count_frames) for pair in batch]
    return [truth for truth, _ in pairs], [candidates for _, candidates in pairs]


def _find(
    session: Session, batches: Sequence[Batch], on_progress: CountListener | None
) -> list[list[tuple[AnnotatedFrame, Candidates]]]:
    inspector = Inspector(session, batch_size=AT_ONCE)
    found = []
    for number, batch in enumerate(batches, 1):
        frames = [make() for make in batch]
        findings = inspector.find([true.frame for true in frames])
        for finding in findings:
            check_labels(finding.candidates, session.manifest.labels)
        pairs = zip(frames, findings, strict=True)
        found.append([(true.without_image(), finding.candidates) for true, finding in pairs])
        if on_progress is not None:
            on_progress(number, len(batches))
    return found


def score(
    session: Session, frames: FrameSet, *, tasks: TaskRunner = ALONE, on_progress: CountListener | None = None
) -> FrameScores:
    """Runs the frames through the bundle, cut into tiles where its manifest says so."""
    labels = session.manifest.labels
    truths, found = find(session, frames, tasks=tasks, on_progress=on_progress)
    shows = np.zeros((len(found), len(labels)), bool)
    for number, truth in enumerate(truths):
        shows[number, truth.labels] = True
    best = np.stack([_best(each, slice(None), len(labels)) for each in found])
    good = list(good_of(session.manifest.postprocess))
    shows[:, good], best[:, good] = False, 0  # a frame of such a class is a good part
    policy = VerdictPolicy(session.manifest)  # without regions, so that the frame's size does not matter
    unclaimed = np.array([policy.decide(each, (0, 0)).none_of_them for each in found])
    if not frames.boxed:
        rest = np.where(shows, np.nan, best)
        return FrameScores(best, rest, shows, frames.sources, frames.parts, _nothing(), unclaimed)
    beside = np.stack([_best(each, _apart(each, true), len(labels)) for each, true in zip(found, truths, strict=True)])
    finds = _judged(truths, found, len(labels))
    return FrameScores(best, beside, shows, frames.sources, frames.parts, finds, unclaimed)


def _apart(found: Candidates, truth: AnnotatedFrame) -> npt.NDArray[np.bool_]:
    return np.asarray((box_iou(found.boxes, truth.boxes) == 0).all(axis=1), bool)


def _best(found: Candidates, rows: slice | npt.NDArray[np.bool_], classes: int) -> npt.NDArray[np.float64]:
    best = np.zeros(classes)
    np.maximum.at(best, found.labels[rows], found.scores[rows].astype(np.float64))
    return best


def _judged(truths: list[AnnotatedFrame], found: list[Candidates], classes: int) -> ScoredFinds:
    matched = [match_type(truths, found, label) for label in range(classes)]
    return ScoredFinds(
        np.concatenate([each.scores for each in matched]),
        np.repeat(np.arange(classes), [len(each.scores) for each in matched]),
        np.concatenate([each.right for each in matched]),
        np.concatenate([each.image for each in matched]),
    )


def _nothing() -> ScoredFinds:
    return ScoredFinds(np.empty(0), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.int64))
