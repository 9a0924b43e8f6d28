"""``decision.json``: the result of a choice of thresholds. Costs are a part, in the user's own unit."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from lineside_converters.gates.statistics import interval_of_share
from lineside_models.metrics import wilson


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ThresholdRate(_Strict, frozen=True, kw_only=True):
    """A share with its 95 % interval: Wilson's, or wider where several frames show one part (`interval_of_share`).

    Attributes:
        share: ``count / of``; 0 of nothing.
        low: Lower end of the interval.
    """

    count: int
    of: int
    share: float
    low: float
    high: float


def rate(count: int, of: int) -> ThresholdRate:
    """Returns a share of frames with its interval, as if each showed another part."""
    return _rate(count, of, wilson(count, of))


def rate_of_parts(hits: npt.NDArray[np.bool_], parts: npt.ArrayLike) -> ThresholdRate:
    """Returns a share of frames ``(F,)`` with its interval, by the part that each shows ``(F,)``."""
    return _rate(int(hits.sum()), len(hits), interval_of_share(hits, parts))


def _rate(count: int, of: int, ends: tuple[float, float]) -> ThresholdRate:
    return ThresholdRate(count=count, of=of, share=count / of if of else 0.0, low=ends[0], high=ends[1])


class ThresholdPoint(_Strict, frozen=True, kw_only=True):
    """One threshold of a type's curve.

    Attributes:
        threshold: Calibrated score.
        cost: Expected, a part, of this type alone and without reviews.
        cost_low: Lower end of its 95 % interval.
        miss: Share of the bad parts below it.
        miss_low: Lower end of its 95 % interval.
        false_reject: Share of the good parts that reach it.
        false_reject_low: Lower end of its 95 % interval.
    """

    threshold: float
    cost: float
    cost_low: float
    cost_high: float
    miss: float
    miss_low: float
    miss_high: float
    false_reject: float
    false_reject_low: float
    false_reject_high: float


class TypeDecision(_Strict, frozen=True, kw_only=True):
    """Threshold of one type.

    Attributes:
        threshold: From here on a candidate is a defect.
        unsure_from: From here on a part is unsure; ``None`` without a band.
        was: The bundle's own threshold.
        kept: Why the bundle's own threshold was kept; empty if one was chosen.
        prior: Share of all parts that are bad by this type.
        miss: Bad parts of this type in which nothing of it reaches the threshold (or, with a band, its lower end).
        false_reject: Good parts that reach the threshold.
        unsure: Good parts in the band.
        miss_was: As ``miss``, at the bundle's own threshold.
        false_reject_was: As ``false_reject``, at the bundle's own threshold.
        curve: Cost and rates over the thresholds; empty if the type was kept.
    """

    type: str
    threshold: float
    unsure_from: float | None
    was: float
    kept: str = ""
    prior: float
    miss: ThresholdRate
    false_reject: ThresholdRate
    unsure: ThresholdRate
    miss_was: ThresholdRate
    false_reject_was: ThresholdRate
    curve: tuple[ThresholdPoint, ...] = ()


class ThresholdOutcome(_Strict, frozen=True, kw_only=True):
    """What one set of thresholds does to whole parts.

    Attributes:
        missed: Bad parts that pass, whatever their type.
        missed_types: The same of each type on each bad part, as if it alone made it bad: what the cost counts.
        unsure_bad: Bad parts of which the verdict is unsure.
        false_rejects: Good parts that are rejected; ``None`` where nothing could stand for one.
        unsure_good: Good parts of which the verdict is unsure; likewise.
        cost: Expected, a part; ``None`` where nothing could stand for a good part.
        cost_low: Lower end of its 95 % interval.
    """

    missed: ThresholdRate
    missed_types: ThresholdRate
    unsure_bad: ThresholdRate
    false_rejects: ThresholdRate | None
    unsure_good: ThresholdRate | None
    cost: float | None
    cost_low: float | None
    cost_high: float | None


class ScoreBin(_Strict, frozen=True, kw_only=True):
    """Candidates of similar scores.

    Attributes:
        right: The share of them that is right.
    """

    low: float
    high: float
    candidates: int
    score: float
    right: float


class Reliability(_Strict, frozen=True, kw_only=True):
    """Whether scores are the probabilities that they claim to be.

    Attributes:
        ece: Expected calibration error: mean distance of score and share that shows the type (Guo et al. 2017).
        low: Lower end of its 95 % interval, frames drawn again.
        candidates: How many scores were looked at: the best of each type in each frame.
        from_score: Least of these scores.
        bins: Score against share that shows the type.
        by_type: ``ece`` of each type with enough scores.
    """

    ece: float
    low: float
    high: float
    candidates: int
    from_score: float
    bins: tuple[ScoreBin, ...]
    by_type: dict[str, float] = {}


class ThresholdReport(_Strict, frozen=True, kw_only=True):
    """Result of `decide`.

    Attributes:
        bundle: ``name@version`` that was scored.
        digest: sha256 of its manifest.
        frames_from: Which frames were scored, and what the model knew of them.
        bad_parts: How many frames show a defect.
        good_parts: How many show none, by source; where they are too few, bad ones beside their defects stand in.
        miss_cost: Cost of a bad part that passes.
        reject_cost: Cost of a good part that is rejected.
        review_cost: Cost of a person's look at an unsure part; ``None`` if there is none.
        bad_share: Share of the parts that are bad, as the caller said.
        tolerated: Share of the good parts that may be rejected, where the caller said that instead of costs; the costs
            are those that lead to it.
        parts: How many parts, boards or tiles the frames show.
        types: By type, in the bundle's order.
        before: The bundle's own thresholds on these frames.
        after: The chosen ones on the frames that they were chosen on: too good.
        cross_fold: Thresholds chosen on four fifths of the parts, on the other fifth, in turn: what to expect.
        reliability: Reliability of the scores; ``None`` where no candidate has a score worth looking at.
        notes: Limits of these figures.
    """

    schema: int = 1
    bundle: str
    digest: str
    data: tuple[str, ...]
    fold: str
    frames_from: str
    bad_parts: int
    good_parts: dict[str, int]
    miss_cost: float
    reject_cost: float
    review_cost: float | None
    bad_share: float
    tolerated: float | None = None
    parts: int = 0
    types: tuple[TypeDecision, ...]
    before: ThresholdOutcome
    after: ThresholdOutcome
    cross_fold: ThresholdOutcome
    reliability: Reliability | None
    notes: tuple[str, ...]
