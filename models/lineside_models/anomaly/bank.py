"""Feature bank of one scale: whitening, and a coreset of the features of good frames."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_models.anomaly.coreset import Floats, Ints, choose_spread

SHRINK = 4.0
"""How much of the mean variance is added to each direction's own before features are scaled by it. 0 would whiten them
and blow up noise, more leaves them as they are; chosen on magnetic-tile's train fold with float
features, where 1 was as good within noise."""

CELLS_MAX = 120_000
"""Features that the bank is chosen from: all cells of 300 frames at the finest scale. Of more a part is drawn, which
bounds memory (58 MB for the features) and time."""

CELLS_AT_ONCE = 400
"""Cells that are compared at once: their products with 4096 entries are 6.5 MB, which a processor's cache holds."""

ENTRY_EXTRA_BYTES = 8
"""Beside one byte a channel, an entry has a scale and a squared length, in float32."""


@dataclasses.dataclass(frozen=True, slots=True)
class FeatureBank:
    """Good features of one scale, N of them with C channels, in INT8.

    Attributes:
        whiten: ``(C, C) float32``: features are multiplied by it from the right,
        shift: ``(C,) float32``: and this is added.
        entries: ``(N, C) int8``: the kept ones, each divided by its scale.
        scales: ``(N,) float32``.
        owners: ``(N,)``: the part that each came from.
    """

    whiten: Floats
    shift: Floats
    entries: npt.NDArray[np.int8]
    scales: Floats
    owners: Ints

    @property
    def size_bytes(self) -> int:
        """Size of the entries, with the scale and length of each."""
        return self.entries.size + ENTRY_EXTRA_BYTES * len(self.entries)

    @property
    def vectors(self) -> Floats:
        """``(N, C) float32``: the entries in float, as the search compares them."""
        return np.asarray(self.entries * self.scales[:, None], np.float32)

    def turned(self, features: Floats) -> Floats:
        """Returns features ``(M, C)`` as the bank compares them."""
        return np.asarray(features @ self.whiten + self.shift, np.float32)

    def plus(self, turned: Floats, owner: int) -> FeatureBank:
        """Returns the bank with more entries, which are of one part."""
        entries, scales = _quantized(turned)
        return dataclasses.replace(
            self,
            entries=np.concatenate([self.entries, entries]),
            scales=np.concatenate([self.scales, scales]),
            owners=np.concatenate([self.owners, np.full(len(entries), owner, np.int64)]),
        )

    def distances(self, features: Floats, *, without: int | None = None) -> Floats:
        """Returns how far features ``(M, C)`` are from the nearest entry, ``(M,)``."""
        known = self.vectors
        if without is not None:
            known = known[self.owners != without]
        squares = np.einsum("nc,nc->n", known, known)
        twice = np.concatenate([2 * known.T, -squares[None]]).astype(np.float32)  # one product gives 2 y·b - |b|²
        found = np.empty(len(features), np.float32)
        for start in range(0, len(features), CELLS_AT_ONCE):
            turned = self.turned(features[start : start + CELLS_AT_ONCE])
            products = np.concatenate([turned, np.ones((len(turned), 1), np.float32)], axis=1) @ twice
            nearest = np.einsum("mc,mc->m", turned, turned) - products.max(axis=1, initial=-np.inf)
            found[start : start + CELLS_AT_ONCE] = np.sqrt(np.maximum(nearest, 0))
        return found


def learn_bank(features: Floats, owners: Ints, *, entries: int, seed: int) -> FeatureBank:
    """Chooses a bank.

    Args:
        features: ``(M, C)`` of all cells of all frames.
        owners: ``(M,)``: the part that each is from.
    """
    random: Any = np.random.default_rng(seed)
    if len(features) > CELLS_MAX:
        drawn = np.sort(random.choice(len(features), CELLS_MAX, replace=False))
        features, owners = features[drawn], owners[drawn]
    mean = features.mean(axis=0, dtype=np.float64)
    whiten = _whitening(features, mean)
    shift = np.asarray(-mean @ whiten, np.float32)
    turned = np.asarray(features @ whiten + shift, np.float32)
    chosen = choose_spread(turned, entries, seed=seed)
    kept, scales = _quantized(turned[chosen])
    return FeatureBank(whiten, shift, kept, scales, owners[chosen])


def _quantized(vectors: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Returns vectors ``(N, C)`` in INT8, and the scale of each."""
    scales = np.asarray(np.maximum(np.abs(vectors).max(axis=1), 1e-6) / 127, np.float32)
    return np.asarray(np.round(vectors / scales[:, None]), np.int8), scales


def _whitening(features: Floats, mean: npt.NDArray[np.float64]) -> Floats:
    """Returns ``(C, C)``: along each principal direction, 1 / √(its variance + `SHRINK` of their mean)."""
    centred = features - mean.astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / max(1, len(features) - 1)
    variances, directions = np.linalg.eigh(covariance)
    floor = SHRINK * max(float(variances.mean()), 1e-12)
    return np.asarray(directions / np.sqrt(np.maximum(variances, 0) + floor), np.float32)


def entries_within(budget_bytes: int, channels: tuple[int, ...]) -> int:
    """Returns how many entries each scale may have so that all banks together fit a budget."""
    return budget_bytes // sum(one + ENTRY_EXTRA_BYTES for one in channels)
