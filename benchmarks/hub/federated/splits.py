"""The train fold of neu-det divided among plants: folders with ``boxes.csv`` and links to the images."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inputs.data import shared
from lineside_models.datasets import Sample, load_dataset
from lineside_models.labels import STEEL

PLANTS = 3
LACKED = tuple(tuple(STEEL[2 * number : 2 * number + 2]) for number in range(PLANTS))
"""Types whose images a plant does not have, in the split by type."""


def write_plants(folder: Path, split: str) -> list[Path]:
    """Writes a folder for each plant; done once."""
    dataset = load_dataset(shared("neu-det"), "train")
    parts: list[list[Sample]] = [[] for _ in range(PLANTS)]
    order = sorted(dataset.samples, key=lambda each: hashlib.sha256(each.path.name.encode()).hexdigest())
    turn: dict[tuple[int, ...], int] = {}
    for sample in order:
        types = {dataset.labels[int(label)] for label in sample.labels}
        able = [n for n in range(PLANTS) if split == "by part" or not types & set(LACKED[n])]
        if able:  # an image of types that each plant lacks one of stays out
            number = turn[tuple(able)] = turn.get(tuple(able), -1) + 1
            parts[able[number % len(able)]].append(sample)
    return [_write(folder / f"plant-{number}", part, dataset.labels) for number, part in enumerate(parts)]


def write_all(folder: Path) -> Path:
    """Writes the whole train fold as one folder."""
    dataset = load_dataset(shared("neu-det"), "train")
    return _write(folder, dataset.samples, dataset.labels)


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
