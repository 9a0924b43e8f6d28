"""Logistic regression: fitted on a host, read from a bundle's manifest on a device."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDS = 50
CHANGE_MIN = 1e-6
"""The fit ends when no weight changes by this much. Weights are rounded to as many digits."""

CURVATURE_MIN = 1e-4
"""The Hessian leaves out rows with a lower curvature: after a few rounds most candidates have a probability near 0. The
gradient has all rows, so the fit ends at the same weights."""


class LogisticModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probability of features: of the weighted sum of them, each brought to mean 0 and deviation 1.

    Attributes:
        bias: Added to the sum.
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        if not len(self.weights) == len(self.means) == len(self.deviations):
            raise ValueError("weights, means and deviations have other lengths")

    def __call__(self, features: Floats) -> Floats:
        """Returns the probabilities ``(N,)`` of features ``(N, F)``.

        Raises:
            ValueError: There are other features than the model was fitted on.
        """
        if features.shape[1:] != (len(self.weights),):
            raise ValueError(f"{features.shape[1:]} features instead of {len(self.weights)}")
        scaled = (features - np.array(self.means)) / np.array(self.deviations)
        return _sigmoid(scaled @ np.array(self.weights) + self.bias)


def fit_logistic(
    features: Floats,
    right: npt.NDArray[np.bool_],
    *,
    penalty: float = 1.0,
    indicator_penalties: Sequence[float] = (),
) -> LogisticModel:
    """Fits the weights by Newton's method, with a penalty on their squares.

    Args:
        features: ``(N, F)``.
        right: ``(N,)``.
        penalty: The larger, the nearer to 0 are the weights.
        indicator_penalties: ``penalty`` of each of the last features, which are 0 or 1 and keep their scale: brought to
            deviation 1, those that hardly any row has would weigh most.
    """
    plain = features.shape[1] - len(indicator_penalties)
    means, deviations = features.mean(0), features.std(0)
    deviations = np.where(deviations < 1e-9, 1.0, deviations)
    deviations[plain:] = 1.0
    inputs = np.concatenate([(features - means) / deviations, np.ones((len(features), 1))], 1)
    penalties = np.full(inputs.shape[1], penalty)
    penalties[plain:-1] = indicator_penalties
    penalties[-1] = 1e-3
    weights = np.zeros(inputs.shape[1])
    for _ in range(ROUNDS):
        shares = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (shares - right) + penalties * weights
        row_curvature = shares * (1 - shares)
        heavy = row_curvature > CURVATURE_MIN
        scaled = inputs[heavy] * np.sqrt(row_curvature[heavy])[:, None]
        curvature = scaled.T @ scaled + np.diag(penalties)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < CHANGE_MIN:
            break
    return LogisticModel(_plain(weights[:-1]), _plain(means), _plain(deviations), round(float(weights[-1]), 6))


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _sigmoid(values: Floats) -> Floats:
    shares: Floats = 1 / (1 + np.exp(-np.clip(values, -40, 40)))
    return shares
