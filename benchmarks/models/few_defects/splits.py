"""Frames and figures that the benchmarks of few labelled defects share."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.tiles import Ints, Tile, draw, folds
from benchmarks.smoke import scaled
from lineside_models.metrics import auroc

KINDS = scaled(("MT_Blowhole", "MT_Break", "MT_Uneven"), smoke=("MT_Break",))
COUNTS = scaled((10, 25, 50), smoke=(2,))
SEEDS = scaled(5, smoke=1)
PARTS = scaled(3, smoke=2)
GOOD_FRAMES = scaled(150, smoke=12)
TOLERATED = 0.01

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Split:
    """Frames of one division of the tiles.

    Attributes:
        good: Indices of the good frames that are learned.
        candidates: Indices of the bad frames of the same tiles, in the order in which they are labelled.
        judged: Indices of the frames of the other tiles.
    """

    def __init__(self, images: Sequence[Tile], seed: int) -> None:
        numbers = np.array([each.tile for each in images], np.int64)
        good = np.array([not each.kind for each in images])
        others = np.isin(numbers, folds(numbers, PARTS, seed)[0])
        learned = np.flatnonzero(good & ~others)
        self.good: Ints = learned[draw(numbers[learned], GOOD_FRAMES, seed)]
        self.candidates: Ints = np.random.default_rng(seed).permutation(np.flatnonzero(~good & ~others))
        self.judged: Ints = np.flatnonzero(others)


def say(text: str) -> None:
    """Prints progress."""
    print(f"few_defects: {text}", file=sys.stderr, flush=True)


def of_kind(images: Sequence[Tile], chosen: Ints, kind: str) -> Ints:
    """Returns those of the images that show a kind."""
    return np.array([place for place in chosen if images[place].kind == kind], np.int64)


def judged_frames(images: Sequence[Tile], split: Split, kind: str) -> tuple[Ints, Bools]:
    """Returns the judged frames of a kind and the good ones, and which of them are good."""
    chosen = np.array([place for place in split.judged if images[place].kind in ("", kind)], np.int64)
    return chosen, np.array([not images[place].kind for place in chosen])


def rates_of(scores: Floats, good: Bools, hits: Bools) -> dict[str, float]:
    """Returns AUROC, escapes at the tolerated rate, and how many of the strongest regions meet the defect."""
    highest = np.sort(scores[good])[::-1]
    threshold = highest[int(TOLERATED * len(highest))]
    return {
        "auroc": auroc(scores[good], scores[~good]),
        "escapes": float((scores[~good] <= threshold).mean()),
        "met": float(hits.mean()),
    }


def summarize(outcomes: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Returns the mean of each figure over the divisions, and the lowest and highest escapes."""
    found: dict[str, Any] = {
        name: round(statistics.mean(each[name] for each in outcomes), 4) for name in (outcomes[0] if outcomes else ())
    }
    escapes = [round(each["escapes"], 4) for each in outcomes]
    return {**found, "escapes_each": escapes}
