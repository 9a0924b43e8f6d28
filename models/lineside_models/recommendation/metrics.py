"""Accuracy of rankings: AUC over all users, GAUC (its mean over users), hit rate and NDCG."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ranks(chosen: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> Floats:
    """Returns how many of the others are ranked above the chosen item, ``(users,)``; a tie counts half.

    Args:
        chosen: Score of each user's chosen item, ``(users,)``.
        others: Scores of the others, ``(users, n)``; NaN counts as none.
    """
    above = others > chosen[:, None]
    return np.asarray(above.sum(1) + 0.5 * (others == chosen[:, None]).sum(1), np.float64)


def user_auc(chosen: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> Floats:
    """Returns each user's AUC ``(users,)``: the share of the others that are ranked below. GAUC is its mean."""
    found: Floats = 1 - ranks(chosen, others) / others.shape[1]
    return found


def auc(chosen: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> float:
    """Returns the AUC over all users: the chance that a chosen item's score is above another's of any user."""
    negative = np.sort(others.ravel())
    below = np.searchsorted(negative, chosen, "left")
    through = np.searchsorted(negative, chosen, "right")
    return float((below + through).mean() / 2 / len(negative))


def hit_rate(rank: Floats, top: int) -> float:
    """Returns the share of users whose chosen item is among the first ``top``."""
    return float((rank < top).mean())


def ndcg(rank: Floats, top: int) -> float:
    """Returns the normalized discounted cumulative gain of one chosen item a user (Järvelin and Kekäläinen 2002)."""
    return float(np.where(rank < top, 1 / np.log2(rank + 2), 0.0).mean())
