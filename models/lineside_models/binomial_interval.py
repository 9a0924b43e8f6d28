"""Confidence interval of a share."""

from __future__ import annotations

import math
from statistics import NormalDist

from lineside_runtime.errors import BadInputFormatError

CONFIDENCE = 0.95


def wilson(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the ends of Wilson's score interval (Wilson 1927) of ``hits / trials``; (0, 1) where nothing was tried.

    Args:
        hits: How often it happened, 0 to ``trials``.
        trials: How often it could have.
        confidence: That the interval holds the true rate, between 0 and 1.

    Raises:
        BadInputFormatError: A number is out of range.
    """
    if not 0 <= hits <= trials or not 0 < confidence < 1:
        raise BadInputFormatError(
            "a rate",
            expected="0 <= hits <= trials, confidence between 0 and 1",
            actual=(hits, trials, confidence),
            action="",
        )
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = hits / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == trials else min(1.0, middle + half)
