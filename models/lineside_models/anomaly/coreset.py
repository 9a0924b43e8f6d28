"""Coreset selection: greedily, the feature that is farthest from all selected ones.

That is the k-centre greedy selection of PatchCore (Roth et al. 2022, arXiv:2106.08265, section 3.2): rare looks of a
good part stay in the bank, however many features show the common ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PROJECTED = 48
"""Dimensions in which distances are compared while choosing: random projections keep them to about a tenth (Johnson and
Lindenstrauss), at a fraction of the time."""


def choose_spread(features: Floats, count: int, *, seed: int, known: Floats | None = None) -> Ints:
    """Returns the indices of features that cover all others best, each once.

    Args:
        features: ``(N, C)``.
        count: How many; all if there are no more.
        seed: Of the random projection.
        known: ``(N,)``: distance of each to the nearest one that is selected already.
    """
    if count >= len(features):
        return np.arange(len(features))
    places = _projected(features, seed)
    squares = np.einsum("nc,nc->n", places, places)
    nearest = np.full(len(places), np.inf, np.float32) if known is None else np.square(known)
    chosen = np.empty(count, np.int64)
    newest = int(np.argmax(squares if known is None else nearest))  # farthest from zero: nothing is left to chance
    for number in range(count):
        chosen[number] = newest
        np.minimum(nearest, squares - 2 * (places @ places[newest]) + squares[newest], out=nearest)
        nearest[newest] = -np.inf  # each index once, also among equal features
        newest = int(nearest.argmax())
    return chosen


def _projected(features: Floats, seed: int) -> Floats:
    channels = features.shape[1]
    if channels <= PROJECTED:
        return features
    random: Any = np.random.default_rng(seed)
    matrix = random.standard_normal((channels, PROJECTED), np.float32) / np.float32(PROJECTED**0.5)
    return np.asarray(features @ matrix, np.float32)
