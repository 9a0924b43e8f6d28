"""The train fold of a data set divided among plants: folders with ``boxes.csv`` and links to the images, or tiles."""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from benchmarks.inputs.data import shared
from lineside_models.datasets import Sample, load_dataset
from lineside_models.labels import PCB, STEEL
from lineside_models.simulator import Kind

PLANTS = 3
TRIES = 16


class Frames(msgspec.Struct, frozen=True, kw_only=True):
    """A data set that plants share.

    Attributes:
        data: Its name.
        simulated: Kind of the line simulator's frames that the first weights have seen.
        labels: Its six types.
        tile_px: Side of the tiles that its images are cut into; 0 for whole images.
    """

    data: str
    simulated: Kind
    labels: tuple[str, ...]
    tile_px: int = 0

    @property
    def lacked(self) -> tuple[tuple[str, ...], ...]:
        """Types whose frames a plant does not have, in the split by type."""
        return tuple(self.labels[2 * number : 2 * number + 2] for number in range(PLANTS))


STRIPS = Frames(data="neu-det", simulated="steel", labels=STEEL)
BOARDS = Frames(data="deeppcb", simulated="pcb", labels=PCB, tile_px=128)
"""Tiles as large as the network's input: a defect has 38 pixels there (median), and 8 if the whole board is seen."""


def write_plants(folder: Path, frames: Frames, split: str) -> list[Path]:
    """Writes a folder for each plant; done once."""
    parts: list[list[Sample]] = [[] for _ in range(PLANTS)]
    labels, samples = _read(folder, frames, "train")
    taken: dict[tuple[int, ...], dict[str, int]] = {}
    for sample in sorted(samples, key=lambda each: hashlib.sha256(each.path.name.encode()).hexdigest()):
        types = {labels[int(label)] for label in sample.labels}
        able = tuple(n for n in range(PLANTS) if split == "by part" or not types & set(frames.lacked[n]))
        if able:  # an image of types that each plant lacks one of stays out
            turns = taken.setdefault(able, {})  # tiles of a board go to the same plant
            parts[able[turns.setdefault(sample.part_id, len(turns)) % len(able)]].append(sample)
    return [_write(folder / f"plant-{number}", part, labels) for number, part in enumerate(parts)]


def write_all(folder: Path, frames: Frames, fold: str) -> Path:
    """Writes a whole fold as one folder of training data; done once."""
    labels, samples = _read(folder, frames, fold)
    return _write(folder, samples, labels)


def _read(folder: Path, frames: Frames, fold: str) -> tuple[Sequence[str], Sequence[Sample]]:
    """Returns the labels and the samples of a fold; of boards the tiles, which are written beside the folder."""
    dataset = load_dataset(shared(frames.data), fold)
    if not frames.tile_px:
        return dataset.vocabulary, dataset.samples
    tiles = folder.parent / f"tiles-{fold}"
    tiles.mkdir(parents=True, exist_ok=True)
    return dataset.vocabulary, [tile for each in dataset.samples for tile in _tiles(each, tiles, frames.tile_px)]


def _tiles(sample: Sample, folder: Path, side: int) -> list[Sample]:
    """Cuts tiles with defects out of a board. A defect is in one tile at most, and no tile cuts one."""
    image = cv2.imread(str(sample.path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise FileNotFoundError(sample.path)
    left = np.ones(len(sample.boxes), bool)
    room = np.array([image.shape[1], image.shape[0]]) - side
    found = []
    rng = np.random.default_rng(zlib.crc32(sample.part_id.encode()))
    for number, box in enumerate(sample.boxes):
        centred = (box[:2] + box[2:] - side) / 2
        for offset in rng.uniform(-side / 3, side / 3, (TRIES, 2)):
            if not left[number]:
                break
            corner = np.clip(centred + offset, 0, room).astype(int)
            seen = np.clip(sample.boxes - np.tile(corner, 2), 0, side)
            touched = (seen[:, 2:] > seen[:, :2]).all(axis=1)
            if (touched & ~left).any() or not np.array_equal(seen[touched] + np.tile(corner, 2), sample.boxes[touched]):
                continue
            left &= ~touched
            path = folder / f"{sample.path.stem}-{number}.png"
            if not path.exists():
                x, y = corner
                cv2.imwrite(str(path), image[y : y + side, x : x + side])
            boxes = seen[touched].astype(np.float32)
            found.append(Sample(path=path, boxes=boxes, labels=sample.labels[touched], part_id=sample.part_id))
    return found


def _write(folder: Path, samples: Sequence[Sample], labels: Sequence[str]) -> Path:
    if (folder / "folds.csv").exists():
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[object, ...]] = [("image", "class", "x1", "y1", "x2", "y2")]
    for sample in samples:
        name = f"images/{sample.path.name}"
        if not (folder / name).exists():
            (folder / name).symlink_to(sample.path.resolve())
        pairs = zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
        rows += [(name, labels[label], *box) for label, box in pairs]
    _table(folder / "boxes.csv", rows)
    _table(folder / "folds.csv", [("image", "fold"), *((f"images/{each.path.name}", "train") for each in samples)])
    return folder


def _table(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
