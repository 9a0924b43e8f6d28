"""The threshold of an anomaly model, from good frames alone.

Each frame is scored by a bank without the entries of its part, as if the part were new. The score is the greatest of
many cells' distances, so Gumbel's extreme-value distribution is fitted to the scores, and the threshold is a quantile
of it. It is fitted through two quantiles of the scores, which bad frames among the good ones hardly move. What is
fitted to a few parts is uncertain, and frames of one part are alike: the threshold is the quantile that a new part
stays below with the stated probability given the number of parts (`predictive_shift`). The benchmark ``learn_good``
says how the promise is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import ConfigError, InputError

MEDIAN_SCORE = 0.05
"""Score that half the good frames stay below; 0.5 is the bar."""

SPREAD_MIN = 1e-3
"""Frames whose distances differ by less than this share of them are one picture."""

LOW, HIGH = 0.25, 0.8
"""Quantiles of the frames' scores through which the distribution is fitted: a fifth of the frames may be bad. Chosen
on magnetic-tile without its validation fold, by tile."""

_SAMPLES = 100_000
"""Of parts, which `predictive_shift` draws: its result varies by about a hundredth of itself with the seed."""

_EULER = 0.5772156649
_DEVIATION = math.pi / math.sqrt(6)
"""Standard deviation of Gumbel's distribution of scale 1."""


@dataclasses.dataclass(frozen=True, slots=True)
class AnomalyThreshold:
    """Threshold, and the map from distances to scores.

    Attributes:
        gains: One a scale: a distance becomes ``distance * gain + offset``, in standard deviations of good frames.
        offsets: One a scale.
        left_out: The good frames' sums over the scales, each as if it were new.
        value: The sum that a new good part stays below with probability ``quantile``.
        quantile: That share.
        calibration: ``(a, b)``: the score is ``sigmoid(a * sum + b)``.
    """

    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    left_out: tuple[float, ...]
    value: float
    quantile: float
    calibration: tuple[float, float]


def fit_threshold(
    greatest: npt.NDArray[np.float32],
    parts: npt.NDArray[np.int64],
    quantile: float,
    *,
    weights: Sequence[float] | None = None,
) -> AnomalyThreshold:
    """Fits the threshold.

    Args:
        greatest: ``(frames, scales)``: each frame's distance at each scale, by a bank without its part.
        parts: ``(frames,)``: the part that each frame shows, from 0.
        quantile: Share of good parts that are to stay below the bar, above 0.5 and below 1.
        weights: Weight of each scale in the sum; 1 if not given.

    Raises:
        InputError: All frames are the same picture.
    """
    centres = np.median(greatest, axis=0).astype(np.float64)
    spreads = _DEVIATION * _scale(greatest.astype(np.float64))
    if not (spreads > SPREAD_MIN * np.maximum(centres, SPREAD_MIN)).all():
        raise InputError(
            "the frames are one picture again and again",
            expected="frames of different good parts",
            action="Let parts move past the camera while it takes frames.",
        )
    spreads = spreads / (1 if weights is None else np.asarray(weights))
    sums = ((greatest - centres) / spreads).sum(axis=1)
    middle = float(np.median(sums))
    count = len(np.unique(parts))
    value = robust_gumbel_quantile(sums, quantile) + predictive_shift(quantile, count) * float(_scale(sums))
    steepness = math.log(1 / MEDIAN_SCORE - 1) / (value - middle)
    return AnomalyThreshold(
        gains=tuple((1 / spreads).tolist()),
        offsets=tuple((-centres / spreads).tolist()),
        left_out=tuple(sums.tolist()),
        value=value,
        quantile=quantile,
        calibration=(steepness, -steepness * value),
    )


def robust_gumbel_quantile(greatest: npt.NDArray[np.floating], quantile: float) -> float:
    """Returns the quantile of Gumbel's distribution through two quantiles of ``(N,)`` greatest values."""
    return float(np.quantile(greatest, LOW) + (_standard(quantile) - _standard(LOW)) * _scale(greatest))


@functools.lru_cache
def predictive_shift(quantile: float, parts: int) -> float:
    """Returns by how many scales a fitted quantile is raised so that a new part stays below it as often as it says.

    For parts whose scores follow Gumbel's distribution, whatever its location and scale: how far a new score lies above
    the fitted location, in fitted scales, has a distribution that depends on nothing but the number of parts. It is
    drawn with a fixed seed, and the probability of the new score is integrated.

    Args:
        quantile: Share of good parts that are to stay below, above 0.5 and below 1.
        parts: Number of parts that were fitted to, at least 2: one says nothing of others.
    """
    lows, highs = _drawn_quantiles(parts)
    scales = (highs - lows) / (_standard(HIGH) - _standard(LOW))

    def below(shift: float) -> float:
        reached = lows + (_standard(quantile) + shift - _standard(LOW)) * scales
        return float(np.exp(-np.exp(-reached)).mean())

    high = 1.0
    while below(high) < quantile:
        high *= 2
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < quantile else (low, middle)
    return high


def _drawn_quantiles(parts: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Draws samples of standard Gumbel scores; returns the `LOW` and the `HIGH` quantile of each, as numpy has them.

    Only the order statistics around these are drawn: uniform ones are sums of exponential gaps (Rényi).
    """
    places = np.array((LOW, HIGH)) * (parts - 1)
    before = np.floor(places).astype(int)
    ranks = np.unique(np.minimum([before, before + 1], parts - 1)) + 1
    gaps = np.diff(ranks, prepend=0, append=parts + 1)
    sums = np.random.default_rng(0).standard_gamma(gaps[:, None], (len(gaps), _SAMPLES)).cumsum(axis=0)
    scores = -np.log(-np.log(sums[:-1] / sums[-1]))
    at = np.searchsorted(ranks, before + 1)
    after = np.minimum(at + 1, len(ranks) - 1)
    found = scores[at] + (places - before)[:, None] * (scores[after] - scores[at])
    return found[0], found[1]


def _scale(greatest: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Returns the scale of Gumbel's distribution along the first axis."""
    low, high = np.quantile(greatest, (LOW, HIGH), axis=0)
    return np.asarray((high - low) / (_standard(HIGH) - _standard(LOW)))


def _standard(quantile: float) -> float:
    """Returns the quantile of Gumbel's distribution of location 0 and scale 1."""
    return -math.log(-math.log(quantile))


def gumbel_quantile(greatest: npt.NDArray[np.floating], quantile: float) -> float:
    """Returns the quantile of Gumbel's distribution with the mean and the deviation of ``(N,)`` greatest values."""
    scale = float(greatest.std()) / _DEVIATION
    return float(greatest.mean()) - _EULER * scale + scale * _standard(quantile)


def moved_threshold(threshold: AnomalyThreshold, value: float) -> AnomalyThreshold:
    """Returns a threshold at another sum, such as one that a person chose; all scores move with it.

    Raises:
        ConfigError: Half of the good parts or more would be rejected.
    """
    middle = float(np.median(threshold.left_out))
    if value <= middle:
        raise ConfigError(
            "the threshold", expected=f"above {middle:.3f}, the middle of the good parts", actual=f"{value:.3f}"
        )
    steepness = math.log(1 / MEDIAN_SCORE - 1) / (value - middle)
    return dataclasses.replace(threshold, value=value, calibration=(steepness, -steepness * value))
