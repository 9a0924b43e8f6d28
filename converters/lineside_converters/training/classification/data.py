"""Pictures of one class each: read once, cut and shrunk, kept in memory as grey bytes, and given out in batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.distillation.losses import Outputs, as_tuple
from lineside_converters.training.bundle_facts import MEAN, STD
from lineside_converters.training.data.augmentation import relight
from lineside_converters.training.data.batches import ahead
from lineside_converters.training.data.holdout import read_divided
from lineside_converters.training.data.samples import hold_out
from lineside_converters.training.objectives import Done, TrainingObjective
from lineside_converters.training.settings import TrainingSettings
from lineside_converters.training.strategy import Parts, rng_of, whole
from lineside_models.datasets import Dataset, Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_runtime.errors import DatasetError

MARGIN = 1.15
"""Pictures are kept so much larger than the canvas, so that it can be cut out anywhere."""

BOX_MARGIN = 1.3
"""A box is cut out with so much around it."""

LABEL_SMOOTHING = 0.05
_ZOOM = (0.85, 1.15)
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Crops:
    """Pictures and their classes.

    Attributes:
        images: ``(N, S, S) uint8`` grey, or ``(N, S, S, 3) uint8`` in the order of `CropLook.colour`.
        labels: ``(N,) int64``, indices into `ClassData.labels`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CropLook:
    """How a network sees a picture.

    Attributes:
        side_px: Side of its square input.
        colour: Its channels.
        mean: Of each channel, taken away.
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
    """What a classifier learns from.

    Attributes:
        labels: The classes, in the order of the network's outputs.
        train: To learn from.
        held: Kept out of training.
        look: How they are shown.
    """

    labels: tuple[str, ...]
    train: Crops
    held: Crops
    look: CropLook


def load_classes(
    folders: Sequence[Path],
    *,
    look: CropLook,
    held_share: float,
    fold: str = "train",
    labels: tuple[str, ...] | None = None,
    settings: TrainingSettings | None = None,
) -> ClassData:
    """Reads data sets of any layout that `lineside_models.datasets` knows.

    An image with boxes is a picture of the type of its largest box, cut out around it.

    Args:
        folders: Of the data sets; their classes are put side by side.
        look: How the network sees a picture.
        held_share: Share of the parts to keep aside, of each class alike; the same ones every time.
        fold: Of the data sets.
        labels: The classes in the order of the network's outputs; those of the data sets if not given.
        settings: Of a training, which say how data are divided; ``None`` where nothing may be drawn.

    Raises:
        DatasetError: A folder can't be read, or there are too few pictures.
    """
    sets = [_divided(folder, fold, held_share, settings) for folder in folders]
    names = labels or tuple(dict.fromkeys(label for each, _, _ in sets for label in each.labels))
    train: list[tuple[NDArray[np.uint8], int]] = []
    held: list[tuple[NDArray[np.uint8], int]] = []
    for each, rest, aside in sets:
        train += [read_crop(sample, each, names, look) for sample in rest]
        held += [read_crop(sample, each, names, look) for sample in aside]
    if not train or not held:
        raise DatasetError("too few pictures to keep some aside", actual=len(train) + len(held))
    return ClassData(names, _stack(train), _stack(held), look)


def _divided(
    folder: Path, fold: str, held_share: float, settings: TrainingSettings | None
) -> tuple[Dataset, list[Sample], list[Sample]]:
    """Returns a data set, what to learn from, and what to keep aside."""
    if settings is not None:
        found = read_divided(folder, settings, with_clean=False)
        return found.dataset, found.rest, found.held
    dataset = load_dataset(folder, fold)
    held, rest = hold_out(dataset.samples, share=held_share)
    return dataset, rest, held


def read_all(folders: Sequence[Path], labels: tuple[str, ...], *, look: CropLook, fold: str) -> Crops:
    """Reads every picture of a fold, for judging; see `load_classes`."""
    sets = [load_dataset(folder, fold) for folder in folders]
    return _stack([read_crop(sample, each, labels, look) for each in sets for sample in each.samples])


def read_crop(sample: Sample, of: Dataset, labels: Sequence[str], look: CropLook) -> tuple[NDArray[np.uint8], int]:
    """Returns a sample's picture, a little larger than it is shown, and its class.

    Raises:
        DatasetError: The file is no image, or its class is none of ``labels``.
    """
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
    shrunk = cv2.resize(image, (look.kept_px, look.kept_px), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8), list(labels).index(name)


def _cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns a square around a box, as far as the image reaches."""
    height, width = image.shape[:2]
    side = min(float((box[2:] - box[:2]).max()) * BOX_MARGIN, height, width)
    x, y = (box[:2] + box[2:]) / 2 - side / 2
    left, top = int(np.clip(x, 0, width - side)), int(np.clip(y, 0, height - side))
    return image[top : top + int(side), left : left + int(side)]


def _stack(rows: Sequence[tuple[NDArray[np.uint8], int]]) -> Crops:
    return Crops(np.stack([image for image, _ in rows]), np.array([label for _, label in rows], np.int64))


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """One step's input.

    Attributes:
        images: ``(B, 1, S, S) float32``, ``(grey - 127) / 128``.
        labels: ``(B,) int64``.
    """

    images: Tensor
    labels: Tensor


class ClassificationObjective(TrainingObjective[ClassBatch]):
    """Pictures of one class each."""

    def __init__(self, data: ClassData, *, batch: int, seed: int, part: Parts = whole) -> None:
        """Takes the data.

        Args:
            data: What is learnt from.
            batch: Pictures a step.
            seed: Of the order and of what is done to the pictures.
            part: Which rows of a step's batch are made here.
        """
        self._data, self._size, self._seed, self._part = data, batch, seed, part
        self.epoch_steps = max(1, len(data.train.labels) // batch)
        self.facts: dict[str, Any] = {
            "classes": len(data.labels),
            "train": len(data.train.labels),
            "held": len(data.held.labels),
        }

    def batches(self, first_step: int, done: Done) -> Generator[ClassBatch, None, None]:
        """Yields shuffled batches; in the last tenth of the run nothing but flips is done to the pictures."""
        return ahead(self._batch, first_step, lambda step: done(step) < 0.9)

    def images(self, batch: ClassBatch) -> Tensor:
        """Returns ``(B, 1, S, S)``."""
        return batch.images

    def true_loss(self, outputs: Outputs, batch: ClassBatch) -> Tensor:
        """Returns the smoothed cross-entropy."""
        return F.cross_entropy(outputs[0], batch.labels, label_smoothing=LABEL_SMOOTHING)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns top-1 on the pictures kept aside."""
        return {"top1": float((classify(model, self._data.held, self._data.look) == self._data.held.labels).mean())}

    def _batch(self, step: int, *, strong: bool) -> ClassBatch:
        part = self._part(step)
        rng = rng_of(self._seed, step, part)
        lap, at = divmod(step, self.epoch_steps)
        order = np.random.default_rng((self._seed, 1, lap)).permutation(len(self._data.train.labels))
        chosen = order[at * self._size : (at + 1) * self._size]
        if part is not None:
            chosen = chosen[part.rows(len(chosen))]
        images = [self._shown(self._data.train.images[i], rng, strong=strong) for i in chosen]
        return ClassBatch(
            to_tensor(np.stack(images), self._data.look), torch.from_numpy(self._data.train.labels[chosen])
        )

    def _shown(self, image: NDArray[np.uint8], rng: np.random.Generator, *, strong: bool) -> NDArray[np.uint8]:
        size, side = image.shape[0], self._data.look.side_px
        across, down = rng.random(2) < 0.5
        image = image[:: -1 if down else 1, :: -1 if across else 1]
        zoom = side / size * (rng.uniform(*_ZOOM) if strong else MARGIN * 0.96)
        free = side - zoom * size
        x, y = rng.uniform(min(0, free), max(0, free), 2) if strong else (free / 2, free / 2)
        matrix = np.array([[zoom, 0, x], [0, zoom, y]], np.float64)
        moved = cv2.warpAffine(
            np.ascontiguousarray(image), matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        shown = np.asarray(moved, np.uint8)
        return relight(shown, rng) if strong else shown


def to_tensor(images: NDArray[np.uint8], look: CropLook) -> Tensor:
    """Returns pictures ``(B, S, S)`` or ``(B, S, S, 3)`` as a network's input ``(B, C, S, S) float32``."""
    planes = images[..., None] if images.ndim == 3 else images
    values = (planes.astype(np.float32) - np.array(look.mean, np.float32)) / np.array(look.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def shown(crops: Crops, look: CropLook) -> NDArray[np.uint8]:
    """Returns the pictures at the network's size."""
    size = (look.side_px, look.side_px)
    return np.stack([np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA)) for each in crops.images])


@torch.no_grad()
def classify(model: nn.Module, crops: Crops, look: CropLook) -> NDArray[np.int64]:
    """Returns the likeliest class ``(N,)`` of every picture."""
    model.eval()
    images = to_tensor(shown(crops, look), look)
    found = [as_tuple(model(images[at : at + _AT_ONCE]))[0].argmax(1) for at in range(0, len(images), _AT_ONCE)]
    return np.asarray(torch.cat(found).numpy(), np.int64)
