"""Chooses thresholds for a stated cost: scores, the cheapest threshold of each type, what that does to whole parts."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from lineside_converters.cluster.tasks import ALONE, TaskRunner
from lineside_converters.thresholds.costs import (
    ErrorCosts,
    RejectTolerance,
    TypeScores,
    choose,
    cost_interval,
    least_reject_cost,
)
from lineside_converters.thresholds.frames import FrameRequest, FrameSet, gather_frames
from lineside_converters.thresholds.outcomes import ThresholdSet, cross_fold, outcome, own_outcome
from lineside_converters.thresholds.reliability import reliability
from lineside_converters.thresholds.report import ThresholdOutcome, ThresholdPoint, ThresholdReport, TypeDecision, rate
from lineside_converters.thresholds.scoring import ENOUGH_GOOD, FrameScores, score
from lineside_models.metrics import wilson
from lineside_models.postprocess import thresholds_of, unsure_from_of
from lineside_models.verdict.good_classes import good_of, passes_nothing
from lineside_runtime.bundle import Bundle, Postprocess
from lineside_runtime.config import Config
from lineside_runtime.errors import DatasetError
from lineside_runtime.progress import CountListener
from lineside_runtime.session import Session

LEAST_BAD = 5
"""Frames that must show a type before a threshold is chosen for it."""

POINTS = (0.001, 0.002, 0.005, *(round(0.01 * number, 2) for number in range(1, 100)), 0.995, 0.999)
"""Thresholds of the curves."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def decide(
    bundle: Bundle,
    request: FrameRequest,
    goal: ErrorCosts | RejectTolerance,
    *,
    config: Config | None = None,
    tasks: TaskRunner = ALONE,
    on_progress: CountListener | None = None,
) -> ThresholdReport:
    """Chooses the thresholds of a bundle.

    Args:
        goal: What errors cost, or how many good parts may be rejected.

    Raises:
        DatasetError: No type is shown by enough frames, the bundle decides nothing, or nothing stands for good parts
            of which a share may be rejected.
        CalibrationError: The data shows a type that the bundle doesn't know.
    """
    labels = bundle.manifest.labels
    if bundle.manifest.task == "generic" or not labels:
        raise DatasetError(f"{bundle.manifest.identity} has no types, so that there is nothing to decide")
    frames = gather_frames(bundle, request)
    with Session(bundle, config) as session:
        scores = score(session, frames, tasks=tasks, on_progress=on_progress)
    _check_enough(scores, frames)
    own = _own(bundle)
    everything = np.ones(len(scores.best), bool)
    how = bundle.manifest.postprocess
    costs = _costs(scores, everything, goal, own, how)
    chosen = _choose(scores, everything, goal=goal, own=own, how=how)
    before = own_outcome(scores, costs, own)
    elsewhere = cross_fold(scores, costs, partial(_choose, scores, goal=goal, own=own, how=how))
    return ThresholdReport(
        bundle=bundle.manifest.identity,
        digest=bundle.digest,
        data=frames.names,
        fold=request.fold,
        frames_from=frames.description,
        bad_parts=int((~scores.good).sum()),
        good_parts=_good_parts(scores),
        miss_cost=costs.miss,
        reject_cost=costs.reject,
        review_cost=costs.review,
        bad_share=costs.bad_share,
        tolerated=goal.share if isinstance(goal, RejectTolerance) else None,
        parts=len(set(scores.parts)),
        types=tuple(
            _type(scores, label, name, costs, chosen, own)
            for label, name in enumerate(labels)
            if label not in good_of(how)
        ),
        before=before,
        after=outcome(scores, costs, chosen),
        cross_fold=elsewhere,
        reliability=reliability(scores.best, scores.shows, labels),
        notes=(*frames.notes, *_notes(scores, labels, how), *_gain(goal, before, elsewhere)),
    )


def _check_enough(scores: FrameScores, frames: FrameSet) -> None:
    most = int(scores.shows.sum(axis=0).max(initial=0))
    if most < LEAST_BAD:
        raise DatasetError(
            f"too few frames of {' and '.join(frames.names)} show a defect",
            expected=f"{LEAST_BAD} or more of one type",
            actual=most,
        )


def _own(bundle: Bundle) -> ThresholdSet:
    how, count = bundle.manifest.postprocess, len(bundle.manifest.labels)
    bars = thresholds_of(how, count)
    return ThresholdSet(bars, np.zeros(count) if passes_nothing(how) else np.minimum(unsure_from_of(how, count), bars))


def _of_type(scores: FrameScores, rows: Bools, label: int, costs: ErrorCosts) -> TypeScores:
    """Returns one type's scores among the given frames."""
    shows = scores.shows[:, label]
    shown = scores.shows.sum(axis=0)
    enough = shown >= LEAST_BAD
    good = scores.best[rows & scores.good, label]
    if scores.rest_counts:
        rest = scores.beside[rows & ~scores.good, label]
        good = np.concatenate([good, rest[~np.isnan(rest)]])
    prior = costs.bad_share * shown[label] / max(1, shown[enough].sum())
    return TypeScores(scores.best[rows & shows, label], good, float(prior))


def _costs(
    scores: FrameScores, rows: Bools, goal: ErrorCosts | RejectTolerance, own: ThresholdSet, how: Postprocess
) -> ErrorCosts:
    """Returns the stated costs, or those that keep the false rejects among the given frames at the tolerated share."""
    if isinstance(goal, ErrorCosts):
        return goal
    best = scores.best[rows & scores.good]
    if scores.rest_counts:
        best = np.concatenate([best, np.nan_to_num(scores.beside[rows & ~scores.good])])
    if not len(best):
        raise DatasetError(
            "nothing stands for the good parts, of which a share may be rejected",
            expected="photos of good parts, or boxes around defects",
            action="Give photos of good parts (--good), or costs.",
        )

    def false_rejects(reject: float) -> float:
        chosen = _cheapest(scores, rows, costs=goal.costs(reject), own=own, how=how)
        return float((best >= chosen.bars).any(axis=1).mean())

    return goal.costs(least_reject_cost(false_rejects, goal.share))


def _choose(
    scores: FrameScores, rows: Bools, *, goal: ErrorCosts | RejectTolerance, own: ThresholdSet, how: Postprocess
) -> ThresholdSet:
    """Returns the thresholds that suit the goal on the given frames."""
    return _cheapest(scores, rows, costs=_costs(scores, rows, goal, own, how), own=own, how=how)


def _cheapest(
    scores: FrameScores, rows: Bools, *, costs: ErrorCosts, own: ThresholdSet, how: Postprocess
) -> ThresholdSet:
    """Returns the thresholds that are cheapest on the given frames; the bundle's own where a type is too rare."""
    bars, floors = own.bars.copy(), own.bars.copy()
    for label in range(len(bars)):
        mine = _of_type(scores, rows, label, costs)
        if scores.shows[:, label].sum() >= LEAST_BAD and len(mine.bad) and len(mine.good):
            bar, floor = choose(mine, costs)
            bars[label], floors[label] = bar, bar if floor is None else floor
    return ThresholdSet(bars, np.zeros(len(bars)) if passes_nothing(how) else floors)


def _type(
    scores: FrameScores, label: int, name: str, costs: ErrorCosts, chosen: ThresholdSet, own: ThresholdSet
) -> TypeDecision:
    everything = np.ones(len(scores.best), bool)
    mine = _of_type(scores, everything, label, costs)
    bad, good = len(mine.bad), len(mine.good)
    bar, floor, was = float(chosen.bars[label]), float(chosen.floors[label]), float(own.bars[label])
    kept = "" if bad >= LEAST_BAD else f"only {bad} frames show it" if bad else "no frame shows it"
    hit, missed = int(mine.hit(bar)), mine.bad < own.floors[label]
    return TypeDecision(
        type=name,
        threshold=bar,
        unsure_from=floor if floor < bar else None,
        was=was,
        kept=kept,
        prior=0.0 if kept else mine.prior,
        miss=rate(int(mine.missed(floor)), bad),
        false_reject=rate(hit, good),
        unsure=rate(int(mine.hit(floor)) - hit, good),
        miss_was=rate(int((missed & ~scores.unclaimed[scores.shows[:, label]]).sum()), bad),
        false_reject_was=rate(int(mine.hit(was)), good),
        curve=() if kept else tuple(_point(mine, threshold, costs) for threshold in POINTS),
    )


def _point(scores: TypeScores, threshold: float, costs: ErrorCosts) -> ThresholdPoint:
    missed, hit = int(scores.missed(threshold)), int(scores.hit(threshold))
    bad, good = len(scores.bad), len(scores.good)
    weights = scores.prior * costs.miss, (1 - scores.prior) * costs.reject
    low, high = cost_interval([(weights[0], missed, bad), (weights[1], hit, good)])
    (miss_low, miss_high), (false_low, false_high) = wilson(missed, bad), wilson(hit, good)
    return ThresholdPoint(
        threshold=threshold,
        cost=float(scores.cost(threshold, miss=costs.miss, reject=costs.reject)),
        cost_low=low,
        cost_high=high,
        miss=missed / bad,
        miss_low=miss_low,
        miss_high=miss_high,
        false_reject=hit / good if good else 0.0,
        false_reject_low=false_low,
        false_reject_high=false_high,
    )


def _good_parts(scores: FrameScores) -> dict[str, int]:
    sources = [source for source, good in zip(scores.sources, scores.good, strict=True) if good]
    if scores.rest_counts:
        sources += [
            f"{source}, beside defects" for source, good in zip(scores.sources, scores.good, strict=True) if not good
        ]
    return dict(collections.Counter(sources))


def _gain(goal: ErrorCosts | RejectTolerance, before: ThresholdOutcome, elsewhere: ThresholdOutcome) -> list[str]:
    if isinstance(goal, RejectTolerance):
        found = elsewhere.false_rejects
        if found is None or found.low <= goal.share:
            return []
        return [f"on parts that they were not chosen on, more than {goal.share:.2%} of the good parts are rejected"]
    if before.cost is None or elsewhere.cost is None or elsewhere.cost < before.cost:
        return []
    return [
        "judged on frames that they were not chosen on, thresholds chosen so cost no less than the bundle's own: "
        "there are too few frames to choose on"
    ]


def _notes(scores: FrameScores, labels: Sequence[str], how: Postprocess) -> list[str]:
    notes, good = [], int(scores.good.sum())
    if passes_nothing(how):
        notes.append("the model has no class of good parts: what reaches no threshold is unsure, and nothing passes")
    if scores.rest_counts:
        boxed = not np.isnan(scores.beside).any()
        what = "what bad parts show beside their defects" if boxed else "bad parts of other types"
        notes.append(
            f"{f'{good} good parts were' if good else 'no good part was'} given, fewer than {ENOUGH_GOOD}: {what} "
            "stood in. Give photos of good parts (--good)"
        )
    shown = dict(zip(labels, scores.shows.sum(axis=0).tolist(), strict=True))
    for label in good_of(how):
        del shown[labels[label]]
    rare = [name for name, count in shown.items() if count < LEAST_BAD]
    if rare:
        notes.append(
            f"the bundle's own thresholds stay where fewer than {LEAST_BAD} frames show a type: {', '.join(rare)}"
        )
    return notes
