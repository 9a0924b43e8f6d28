"""What thresholds do to whole parts: counted on frames, and on frames that they were not chosen on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lineside_converters.decide.costs import Costs, cost_interval
from lineside_converters.decide.figures import Outcome, rate
from lineside_converters.decide.scoring import Scores

FOLDS = 5
SEED = 20

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class Bars:
    """One threshold a type, and where each band of doubt begins: at the threshold where there is none."""

    bars: Floats
    floors: Floats


def outcome(scores: Scores, costs: Costs, bars: Bars) -> Outcome:
    """Counts what thresholds do to the frames, and what that costs.

    Args:
        scores: Of all frames.
        costs: What errors cost.
        bars: The thresholds.
    """
    return _counted(scores, costs, *_verdicts(scores, bars))


def _verdicts(scores: Scores, bars: Bars) -> tuple[Bools, Bools]:
    """Returns which frames are rejected, and of which of the others the verdict is unsure."""
    rejected = np.asarray((scores.best >= bars.bars).any(axis=1), bool)
    return rejected, np.asarray(~rejected & (scores.best >= bars.floors).any(axis=1), bool)


def _counted(scores: Scores, costs: Costs, rejected: Bools, unsure: Bools) -> Outcome:
    bad, good = ~scores.good, scores.good
    count = {
        "missed": int((bad & ~rejected & ~unsure).sum()),
        "unsure_bad": int((bad & unsure).sum()),
        "false": int((good & rejected).sum()),
        "unsure_good": int((good & unsure).sum()),
    }
    of_bad, of_good = int(bad.sum()), int(good.sum())
    review = costs.review or 0.0
    parts = [
        (costs.bad_share * costs.miss, count["missed"], of_bad),
        (costs.bad_share * review, count["unsure_bad"], of_bad),
        ((1 - costs.bad_share) * costs.reject, count["false"], of_good),
        ((1 - costs.bad_share) * review, count["unsure_good"], of_good),
    ]
    low, high = cost_interval(parts)
    known = of_good > 0
    return Outcome(
        missed=rate(count["missed"], of_bad),
        unsure_bad=rate(count["unsure_bad"], of_bad),
        false_rejects=rate(count["false"], of_good) if known else None,
        unsure_good=rate(count["unsure_good"], of_good) if known else None,
        cost=sum(weight * each / of for weight, each, of in parts if of) if known else None,
        cost_low=low if known else None,
        cost_high=high if known else None,
    )


def cross_fold(scores: Scores, costs: Costs, choose: Callable[[Bools], Bars]) -> Outcome:
    """Judges each fifth of the frames by thresholds that were chosen on the other four.

    Args:
        scores: Of all frames.
        costs: What errors cost.
        choose: Returns the thresholds that are cheapest on the given frames.
    """
    fold = _folds(scores)
    rejected, unsure = np.zeros(len(fold), bool), np.zeros(len(fold), bool)
    for number in range(FOLDS):
        here = fold == number
        rejected[here], unsure[here] = (verdicts[here] for verdicts in _verdicts(scores, choose(~here)))
    return _counted(scores, costs, rejected, unsure)


def _folds(scores: Scores) -> npt.NDArray[np.int64]:
    """Returns a fold for each frame; frames of one first type, and good ones, are spread alike."""
    first = np.where(scores.good, -1, scores.shows.argmax(axis=1))
    fold = np.zeros(len(first), np.int64)
    random = np.random.default_rng(SEED)
    for kind in np.unique(first):
        members = random.permutation(np.flatnonzero(first == kind))
        fold[members] = np.arange(len(members)) % FOLDS
    return fold
