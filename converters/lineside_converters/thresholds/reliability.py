"""Reliability of scores as probabilities (Guo et al. 2017, arXiv:1706.04599).

Each frame counts once a type, with its best score. Frames are put into bins by it; in each, the mean score should be
the share of them that really show the type. Low scores, hundreds that are wrong as they claim, would hide all else:
they are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lineside_converters.thresholds.report import Reliability, ScoreBin

FROM_SCORE = 0.1
BINS = 9
LEAST = 30
"""Scores that a type needs for a figure of its own."""

RESAMPLES = 300
SEED = 20

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def reliability(best: Floats, shows: Flags, labels: Sequence[str]) -> Reliability | None:
    """Returns the reliability of scores; ``None`` with fewer than `LEAST` usable ones.

    Args:
        best: ``(F, C)`` best score of each type in each frame, 0 to 1.
        shows: ``(F, C)`` whether each frame shows each type.
    """
    frames, types = np.nonzero(best >= FROM_SCORE)
    scores, right = best[frames, types], shows[frames, types]
    if len(scores) < LEAST:
        return None
    low, high = _interval(scores, right, frames)
    by_type = {
        name: expected_calibration_error(scores[types == label], right[types == label])
        for label, name in enumerate(labels)
        if (types == label).sum() >= LEAST
    }
    return Reliability(
        ece=expected_calibration_error(scores, right),
        low=low,
        high=high,
        candidates=len(scores),
        from_score=FROM_SCORE,
        bins=_bins(scores, right),
        by_type=by_type,
    )


def expected_calibration_error(scores: Floats, right: Flags, weights: Floats | None = None) -> float:
    """Returns the mean distance between score and share that is right, over bins of equal width.

    Args:
        scores: ``(N,)`` from `FROM_SCORE` to 1.
        right: ``(N,)``.
        weights: ``(N,)`` how often each counts; ``None`` for once.
    """
    counted = np.ones(len(scores)) if weights is None else weights
    place = _place(scores)
    claimed = np.bincount(place, scores * counted, BINS)
    true = np.bincount(place, right * counted, BINS)
    return float(np.abs(claimed - true).sum() / counted.sum()) if counted.sum() else 0.0


def _place(scores: Floats) -> npt.NDArray[np.int64]:
    share = (scores - FROM_SCORE) / (1 - FROM_SCORE)
    return np.clip((share * BINS).astype(np.int64), 0, BINS - 1)


def _bins(scores: Floats, right: Flags) -> tuple[ScoreBin, ...]:
    place, width = _place(scores), (1 - FROM_SCORE) / BINS
    return tuple(
        ScoreBin(
            low=round(FROM_SCORE + number * width, 6),
            high=round(FROM_SCORE + (number + 1) * width, 6),
            candidates=int((place == number).sum()),
            score=float(scores[place == number].mean()),
            right=float(right[place == number].mean()),
        )
        for number in range(BINS)
        if (place == number).any()
    )


def _interval(scores: Floats, right: Flags, frames: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Returns the interval: frames are resampled whole, as the types of one aren't independent."""
    random = np.random.default_rng(SEED)
    _, index = np.unique(frames, return_inverse=True)
    count = int(index.max()) + 1
    drawn = []
    for _ in range(RESAMPLES):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        drawn.append(expected_calibration_error(scores, right, times[index].astype(np.float64)))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
