"""Cost of thresholds, and the cheapest one: arithmetic alone, without models and files.

A part costs, in the user's own unit:

| | passed | unsure | rejected |
| --- | --- | --- | --- |
| bad | ``miss`` | ``review`` | 0 |
| good | 0 | ``review`` | ``reject`` |

Types are chosen apart, each as if it alone made parts bad, with its share of the bad ones: in data sets one image often
shows many defects, on a line a bad part mostly has one, and a threshold that lets one defect through because another
on the same image was found would miss that part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import ConfigError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STEPS = 400
"""Thresholds that are looked at, even in logits."""

LEAST_WIDTH = 0.15
"""Of a hill, in logits."""

NOTHING_FOUND = 0.5
"""The threshold of a type of which there is no candidate at all."""

REJECT_COSTS = (1e-6, 1e4)
"""Between these the cost of a false reject is sought, a miss being 1."""

COST_STEPS = 24

RESAMPLES = 1000
SEED = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCosts:
    """Costs of errors, in any one unit.

    Attributes:
        miss: A bad part that passes.
        reject: A good part that is rejected.
        review: A person who looks at an unsure part; ``None``: nobody does, and there is no band of doubt.
        bad_share: Share of the parts that are bad, between 0 and 1.
    """

    miss: float
    reject: float
    review: float | None = None
    bad_share: float

    def __post_init__(self) -> None:
        if not (0 < self.miss < np.inf and 0 < self.reject < np.inf):
            raise ConfigError(
                "costs",
                expected="a miss and a false reject above 0",
                actual=f"{self.miss:g} and {self.reject:g}",
                action="Give both in one unit.",
            )
        if not 0 < self.bad_share < 1:
            raise ConfigError(
                "share of bad parts",
                expected="above 0 and below 1",
                actual=self.bad_share,
                action="Say how many of the line's parts are bad, such as 0.01.",
            )
        if self.review is not None and not 0 < self.review < min(self.miss, self.reject):
            raise ConfigError(
                "cost of a review",
                expected=f"above 0 and below those of a miss and a false reject, {min(self.miss, self.reject):g}",
                actual=self.review,
                action="Where a person costs as much as a reject, leave it out: then nothing is unsure.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RejectTolerance:
    """How many false rejects a line tolerates, in place of costs.

    Attributes:
        share: Share of the good parts that may be rejected, between 0 and 1.
        bad_share: Share of the parts that are bad, between 0 and 1.
    """

    share: float
    bad_share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(
                "tolerated false rejects",
                expected="above 0 and below 1",
                actual=self.share,
                action="Say which share of the good parts may be rejected, such as 0.005.",
            )
        self.costs(1.0)

    def costs(self, reject: float) -> ErrorCosts:
        """Returns costs in which a miss is 1.

        Raises:
            ConfigError: The share of bad parts is not usable.
        """
        return ErrorCosts(miss=1.0, reject=reject, bad_share=self.bad_share)


def least_reject_cost(false_rejects: Callable[[float], float], share: float) -> float:
    """Returns the least cost of a false reject, beside a miss of 1, that keeps the false rejects at a share.

    The thresholds that are cheapest at this cost are those that miss least at that share of false rejects (Neyman and
    Pearson 1933): a type gives up recall where that saves most false rejects.

    Args:
        false_rejects: Share of the good parts that are rejected where a false reject costs so much; it falls.
        share: Share that is tolerated.
    """
    low, high = np.log(REJECT_COSTS)
    for _ in range(COST_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if false_rejects(float(np.exp(middle))) <= share else (middle, high)
    return float(np.exp(high))


@dataclasses.dataclass(frozen=True, slots=True)
class TypeScores:
    """The best score of one type on each part.

    Attributes:
        bad: ``(B,)`` on parts that show the type; 0 where nothing was found.
        good: ``(G,)`` on good parts.
        prior: Share of all parts that are bad by this type.
    """

    bad: Floats
    good: Floats
    prior: float

    def missed(self, thresholds: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Returns how many bad parts lie below each threshold."""
        return np.asarray(np.searchsorted(np.sort(self.bad), thresholds, side="left"), np.int64)

    def hit(self, thresholds: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Returns how many good parts reach each threshold."""
        return len(self.good) - np.asarray(np.searchsorted(np.sort(self.good), thresholds, side="left"), np.int64)

    def cost(self, thresholds: npt.ArrayLike, *, miss: float, reject: float) -> Floats:
        """Returns the expected cost a part at each threshold.

        Args:
            miss: Cost of a bad part below the threshold.
            reject: Cost of a good part that reaches it.
        """
        missed = self.missed(thresholds) / max(1, len(self.bad))
        hit = self.hit(thresholds) / max(1, len(self.good))
        return np.asarray(self.prior * miss * missed + (1 - self.prior) * reject * hit, np.float64)


def choose(scores: TypeScores, costs: ErrorCosts) -> tuple[float, float | None]:
    """Returns the cheapest threshold of a type, and where its band of doubt begins.

    With reviews the cost is a sum of two that each depend on one end of the band: a part that falls below its lower end
    costs a miss instead of a review, one that reaches its upper end a reject instead of a review. Each end is the
    cheapest by itself.

    Args:
        scores: Scores of the type; at least one bad and one good part.

    Returns:
        The threshold, and the score from which a part is unsure; ``None`` without reviews or where no band pays.
    """
    if costs.review is None:
        return cheapest(scores, miss=costs.miss, reject=costs.reject), None
    upper = cheapest(scores, miss=costs.review, reject=costs.reject - costs.review)
    lower = cheapest(scores, miss=costs.miss - costs.review, reject=costs.review)
    if lower < upper:
        return upper, lower
    return cheapest(scores, miss=costs.miss, reject=costs.reject), None


def cheapest(scores: TypeScores, *, miss: float, reject: float) -> float:
    """Returns the threshold of the least expected cost.

    The rates are smoothed first: the cheapest place between a few dozen scores that happened to be seen is mostly
    chance. Each score becomes a small hill of logits, of the width that Silverman's rule of thumb gives (1986, section
    3.4.1). On the train folds of two data sets that brought the cost on frames that were not chosen on down by up
    to 42 %.

    Args:
        miss: Cost of a bad part below the threshold.
        reject: Cost of a good part that reaches it.
    """
    seen = np.concatenate([scores.bad, scores.good])
    found = seen[seen > 0]
    if not len(found):
        return NOTHING_FOUND
    bounds = logit(np.array([found.min(), (found.max() + 1) / 2]))
    places = np.linspace(bounds[0], bounds[1], STEPS)
    below, above = _below(scores.bad, places), 1 - _below(scores.good, places)
    cost = scores.prior * miss * below + (1 - scores.prior) * reject * above
    return float(1 / (1 + np.exp(-places[int(cost.argmin())])))


def logit(scores: Floats) -> Floats:
    """Returns ``ln(p / (1 - p))``, bounded."""
    bounded = np.clip(scores, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(bounded / (1 - bounded)), np.float64)


def _below(scores: Floats, places: Floats) -> Floats:
    """Returns which share of scores lies below each logit, smoothed; a part without a candidate lies below all."""
    found = logit(scores[scores > 0])
    none = len(scores) - len(found)
    width = max(LEAST_WIDTH, 1.06 * float(found.std()) * len(found) ** -0.2) if len(found) else LEAST_WIDTH
    # The logistic curve of this slope is within 0.01 of the normal distribution's.
    share = 1 / (1 + np.exp(-np.clip(1.702 * (places[:, None] - found[None]) / width, -60, 60)))
    return np.asarray((share.sum(axis=1) + none) / max(1, len(scores)), np.float64)


def cost_interval(parts: list[tuple[float, int, int]]) -> tuple[float, float]:
    """Returns the 95 % interval of a sum of weighted shares: each is drawn from what its count leaves likely.

    That is Jeffreys' posterior, Beta(count + ½, of − count + ½). Drawing the parts again would call a share of 0 sure.

    Args:
        parts: ``(weight, count, of)`` each: the cost is the sum of ``weight * count / of``.
    """
    random = np.random.default_rng(SEED)
    total = np.zeros(RESAMPLES)
    for weight, count, of in parts:
        if of:
            total += weight * random.beta(count + 0.5, of - count + 0.5, RESAMPLES)
    low, high = np.quantile(total, (0.025, 0.975))
    return float(low), float(high)
