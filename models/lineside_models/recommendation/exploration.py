"""Exploration: some other items than the best are shown now and then, with the probability of each choice.

Places are filled one by one, each by a draw from the softmax of the scores of what is left (the Plackett-Luce model).
The probability of each draw is what later evaluation of another model needs (inverse propensity scoring).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def draw_order(
    scores: npt.NDArray[np.float32], top: int, temperature: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns the places of the shown items in their order, and the probability of each draw given those before.

    Args:
        scores: ``(n,)``.
        temperature: Above 0; a score that is lower by this much is e times less likely.
    """
    logits = scores.astype(np.float64) / temperature
    order = np.argsort(-(logits + rng.gumbel(size=len(logits))), kind="stable").astype(np.int64)
    # Summed from the last place on, as logarithms: what is left beside a far better item would cancel in a difference.
    left = np.logaddexp.accumulate(logits[order][::-1])[::-1]
    return order[:top], np.exp(logits[order] - left)[:top]
