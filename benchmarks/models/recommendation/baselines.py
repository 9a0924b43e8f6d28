"""Rankings without a network: popularity, item-kNN, overlap of attributes, and their sum."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lineside_converters.training.recommendation.interactions import Interactions
from lineside_converters.training.recommendation.objective import KINDS, HeldChoices
from lineside_models.recommendation.metrics import user_auc

Floats = npt.NDArray[np.float64]
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Of item-kNN and of overlap in the sum, beside the logarithm of popularity; chosen on the choices for choosing."""

POPULARITY_WEIGHTS = (0.02, 0.05, 0.15, 0.4)
_TIE = 1e-6  # of popularity, so that equal scores are not a coin's


class Baselines:
    """Scores of all simple rankings.

    Args:
        data: What they may know.
    """

    def __init__(self, data: Interactions) -> None:
        count = len(data.items)
        self._popularity = data.popularity().astype(np.float64)
        lengths = [len(rows) for rows in data.chosen]
        users = np.repeat(np.arange(len(lengths)), lengths)
        flat = np.concatenate(data.chosen)
        taken = sparse.csr_matrix((np.ones(len(flat)), (users, flat)), (len(lengths), count))
        taken.data[:] = 1
        norm = sparse.diags(1 / np.sqrt(np.maximum(self._popularity, 1)))
        near = (norm @ (taken.T @ taken) @ norm).tolil()
        near.setdiag(0)
        self._near = near.tocsr()
        numbers = data.attribute_rows
        rows, columns = np.nonzero(numbers)
        size = (count, len(data.attributes) + 1)
        self._described = sparse.csr_matrix((np.ones(len(rows)), (rows, numbers[rows, columns])), size)
        self._given = np.asarray(self._described.sum(1)).ravel()

    def parts(self, history: npt.NDArray[np.int64], candidates: npt.NDArray[np.int64]) -> dict[str, Floats]:
        """Returns the scores ``(n,)`` of one user's candidates by the name of the ranking."""
        popularity = self._popularity[candidates]
        past = history[history >= 0]
        near = np.asarray(self._near[past][:, candidates].sum(0)).ravel()
        shared = (self._described[past] @ self._described[candidates].T).toarray()
        either = self._given[past][:, None] + self._given[candidates][None] - shared
        overlap = (shared / np.maximum(either, 1)).mean(0) if len(past) else np.zeros(len(candidates))
        return {"popularity": popularity, "item_knn": near + _TIE * popularity, "overlap": overlap + _TIE * popularity}

    def score(self, held: HeldChoices) -> dict[str, Floats]:
        """Returns the scores ``(users, C)`` of held choices by the name of the ranking."""
        found = [self.parts(*pair) for pair in zip(held.histories, held.candidates, strict=True)]
        return {name: np.stack([each[name] for each in found]) for name in found[0]}


def summed(scores: Mapping[str, Floats], weights: tuple[float, float, float]) -> Floats:
    """Returns the sum of the rankings by the weights of item-kNN, overlap and the logarithm of popularity."""
    knn, overlap, popular = weights
    return knn * scores["item_knn"] + overlap * scores["overlap"] + popular * np.log1p(scores["popularity"])


def choose_weights(scores: Mapping[str, Floats]) -> tuple[float, float, float]:
    """Returns the weights of `summed` with the highest mean GAUC over both kinds of negatives."""
    grid = itertools.product(WEIGHTS, WEIGHTS, POPULARITY_WEIGHTS)
    return max(grid, key=lambda weights: np.mean([gauc.mean() for gauc in aucs(summed(scores, weights)).values()]))


def aucs(scores: npt.NDArray[np.floating]) -> dict[str, Floats]:
    """Returns the AUC of each user by the kind of negatives."""
    groups = np.split(scores[:, 1:], len(KINDS), axis=1)
    return {kind: user_auc(scores[:, 0], group) for kind, group in zip(KINDS, groups, strict=True)}
