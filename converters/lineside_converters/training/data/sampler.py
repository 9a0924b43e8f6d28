"""Order of the pictures in each epoch, with more frequent sampling of rare types."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def repeat_factors(labels: Sequence[NDArray[np.int64]], threshold: float) -> NDArray[np.float64]:
    """Returns how often each picture comes in an epoch: repeat-factor sampling (Gupta et al., arXiv:1908.03195).

    A type that a share f of the pictures shows has the factor ``max(1, sqrt(threshold / f))``, and a picture the
    largest of its types'.

    Args:
        labels: Types of each picture; one without types counts once.
        threshold: Share from which a type is frequent enough; 0 leaves all factors at 1.
    """
    factors = np.ones(len(labels))
    shown = [set(each.tolist()) for each in labels]
    for label in set().union(*shown):
        of = np.array([label in each for each in shown])
        factors[of] = np.maximum(factors[of], np.sqrt(threshold / of.mean()))
    return factors


class EpochSampler:
    """Order of the pictures, a permutation by seed and epoch."""

    def __init__(self, factors: NDArray[np.float64], seed: int) -> None:
        """Takes how often each picture comes; all epochs have the same length.

        Args:
            factors: ``(N,)``, each 1 or more.
        """
        self._factors, self._seed = factors, seed
        self.length = round(float(factors.sum()))
        self._order = lru_cache(maxsize=16)(self._permutation)

    def __call__(self, number: int) -> int:
        """Returns the index of the ``number``-th picture, counted over all epochs from 0."""
        epoch, place = divmod(number, self.length)
        return int(self._order(epoch)[place])

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._factors)
        rng = np.random.default_rng((self._seed, epoch, count))
        if self.length == count:
            return rng.permutation(count)
        # Systematic sampling: a picture with the factor 1.3 comes once, and twice in three laps of ten.
        ends = np.cumsum(self._factors)
        points = (np.arange(self.length) + rng.random()) * ends[-1] / self.length
        return rng.permutation(np.searchsorted(ends, points, side="right").clip(max=count - 1))
