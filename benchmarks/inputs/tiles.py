"""Magnetic tiles: every public image of ``magnetic-tile`` and ``magnetic-tile-good``, and its tile."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from lineside_models.datasets.part_images import PartImage, load_part_images, read_mask
from lineside_models.vision.images import image_files, read_image

GAP = 300
"""A new tile begins where the frame number jumps by more. Neighbouring tiles of one session may count as one; photos of
one tile, which were taken at up to seven exposures in a row, never as two."""

PIECE_MIN = 12
"""Pixels of a piece of a mask that gets a box, as in the data set's ``boxes.csv``."""

Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """One image.

    Attributes:
        path: The image file.
        kind: Kind of its defect; empty on a good one.
    """

    path: Path
    kind: str
    mask: Path | None
    tile: int

    def image(self) -> npt.NDArray[np.uint8]:
        """Reads the image."""
        return read_image(self.path)

    def defect(self, side: int) -> npt.NDArray[np.bool_]:
        """Returns where the defect is, ``(side, side)``; a cell that is a defect anywhere is one."""
        if self.mask is None:
            return np.zeros((side, side), np.bool_)
        share = cv2.resize(read_mask(self.mask).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(share > 0)

    def pixels(self) -> npt.NDArray[np.bool_]:
        """Returns where the defect is, by pixel of the image."""
        return np.zeros(self.image().shape[:2], np.bool_) if self.mask is None else read_mask(self.mask)

    def boxes(self) -> npt.NDArray[np.float32]:
        """Returns a box ``(N, 4)`` around each piece of the mask of 12 pixels or more, as a person would draw them."""
        if self.mask is None:
            return np.zeros((0, 4), np.float32)
        facts = cv2.connectedComponentsWithStats(read_mask(self.mask).astype(np.uint8), connectivity=8)[2][1:]
        kept = facts[facts[:, cv2.CC_STAT_AREA] >= PIECE_MIN, :4]
        return np.concatenate([kept[:, :2], kept[:, :2] + kept[:, 2:]], axis=1).astype(np.float32)


def tiles() -> list[Tile]:
    """Returns the images, in the order of their numbers."""
    found = [(part.path, "" if part.good else part.kind, part.mask) for part in _main()]
    found += [(path, "", None) for path in image_files(shared("magnetic-tile-good") / "Imgs")]
    found.sort(key=lambda each: (_number(each[0]), each[0].name))
    numbers = [_number(path) for path, _, _ in found]
    starts = np.cumsum([0, *(after - before > GAP for before, after in itertools.pairwise(numbers))])
    return [Tile(*each, tile=int(tile)) for each, tile in zip(found, starts, strict=True)]


def folds(numbers: Ints, count: int, seed: int) -> list[Ints]:
    """Divides tiles into folds; returns the tiles of each."""
    drawn = np.random.default_rng(seed).permutation(np.unique(numbers))
    return [np.asarray(each, np.int64) for each in np.array_split(drawn, count)]


def draw(numbers: Ints, frames: int, seed: int) -> Ints:
    """Returns the indices of the frames of so many whole tiles, drawn at random, that they are about ``frames``."""
    chosen: list[int] = []
    for tile in np.random.default_rng(seed).permutation(np.unique(numbers)):
        mine = np.flatnonzero(numbers == tile).tolist()
        if len(chosen) + len(mine) > frames:
            break
        chosen += mine
    return np.sort(np.array(chosen, np.int64))


def _main() -> Sequence[PartImage]:
    return load_part_images(shared("magnetic-tile")).images


def _number(path: Path) -> int:
    found = re.search(r"num_(\d+)", path.stem)
    return int(found[1]) if found else 0
