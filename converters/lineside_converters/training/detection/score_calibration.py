"""Score calibration: raw scores to probabilities that the defect is there, and a threshold for each defect type.

A detector's score is trained towards the overlap of its box, so that a sure find of a defect without clear edges, such
as crazing, stays far below 0.9. A monotone map per label (Platt 1999) is fitted to the best find of each image, which
decides the verdict: of the images in which a type scores 0.9, nine of ten show it. scikit-learn has this as well and
would be one more dependency for two parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 15  # images with and without it, each, that a label needs for a map of its own; below, all labels share one
_RIDGE = 1e-2
_FLOOR = 1e-4
_STEPS = 50
_LEAST_SLOPE = 0.1  # a map must rise: a higher raw score is never a lower probability


@dataclass(frozen=True, slots=True)
class CalibrationFinds:
    """All detections on the held-out images.

    Attributes:
        scores: ``(N,)`` raw, 0 to 1.
        labels: ``(N,) int64``.
        right: ``(N,) bool``: the box overlaps a true one of its label, not yet found, by half or more.
        images: ``(N,) int64`` number of the image.
        present: ``(I, C) bool``: which types each image really shows.
        truths: ``(C,) int64``: how many true boxes of each label there are.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    images: NDArray[np.int64]
    present: NDArray[np.bool_]
    truths: NDArray[np.int64]

    @property
    def best(self) -> NDArray[np.float64]:
        """``(I, C)`` best raw score of each label in each image; 0 where nothing was found."""
        best = np.zeros(self.present.shape)
        np.maximum.at(best, (self.images, self.labels), self.scores)
        return best


def logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns ln(p / (1 - p)), bounded."""
    bounded = np.clip(scores, _FLOOR, 1 - _FLOOR)
    return np.log(bounded / (1 - bounded))


def apply_map(scores: NDArray[np.float64], pair: tuple[float, float]) -> NDArray[np.float64]:
    """Returns the calibrated scores under ``sigmoid(a × logit + b)``."""
    return 1 / (1 + np.exp(-(pair[0] * logit(scores) + pair[1])))


def raw_score(score: float, pair: tuple[float, float]) -> float:
    """Returns the raw score that a map takes to a calibrated one: the inverse of `apply_map`."""
    return float(1 / (1 + np.exp(-(logit(np.array(score)) - pair[1]) / pair[0])))


def fit_map(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Fits ``(a, b)`` by Newton's method with a small ridge towards (1, 0); ``a`` stays above 0.1.

    Args:
        scores: ``(N,)`` raw.
        right: ``(N,) bool``.
    """
    x = np.stack([logit(scores), np.ones(len(scores))], 1)
    # Platt's own targets, which keep a separable set from running to infinity.
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    wanted = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    start = np.array([1.0, 0.0])
    theta = start.copy()
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ theta, -30, 30)))
        gradient = x.T @ (p - wanted) + _RIDGE * (theta - start)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        theta -= np.clip(move, -1, 1)
        if np.abs(move).max() < 1e-8:
            break
    if theta[0] >= _LEAST_SLOPE:
        return float(theta[0]), float(theta[1])
    return _LEAST_SLOPE, _offset(x[:, 0], wanted)


def _offset(logits: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Returns the ``b`` that makes the mean probability right where the slope is at its least (bisection)."""
    low, high = -30.0, 30.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if np.mean(1 / (1 + np.exp(-(_LEAST_SLOPE * logits + middle)))) > wanted.mean():
            high = middle
        else:
            low = middle
    return (low + high) / 2


def calibrate(best: NDArray[np.float64], present: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Fits a map for every label; labels with too few images of either kind share one fitted to all.

    Args:
        best: ``(I, C)`` best raw score of each label in each image; 0, which counts for nothing, where nothing was
            found.
        present: ``(I, C)`` which labels each image really shows.

    Returns:
        ``(a, b)`` per label.
    """
    found = best > 0
    if not found.any():
        return tuple((1.0, 0.0) for _ in best.T)
    shared = fit_map(best[found], present[found])
    maps = []
    for scores, shown in zip(best.T, present.T, strict=True):
        scores, shown = scores[scores > 0], shown[scores > 0]
        enough = min(shown.sum(), (~shown).sum()) >= MIN_SIDE
        maps.append(fit_map(scores, shown) if enough else shared)
    return tuple(maps)


def apply_maps(best: NDArray[np.float64], maps: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Returns ``(I, C)`` calibrated scores of raw ones; 0 stays 0."""
    columns = [apply_map(scores, pair) for scores, pair in zip(best.T, maps, strict=True)]
    return np.where(best > 0, np.stack(columns, 1), 0.0)


def choose_thresholds(finds: CalibrationFinds, maps: tuple[tuple[float, float], ...]) -> tuple[float, ...]:
    """Chooses per label the calibrated score with the best mean of two F1: of the images and of the boxes.

    The images' alone (does this image show this type?) would take one find of a hundred for granted where every image
    shows something, and fill clean parts with false boxes; the boxes' alone would miss parts for a loose outline. Of a
    plateau of equally good values the middle is taken. A label that no held-out image shows gets 0.5.

    Returns:
        One threshold per label.
    """
    return tuple(_threshold(finds, label, pair) for label, pair in enumerate(maps))


def _threshold(finds: CalibrationFinds, label: int, pair: tuple[float, float]) -> float:
    present = finds.present[:, label]
    if not present.any():
        return 0.5
    of = finds.labels == label
    sure, right = apply_map(finds.scores[of], pair), finds.right[of]
    best = np.zeros(len(present))
    np.maximum.at(best, finds.images[of], sure)
    edges = np.unique(np.concatenate([sure, [0.0, 1.0]]))
    middles = (edges[1:] + edges[:-1]) / 2
    truths = int(finds.truths[label])
    scores = np.array([_f1(present, best >= t) + _box_f1(right[sure >= t], truths) for t in middles])
    winners = np.flatnonzero(scores >= scores.max() - 1e-9)
    return float(middles[winners[len(winners) // 2]])


def _f1(present: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    both = (present & found).sum()
    return float(2 * both / max(1, present.sum() + found.sum()))


def _box_f1(right: NDArray[np.bool_], truths: int) -> float:
    return float(2 * right.sum() / max(1, len(right) + truths))
