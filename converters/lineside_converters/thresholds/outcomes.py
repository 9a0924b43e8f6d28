"""Verdicts that thresholds give whole parts, also on frames that they were not chosen on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lineside_converters.thresholds.costs import ErrorCosts, cost_interval
from lineside_converters.thresholds.report import ThresholdOutcome, rate_of_parts
from lineside_converters.thresholds.scoring import FrameScores

FOLDS = 5
FEW_PARTS = 20
"""Up to so many parts each is a fold of its own."""

SEED = 20

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class ThresholdSet:
    """One threshold a type, and where each band of doubt begins: at the threshold if there is none."""

    bars: Floats
    floors: Floats


def outcome(scores: FrameScores, costs: ErrorCosts, bars: ThresholdSet) -> ThresholdOutcome:
    """Counts the verdicts that thresholds give the frames, with their cost."""
    return _counted(scores, costs, _verdicts(scores.best, bars), _verdicts(scores.beside, bars))


def own_outcome(scores: FrameScores, costs: ErrorCosts, own: ThresholdSet) -> ThresholdOutcome:
    """Counts the verdicts of the bundle's own rules, with their cost."""
    verdicts = np.maximum(_verdicts(scores.best, own), scores.unclaimed[:, None])
    return _counted(scores, costs, np.asarray(verdicts, np.int64), _verdicts(scores.beside, own))


def _verdicts(best: Floats, bars: ThresholdSet) -> npt.NDArray[np.int64]:
    """Returns ``(F, C)``: 2 where a type alone rejects the part, 1 where it makes it unsure, 0 where it passes it."""
    return np.asarray(np.where(best >= bars.bars, 2, np.where(best >= bars.floors, 1, 0)), np.int64)


def _counted(
    scores: FrameScores, costs: ErrorCosts, verdicts: npt.NDArray[np.int64], rest: npt.NDArray[np.int64]
) -> ThresholdOutcome:
    part = np.unique(np.array(scores.parts), return_inverse=True)[1]
    bad, good = verdicts[~scores.good].max(axis=1), verdicts[scores.good].max(axis=1)
    bad_parts, good_parts = part[~scores.good], part[scores.good]
    if scores.rest_counts and not np.isnan(scores.beside).any():
        good = np.concatenate([good, rest[~scores.good].max(axis=1)])
        good_parts = np.concatenate([good_parts, bad_parts])
    types, type_parts = verdicts[scores.shows], part[scores.shows.nonzero()[0]]
    missed, missed_types = rate_of_parts(bad == 0, bad_parts), rate_of_parts(types == 0, type_parts)
    false, unsure = rate_of_parts(good == 2, good_parts), rate_of_parts(good == 1, good_parts)
    review = costs.review or 0.0
    parts = [
        (costs.bad_share * costs.miss, missed_types.count, len(types)),
        (costs.bad_share * review, int((types == 1).sum()), len(types)),
        ((1 - costs.bad_share) * costs.reject, false.count, len(good)),
        ((1 - costs.bad_share) * review, unsure.count, len(good)),
    ]
    low, high = cost_interval(parts)
    known = len(good) > 0
    return ThresholdOutcome(
        missed=missed,
        missed_types=missed_types,
        unsure_bad=rate_of_parts(bad == 1, bad_parts),
        false_rejects=false if known else None,
        unsure_good=unsure if known else None,
        cost=sum(weight * count / of for weight, count, of in parts if of) if known else None,
        cost_low=low if known else None,
        cost_high=high if known else None,
    )


def cross_fold(scores: FrameScores, costs: ErrorCosts, choose: Callable[[Bools], ThresholdSet]) -> ThresholdOutcome:
    """Judges each fifth of the parts by thresholds chosen on the other four; each part alone where they are few.

    Args:
        choose: Returns the thresholds that are cheapest on the given frames.
    """
    fold = folds_by_part(scores)
    verdicts, rest = np.zeros(scores.best.shape, np.int64), np.zeros(scores.best.shape, np.int64)
    for number in np.unique(fold):
        here = fold == number
        bars = choose(~here)
        verdicts[here], rest[here] = _verdicts(scores.best[here], bars), _verdicts(scores.beside[here], bars)
    return _counted(scores, costs, verdicts, rest)


def folds_by_part(scores: FrameScores) -> npt.NDArray[np.int64]:
    """Returns a fold for each frame: all frames of a part in one, first types and good frames spread alike."""
    first = np.where(scores.good, -1, scores.shows.argmax(axis=1))
    part = np.unique(np.array(scores.parts), return_inverse=True)[1]
    count = int(part.max(initial=0)) + 1
    if count <= FEW_PARTS:
        return np.asarray(part, np.int64)
    random = np.random.default_rng(SEED)
    kind_of = np.full(count, -1)
    np.maximum.at(kind_of, part, first)
    fold = np.zeros(count, np.int64)
    for kind in np.unique(kind_of):
        members = random.permutation(np.flatnonzero(kind_of == kind))
        fold[members] = np.arange(len(members)) % FOLDS
    return np.asarray(fold[part], np.int64)
