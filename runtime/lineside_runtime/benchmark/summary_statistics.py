"""Percentiles, ratios of paired rounds with intervals, and a measure of noise.

Percentiles are nearest-rank: each is a time that was really measured. Written here because numpy interpolates between
ranks, and the standard library's ``quantiles`` reaches outside of what it was given.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

NOISY_IQR = 0.15
"""Interquartile range, as a share of the median, above which times are called noisy."""

NOISY_DRIFT = 0.10
"""Difference between the first and the last third of the rounds, as a share, above which they are said to drift."""

P99_CALLS = 100
"""With fewer calls than this the 99th percentile is nothing but the slowest call."""

_Z95 = 1.959964
"""Two-sided 95 % of the normal distribution."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class LatencySummary(_Strict, frozen=True, kw_only=True):
    """Milliseconds of one call.

    Attributes:
        p25: Lower quartile.
        p50: Median.
        p75: Upper quartile.
        iqr: Range of the middle half, ``p75 - p25``.
        mad: Median of the distances from the median.
    """

    calls: int
    mean: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float
    slowest: float
    iqr: float
    mad: float


class Ratio(_Strict, frozen=True, kw_only=True):
    """How one compares with another, by the ratio of each round: what stays true when the machine's speed drifts.

    Attributes:
        median: Of the rounds' ratios; below 1 is less than the other.
        low: Lower end of the median's 95 % interval.
        high: Upper end.
        p5: 5th percentile of the rounds' ratios.
        differs: Whether the interval leaves 1 out.
    """

    median: float
    low: float
    high: float
    p5: float
    p95: float
    rounds: int
    differs: bool


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the nearest-rank percentile of sorted values; ``share`` is 0 to 1."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency(times_ms: Sequence[float]) -> LatencySummary:
    """Returns the figures of at least one time."""
    ordered = sorted(times_ms)
    lower, median, upper = (percentile(ordered, share) for share in (0.25, 0.5, 0.75))
    return LatencySummary(
        calls=len(ordered),
        mean=statistics.fmean(ordered),
        p5=percentile(ordered, 0.05),
        p25=lower,
        p50=median,
        p75=upper,
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        slowest=ordered[-1],
        iqr=upper - lower,
        mad=percentile(sorted(abs(time - median) for time in ordered), 0.5),
    )


def ratio(of: Sequence[float], to: Sequence[float]) -> Ratio:
    """Compares two lists, one value a round.

    The interval is that of the sign test: the order statistics between which the median lies with 95 % (normal
    approximation of the binomial), whatever the distribution is. With fewer than 6 rounds it is the whole range, which
    holds the median with less than 95 %.
    """
    ordered = sorted(a / b for a, b in zip(of, to, strict=True))
    count = len(ordered)
    half = _Z95 * math.sqrt(count) / 2
    low = ordered[max(0, math.floor(count / 2 - half))]
    high = ordered[min(count - 1, math.ceil(count / 2 + half))]
    return Ratio(
        median=statistics.median(ordered),
        low=low,
        high=high,
        p5=percentile(ordered, 0.05),
        p95=percentile(ordered, 0.95),
        rounds=count,
        differs=not low <= 1 <= high,
    )


def interquartile_mean(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of the middle half, and its standard error; that of a single value is not known: ``inf``.

    It uses more of the values than the median does, and an outlier moves it as little. The error is Yuen's (1974), from
    the values with each outer quarter drawn in to the middle half.
    """
    ordered, outer = sorted(values), len(values) // 4
    middle = ordered[outer : len(ordered) - outer]
    mean, count = statistics.fmean(middle), len(middle)
    if len(ordered) == 1:
        return mean, math.inf
    drawn_in = [middle[0]] * outer + middle + [middle[-1]] * outer
    return mean, statistics.stdev(drawn_in) * math.sqrt((len(ordered) - 1) / (count * (count - 1)))


def noise(times: LatencySummary, turns_ms: Sequence[float]) -> tuple[str, ...]:
    """Returns why the times are not to be trusted to the last digit; empty if they are calm."""
    reasons = []
    if times.iqr > NOISY_IQR * times.p50:
        reasons.append(f"noisy: the middle half of the calls is spread over {times.iqr / times.p50:.0%} of the median")
    third = len(turns_ms) // 3
    if third:
        drift = statistics.median(turns_ms[-third:]) / statistics.median(turns_ms[:third]) - 1
        if abs(drift) > NOISY_DRIFT:
            reasons.append(f"drifts: the last third of the rounds took {drift:+.0%} against the first")
    if times.calls < P99_CALLS:
        reasons.append(f"few calls: of {times.calls}, the 99th percentile is the slowest one")
    return tuple(reasons)
