"""The threshold of an anomaly model, from good frames alone.

Each frame is scored by a bank without the entries of its part, as if the part were new. The score of a part is the
greatest of many cells' distances in its frames, so Gumbel's extreme-value distribution is fitted to it (by its
moments), and the threshold is a quantile of that. It is fitted to parts, as frames of one part are alike: frames would
promise too few rejects of new parts. The benchmark ``learn_good`` says how the promise is kept.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import InputError

MEDIAN_SCORE = 0.05
"""Score that half the good frames stay below; 0.5 is the bar."""

SPREAD_MIN = 1e-3
"""Frames whose distances differ by less than this share of them are one picture."""

STRANGE_QUANTILE = 0.999
"""Parts beyond this quantile of the good ones look bad."""

STRANGE_SHARE = 0.05
"""At most this share of the parts is left out as bad: more of them is no accident."""

_EULER = 0.5772156649


@dataclasses.dataclass(frozen=True, slots=True)
class AnomalyThreshold:
    """Threshold, and the map from distances to scores.

    Attributes:
        gains: One a scale: a distance becomes ``distance * gain + offset``, in standard deviations of good frames.
        offsets: One a scale.
        left_out: The good frames' sums over the scales, each as if it were new.
        value: The sum that a share of ``quantile`` of good parts stays below.
        quantile: That share.
        calibration: ``(a, b)``: the score is ``sigmoid(a * sum + b)``.
    """

    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    left_out: tuple[float, ...]
    value: float
    quantile: float
    calibration: tuple[float, float]


def strange_parts(greatest: npt.NDArray[np.float32], parts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the parts that look bad among good ones: at most `STRANGE_SHARE` of them.

    Gumbel's distribution is fitted by the quartiles, which bad parts hardly move; a part beyond `STRANGE_QUANTILE` of
    it looks bad.

    Args:
        greatest: ``(frames, scales)``: as for `fit_threshold`.
        parts: ``(frames,)``: the part that each frame shows, from 0.
    """
    low, centres, high = np.percentile(greatest, (25, 50, 75), axis=0)
    strangest = _by_part(((greatest - centres) / np.maximum(high - low, SPREAD_MIN)).sum(axis=1), parts)
    first, third = np.percentile(strangest, (25, 75))
    scale = float(third - first) / (math.log(math.log(4)) - math.log(math.log(4 / 3)))
    limit = float(first) + scale * (math.log(math.log(4)) - math.log(-math.log(STRANGE_QUANTILE)))
    order = np.argsort(-strangest, kind="stable")[: int(STRANGE_SHARE * len(strangest))]
    return np.asarray(order[strangest[order] > limit], np.int64)


def _by_part(sums: npt.NDArray[np.float64], parts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the greatest sum of each part."""
    strangest = np.full(int(parts.max()) + 1, -np.inf)
    np.maximum.at(strangest, parts, sums)
    return strangest


def fit_threshold(greatest: npt.NDArray[np.float32], parts: npt.NDArray[np.int64], quantile: float) -> AnomalyThreshold:
    """Fits the threshold.

    Args:
        greatest: ``(frames, scales)``: each frame's distance at each scale, by a bank without its part.
        parts: ``(frames,)``: the part that each frame shows, from 0.
        quantile: Share of good parts that are to stay below the bar, above 0.5 and below 1.

    Raises:
        InputError: All frames are the same picture.
    """
    centres = np.median(greatest, axis=0).astype(np.float64)
    spreads = greatest.std(axis=0, dtype=np.float64)
    if not (spreads > SPREAD_MIN * np.maximum(centres, SPREAD_MIN)).all():
        raise InputError(
            "the frames are one picture again and again",
            expected="frames of different good parts",
            action="Let parts move past the camera while it takes frames.",
        )
    sums = ((greatest - centres) / spreads).sum(axis=1)
    middle = float(np.median(sums))
    value = gumbel_quantile(_by_part(sums, parts), quantile)
    steepness = math.log(1 / MEDIAN_SCORE - 1) / (value - middle)
    return AnomalyThreshold(
        gains=tuple((1 / spreads).tolist()),
        offsets=tuple((-centres / spreads).tolist()),
        left_out=tuple(sums.tolist()),
        value=value,
        quantile=quantile,
        calibration=(steepness, -steepness * value),
    )


def gumbel_quantile(greatest: npt.NDArray[np.floating], quantile: float) -> float:
    """Returns the quantile of Gumbel's distribution with the mean and the deviation of ``(N,)`` greatest values."""
    scale = float(greatest.std()) * math.sqrt(6) / math.pi
    return float(greatest.mean()) - _EULER * scale - scale * math.log(-math.log(quantile))
