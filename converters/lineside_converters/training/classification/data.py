"""Data of classifiers: images of one class each, cropped, shrunk and kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside_converters.training.data.holdout import read_divided
from lineside_converters.training.data.samples import hold_out
from lineside_converters.training.settings import TrainingSettings
from lineside_models.datasets import Dataset, Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.networks.detector import MEAN, STD
from lineside_models.preprocess import resized
from lineside_runtime.errors import DatasetError

MARGIN = 1.15
"""Factor on the canvas's side for images in memory, so that a canvas can be cut out anywhere."""

BOX_MARGIN = 1.3
"""Factor on a box's longer side for its crop."""


@dataclass(frozen=True, slots=True)
class LabelledCrops:
    """Pictures and their classes.

    Attributes:
        images: ``(N, S, S) uint8`` grey, or ``(N, S, S, 3) uint8`` in the order of `ClassifierInput.colour`.
        labels: ``(N,) int64``, indices into `ClassData.labels`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassifierInput:
    """Input of a classifier.

    Attributes:
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
    """

    side_px: int
    colour: Literal["grey", "rgb", "bgr"] = "grey"
    mean: tuple[float, ...] = (MEAN,)
    std: tuple[float, ...] = (STD,)

    @property
    def kept_px(self) -> int:
        """Side of the pictures in memory."""
        return round(self.side_px * MARGIN)


@dataclass(frozen=True, slots=True)
class ClassData:
    """Data of a classifier.

    Attributes:
        labels: The classes, in the order of the network's outputs.
        held: Held out of training.
    """

    labels: tuple[str, ...]
    train: LabelledCrops
    held: LabelledCrops
    look: ClassifierInput


def load_classes(
    folders: Sequence[Path],
    *,
    look: ClassifierInput,
    held_share: float,
    labels: tuple[str, ...] | None = None,
    settings: TrainingSettings | None = None,
) -> ClassData:
    """Reads data sets of any layout that `lineside_models.datasets` knows.

    An image with boxes is cropped around its largest box and has the class of it.

    Args:
        folders: Of the data sets; their classes are joined.
        held_share: Share of the parts to hold out, of each class alike; the same ones every time.
        labels: The classes in the order of the network's outputs; those of the data sets if not given.
        settings: Settings that say how data sets without folds are divided; ``None`` for those with folds only.

    Raises:
        DatasetError: A folder can't be read, or there are too few pictures.
    """
    sets = [_divided(folder, held_share, settings) for folder in folders]
    names = labels or tuple(dict.fromkeys(label for each, _, _ in sets for label in each.labels))
    train: list[tuple[NDArray[np.uint8], int]] = []
    held: list[tuple[NDArray[np.uint8], int]] = []
    for each, rest, aside in sets:
        train += [read_crop(sample, each, names, look, px=look.kept_px) for sample in rest]
        held += [read_crop(sample, each, names, look) for sample in aside]
    if not train or not held:
        raise DatasetError("too few pictures to keep some aside", actual=len(train) + len(held))
    return ClassData(names, _stack(train), _stack(held), look)


def _divided(
    folder: Path, held_share: float, settings: TrainingSettings | None
) -> tuple[Dataset, list[Sample], list[Sample]]:
    """Returns a data set, its samples to train on, and its held-out samples."""
    if settings is not None:
        found = read_divided(folder, settings, with_clean=False)
        return found.dataset, found.rest, found.held
    dataset = load_dataset(folder, "train")
    held, rest = hold_out(dataset.samples, share=held_share)
    return dataset, rest, held


def read_all(
    folders: Sequence[Path], labels: tuple[str, ...], *, look: ClassifierInput, fold: str, px: int = 0
) -> LabelledCrops:
    """Reads every picture of a fold; see `load_classes`.

    Args:
        px: Largest side of the pictures, as for `read_crop`.
    """
    sets = [load_dataset(folder, fold) for folder in folders]
    return _stack([read_crop(sample, each, labels, look, px=px) for each in sets for sample in each.samples])


def read_crop(
    sample: Sample, of: Dataset, labels: Sequence[str], look: ClassifierInput, *, px: int = 0
) -> tuple[NDArray[np.uint8], int]:
    """Returns a sample's crop, resized as a device does it, and its class.

    Args:
        px: Largest side of the crop: `ClassifierInput.kept_px` to train on; 0 for the input's, as a device sees it.

    Raises:
        DatasetError: The file is no image, or its class is none of ``labels``.
    """
    image, label = read_whole_crop(sample, of, labels, look)
    side = min(px, max(image.shape[:2])) if px else look.side_px  # enlarged pictures would be blurred ones
    return resized(image, side, side), label


def read_whole_crop(
    sample: Sample, of: Dataset, labels: Sequence[str], look: ClassifierInput
) -> tuple[NDArray[np.uint8], int]:
    """Returns a sample's crop with all its pixels, and its class; raises as `read_crop`."""
    image = read_pixels(sample.path, cv2.IMREAD_GRAYSCALE if look.colour == "grey" else cv2.IMREAD_COLOR)
    if look.colour == "rgb":
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    if not len(sample.labels):
        raise DatasetError(f"{sample.path.name} has no class")
    number = 0
    if len(sample.boxes):
        number = int((sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).argmax())
        image = _cut(np.asarray(image, np.uint8), sample.boxes[number])
    name = of.vocabulary[int(sample.labels[number])]
    if name not in labels:
        raise DatasetError(f"{sample.path.name} shows {name!r}", expected=list(labels))
    return np.asarray(image, np.uint8), list(labels).index(name)


def _cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns a square around a box, clipped to the image."""
    height, width = image.shape[:2]
    side = min(float((box[2:] - box[:2]).max()) * BOX_MARGIN, height, width)
    x, y = (box[:2] + box[2:]) / 2 - side / 2
    left, top = int(np.clip(x, 0, width - side)), int(np.clip(y, 0, height - side))
    return image[top : top + int(side), left : left + int(side)]


def _stack(rows: Sequence[tuple[NDArray[np.uint8], int]]) -> LabelledCrops:
    side = max(len(image) for image, _ in rows)
    images = np.stack([resized(image, side, side) for image, _ in rows])
    return LabelledCrops(images, np.array([label for _, label in rows], np.int64))
