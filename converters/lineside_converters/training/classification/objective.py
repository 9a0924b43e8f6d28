"""Objective of classifiers: crops, loss, and top-1 on the held-out share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.training.classification.data import MARGIN, ClassData, ClassifierInput, LabelledCrops
from lineside_converters.training.data.augmentation import relight
from lineside_converters.training.data.batches import ahead
from lineside_converters.training.objective import Done, LabelledObjective, Outputs, as_tuple
from lineside_converters.training.strategy import Parts, rng_of, whole

LABEL_SMOOTHING = 0.05
_ZOOM = (0.85, 1.15)
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """One step's input.

    Attributes:
        images: ``(B, 1, S, S) float32``, ``(grey - 127) / 128``.
        labels: ``(B,) int64``.
    """

    images: Tensor
    labels: Tensor


class ClassificationObjective(LabelledObjective[ClassBatch]):
    """Pictures of one class each."""

    def __init__(self, data: ClassData, *, batch: int, seed: int, part: Parts = whole) -> None:
        """Takes the data."""
        self._data, self._size, self._seed, self._part = data, batch, seed, part
        self.epoch_steps = max(1, len(data.train.labels) // batch)
        self.facts: dict[str, Any] = {
            "classes": len(data.labels),
            "train": len(data.train.labels),
            "held": len(data.held.labels),
        }

    def batches(self, first_step: int, done: Done) -> Generator[ClassBatch, None, None]:
        """Yields shuffled batches; in the last tenth of the run pictures are only flipped."""
        return ahead(self._batch, first_step, lambda step: done(step) < 0.9)

    def images(self, batch: ClassBatch) -> Tensor:
        """Returns ``(B, 1, S, S)``."""
        return batch.images

    def true_loss(self, outputs: Outputs, batch: ClassBatch) -> Tensor:
        """Returns the smoothed cross-entropy."""
        return F.cross_entropy(outputs[0], batch.labels, label_smoothing=LABEL_SMOOTHING)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns top-1 on the held-out share."""
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


def to_tensor(images: NDArray[np.uint8], look: ClassifierInput) -> Tensor:
    """Returns pictures ``(B, S, S)`` or ``(B, S, S, 3)`` as a network's input ``(B, C, S, S) float32``."""
    planes = images[..., None] if images.ndim == 3 else images
    values = (planes.astype(np.float32) - np.array(look.mean, np.float32)) / np.array(look.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def shown(crops: LabelledCrops, look: ClassifierInput) -> NDArray[np.uint8]:
    """Returns the pictures at the network's size."""
    size = (look.side_px, look.side_px)
    return np.stack([np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA)) for each in crops.images])


@torch.no_grad()
def classify(model: nn.Module, crops: LabelledCrops, look: ClassifierInput) -> NDArray[np.int64]:
    """Returns the most likely class ``(N,)`` of every picture."""
    model.eval()
    images = to_tensor(shown(crops, look), look)
    found = [as_tuple(model(images[at : at + _AT_ONCE]))[0].argmax(1) for at in range(0, len(images), _AT_ONCE)]
    return np.asarray(torch.cat(found).numpy(), np.int64)
