"""How well scores put bad parts above good ones: AUROC."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import InputError


def auroc(good: npt.ArrayLike, bad: npt.ArrayLike) -> float:
    """Returns the area under the receiver operating characteristic, 0.5 for chance and 1 for perfect.

    By Mann and Whitney's U: the share of pairs of a good and a bad one in which the bad one has the higher score; pairs
    with equal scores count half.

    Args:
        good: Scores of good ones, in any shape.
        bad: Scores of bad ones, in any shape.

    Raises:
        InputError: There are none of one kind, or a score is no number.
    """
    low, high = np.sort(np.asarray(good, np.float64).ravel()), np.asarray(bad, np.float64).ravel()
    if not low.size or not high.size or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            "AUROC needs scores of good and of bad ones",
            expected="at least one of each, all finite",
            actual=f"{low.size} good and {high.size} bad",
        )
    below = np.searchsorted(low, high, side="left").sum()
    upto = np.searchsorted(low, high, side="right").sum()
    return float((below + upto) / 2 / (low.size * high.size))
