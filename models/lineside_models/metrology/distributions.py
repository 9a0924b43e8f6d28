"""What studies and drift detection need of distributions. Devices have no scipy."""

from __future__ import annotations

import functools
import math

import numpy as np

_SMALL = 1e-300
_STEP = 0.02
_GRID = np.arange(-400, 401) * _STEP


def f_tail(f: float, df: int, df_against: int) -> float:
    """Returns the probability of an F value of at least ``f``."""
    if f <= 0:
        return 1.0
    return beta_share(df_against / 2, df / 2, df_against / (df_against + df * f))


def beta_share(a: float, b: float, x: float) -> float:
    """Returns the regularised incomplete beta function by its continued fraction (NIST DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, 500):  # Lentz's method
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _apart(1 + term * d)
            c = _apart(1 + term / c)
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return min(1.0, front * total)


def _apart(value: float) -> float:
    return value if abs(value) > _SMALL else _SMALL


@functools.cache
def mean_range(count: int) -> float:
    """Returns the mean range of ``count`` standard normal values, d2 of the control charts."""
    below = _normal_share()
    return float((1 - (1 - below) ** count - below**count).sum() * _STEP)


@functools.cache
def mean_square_range(count: int) -> float:
    """Returns the mean square of the range of ``count`` standard normal values; its root is d2* for one subgroup."""
    below = _normal_share()
    low, high = below[:, None], below[None, :]
    missed = 1 - high**count - (1 - low) ** count + np.maximum(high - low, 0) ** count
    return 2 * float((np.triu(missed, 1).sum() + np.trace(missed) / 2) * _STEP**2)


def _normal_share() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in _GRID])
