"""Objective of segmenters: canvases, loss, and mean IoU on the held-out share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lineside_converters.pixel_metrics import iou_by_label
from lineside_converters.training.data.augmentation import relight
from lineside_converters.training.data.batches import ahead
from lineside_converters.training.data.sampler import EpochSampler, repeat_factors
from lineside_converters.training.objective import Done, LabelledObjective, Outputs
from lineside_converters.training.segmentation.data import MaskedData, MaskedPicture
from lineside_converters.training.strategy import Parts, rng_of, whole
from lineside_models.networks.detector import INPUT, MEAN, STD
from lineside_models.preprocess import prepare
from lineside_runtime.bundle import Preprocess

DICE_WEIGHT = 1.0
STRONG_UNTIL = 0.9  # of the run
_ZOOM = (0.8, 1.5)
_SMOOTH = 1.0


@dataclass(frozen=True, slots=True)
class MaskBatch:
    """One step's input.

    Attributes:
        images: ``(B, 1, S, S) float32``, channels last.
        masks: ``(B, S, S) int64``.
    """

    images: Tensor
    masks: Tensor


class SegmentationObjective(LabelledObjective[MaskBatch]):
    """Pictures with masks."""

    def __init__(
        self, data: MaskedData, *, how: Preprocess, batch: int, balance: float, seed: int, part: Parts = whole
    ) -> None:
        """Takes the pictures.

        Args:
            data: What is trained on, and what is kept aside.
            how: Pictures become the network's input; its long side is that of the canvases.
            balance: See `repeat_factors`.
            seed: Seed of order and augmentation.
            part: Part of each batch that this worker makes.
        """
        self._data, self._how, self._part = data, how, part
        self.labels = data.labels
        self._sampler = EpochSampler(repeat_factors([each.labels for each in data.train], balance), seed)
        self._batch, self._seed = batch, seed
        self.epoch_steps = max(1, -(-self._sampler.length // batch))
        self.facts = {"types": len(data.labels), "train": len(data.train), "held": len(data.held)}

    def batches(self, first_step: int, done: Done) -> Generator[MaskBatch, None, None]:
        """Yields canvases, in the last tenth of the run without changes of light and scale."""
        return ahead(self._make, first_step, lambda step: done(step) < STRONG_UNTIL)

    def images(self, batch: MaskBatch) -> Tensor:
        """Returns ``(B, 1, S, S)``."""
        return batch.images

    def true_loss(self, outputs: Outputs, batch: MaskBatch) -> Tensor:
        """Returns cross-entropy and soft Dice (Milletari et al., arXiv:1606.04797), on maps of the canvas's size."""
        maps = F.interpolate(outputs[0], size=batch.masks.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(maps, batch.masks) + DICE_WEIGHT * dice_loss(maps, batch.masks)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Returns the mean IoU over the types."""
        found = self.iou(model)
        return {"mean_iou": float(np.mean(list(found.values())))}

    def iou(self, model: nn.Module) -> dict[str, float]:
        """Returns the IoU of each type that the held-out pictures show, over all their pixels together."""
        types = len(self.labels)
        table = np.zeros((types + 1, types + 1), np.int64)
        for picture in self._data.held:
            pairs = picture.mask.astype(np.int64) * (types + 1) + segment(model, picture.image, self._how)
            table += np.bincount(pairs.ravel(), minlength=table.size).reshape(table.shape)
        return {name: value for name, value in zip(self.labels, iou_by_label(table), strict=True) if value is not None}

    def _make(self, step: int, *, strong: bool) -> MaskBatch:
        part = self._part(step)
        rng = rng_of(self._seed, step, part)
        numbers = range(self._batch) if part is None else range(self._batch)[part.rows(self._batch)]
        chosen = [self._data.train[self._sampler(step * self._batch + number)] for number in numbers]
        canvases = [_canvas(each, rng, self._how.max_side, strong=strong) for each in chosen]
        images = (np.stack([image for image, _ in canvases])[:, None].astype(np.float32) - MEAN) / STD
        masks = torch.from_numpy(np.stack([mask for _, mask in canvases]).astype(np.int64))
        return MaskBatch(torch.from_numpy(images).to(memory_format=torch.channels_last), masks)


def _canvas(
    picture: MaskedPicture, rng: np.random.Generator, size: int, *, strong: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = picture.image.shape
    scale = size / max(height, width) * (rng.uniform(*_ZOOM) if strong else 1.0)
    x, y = (float(np.round(rng.uniform(0, 1) * (size - scale * side))) for side in (width, height))
    shift = 0.5 * scale - 0.5  # pixel centres are what is scaled, as cv2.resize does at the line
    matrix = np.array([[scale, 0, x + shift], [0, scale, y + shift]], np.float64)
    grey = float(cv2.mean(picture.image)[0])
    image = np.asarray(cv2.warpAffine(picture.image, matrix, (size, size), borderValue=grey), np.uint8)
    mask = np.asarray(cv2.warpAffine(picture.mask, matrix, (size, size), flags=cv2.INTER_NEAREST), np.uint8)
    across, down = (-1 if each else 1 for each in rng.random(2) < 0.5)
    image, mask = image[::down, ::across], mask[::down, ::across]
    return (relight(np.ascontiguousarray(image), rng) if strong else image), mask


def dice_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns 1 minus the mean Dice coefficient of the types that the batch shows; 0 where it shows none.

    Args:
        maps: ``(B, C, H, W)`` logits; channel 0 is the background.
        masks: ``(B, H, W) int64``.
    """
    true = F.one_hot(masks, maps.shape[1]).permute(0, 3, 1, 2).to(maps.dtype)
    sure = maps.softmax(1)
    both, sums = (sure * true).sum((0, 2, 3)), (sure + true).sum((0, 2, 3))
    shown = true.sum((0, 2, 3)) > 0
    shown[0] = False
    if not shown.any():
        return maps.sum() * 0
    return 1 - ((2 * both + _SMOOTH) / (sums + _SMOOTH))[shown].mean()


@torch.no_grad()
def segment(model: nn.Module, image: NDArray[np.uint8], how: Preprocess) -> NDArray[np.int64]:
    """Returns what each pixel ``(H, W)`` of a grey picture shows: 0 for nothing, k + 1 for the k-th type."""
    model.eval()
    tensor, letterbox = prepare(image, how)
    maps = model(torch.from_numpy(tensor))
    maps = F.interpolate(maps, size=letterbox.canvas, mode="bilinear", align_corners=False)
    height, width = (round(side * letterbox.scale_x) for side in image.shape)
    inside = maps[:, :, : max(1, height), : max(1, width)]
    whole = F.interpolate(inside, size=image.shape, mode="bilinear", align_corners=False)
    return np.asarray(whole[0].argmax(0).numpy(), np.int64)


def preprocess_of(side_px: int) -> Preprocess:
    """Returns how pictures are brought to the segmenter's size."""
    return Preprocess(input=INPUT, colour="grey", min_side=side_px, max_side=side_px, mean=(MEAN,), std=(STD,))
