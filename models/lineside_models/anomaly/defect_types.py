"""Types of marked defects: which marked type a cell looks like, by linear discriminant analysis.

Means of the types and one covariance within all of them need no steps of training, and hold with a handful of marked
parts. The covariance is shrunk towards its mean variance, as there are fewer cells than channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lineside_models.anomaly.coreset import Floats, Ints

SHRINK = 1.0
"""Variance that is added to each channel, as a share of their mean variance."""

UNTYPED = -1
"""Type of a cell of which nobody has said one."""


@dataclasses.dataclass(frozen=True, slots=True)
class TypeHead:
    """Linear discriminants of K types, for joined features of C channels.

    Attributes:
        weights: ``(C, K) float32``.
        bias: ``(K,) float32``.
    """

    names: tuple[str, ...]
    weights: Floats
    bias: Floats

    def values(self, joined: Floats) -> Floats:
        """Returns each type's value at each cell of ``(..., C)``, ``(..., K)``: the greatest is the likeliest."""
        return np.asarray(joined @ self.weights + self.bias, np.float32)


def fit_types(cells: Sequence[Floats], types: Sequence[Ints], names: Sequence[str]) -> TypeHead | None:
    """Fits the discriminants; ``None`` if no cell has a type. All types count the same, whatever their frequency.

    Args:
        cells: ``(cells, C)`` a bad frame: joined features of its defects. Frames count the same.
        types: ``(cells,)`` a bad frame: index into ``names``, or `UNTYPED`.
        names: Of the types; those that no cell shows are left out.
    """
    shares = np.concatenate([np.full(len(each), 1 / len(each)) for each in cells])
    rows, numbers = np.concatenate(cells).astype(np.float64), np.concatenate(types)
    shown = [number for number in range(len(names)) if (numbers == number).any()]
    if not shown:
        return None
    means = np.stack([np.average(rows[numbers == n], axis=0, weights=shares[numbers == n]) for n in shown])
    within, total = np.zeros((rows.shape[1],) * 2), 0.0
    for mean, number in zip(means, shown, strict=True):
        mine = numbers == number
        apart = (rows[mine] - mean) * np.sqrt(shares[mine])[:, None]
        within, total = within + apart.T @ apart, total + float(shares[mine].sum())
    within /= total
    within += (SHRINK * max(float(np.trace(within)) / len(within), 1e-6)) * np.eye(len(within))
    weights = np.linalg.solve(within, means.T)
    bias = -np.einsum("kc,ck->k", means, weights) / 2
    return TypeHead(tuple(names[n] for n in shown), np.asarray(weights, np.float32), np.asarray(bias, np.float32))
