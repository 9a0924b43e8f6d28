"""Four sets of defects as features of the frozen INT8 trunk, computed once and kept."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.smoke import kept, scaled
from lineside_converters.training.classification.data import ClassifierInput, read_whole_crop
from lineside_converters.training.quantum.features import pooled_features
from lineside_models.anomaly.features import features_bundle
from lineside_models.datasets import load_dataset
from lineside_models.datasets.part_images import load_part_images
from lineside_models.vision.images import read_image

SETS = scaled(("neu-det", "deeppcb", "magnetic-tile", "x-sdd"), smoke=("x-sdd",))
KEPT = kept(".quantum")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Features of images.

    Attributes:
        features: ``(n, F) float32``.
        labels: ``(n,)``: the class of each.
        parts: ``(n,)``: the part that each shows: a tile of magnetic-tile, a board design of deeppcb.
    """

    features: Floats
    labels: Ints
    parts: Ints

    def of(self, chosen: Ints) -> Rows:
        """Returns some of the rows."""
        return Rows(self.features[chosen], self.labels[chosen], self.parts[chosen])


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A set of defects.

    Attributes:
        good: Number of the class of good parts; ``None`` without one.
        train: Rows to tune and train on.
        val: Rows to test on, once.
    """

    name: str
    names: tuple[str, ...]
    good: int | None
    train: Rows
    val: Rows


def load_task(name: str) -> Task:
    """Returns a set; images with boxes are cropped around the largest one, tiles are whole."""
    folds, names = {}, tuple(sorted({label for _, label, _ in _images(name, "train")}))
    for fold in ("train", "val"):
        found = list(_images(name, fold))
        parts = np.unique([part for _, _, part in found], return_inverse=True)[1]
        labels = np.array([names.index(label) for _, label, _ in found], np.int64)
        folds[fold] = Rows(_features(name, fold), labels, np.asarray(parts, np.int64))
    good = next((number for number, label in enumerate(names) if label.endswith("Free")), None)
    return Task(name, names, good, folds["train"], folds["val"])


def _images(name: str, fold: str) -> Iterator[tuple[Path, str, str]]:
    """Yields path, class and part of each image."""
    root = shared(name)
    if name == "magnetic-tile":
        tiles = _column(root / "folds.csv", "tile_group")
        for image in load_part_images(root, fold).images:
            relative = image.path.relative_to(root).as_posix()
            yield image.path, image.kind, tiles.get(relative, relative)
        return
    dataset = load_dataset(root, fold)
    for sample in dataset.samples:
        number = 0
        if len(sample.boxes):
            number = int((sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).argmax())
        part = sample.path.parent.name if name == "deeppcb" else sample.path.as_posix()
        yield sample.path, dataset.vocabulary[int(sample.labels[number])], part


def _pixels(name: str, fold: str) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the images, in the order of `_images`."""
    if name == "magnetic-tile":
        for path, _, _ in _images(name, fold):
            yield read_image(path)
        return
    dataset = load_dataset(shared(name), fold)
    for sample in dataset.samples:
        yield read_whole_crop(sample, dataset, dataset.vocabulary, ClassifierInput(0))[0]


def _features(name: str, fold: str) -> Floats:
    """Returns the features; those that were computed before by the same trunk are read."""
    file = KEPT / f"{name}-{fold}-whole-{features_bundle().digest[:12]}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp.npy")
        np.save(temporary, pooled_features(_pixels(name, fold)))
        temporary.rename(file)
    return np.asarray(np.load(file), np.float32)


def _column(table: Path, name: str) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8") as file:
        return {row["image"]: row[name] for row in csv.DictReader(file) if name in row}
