"""Accuracy on the held-out pictures, with the bundle's own pre- and post-processing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.detection.bundle_facts import OUTPUTS, PREPROCESS, postprocess
from lineside_converters.training.detection.score_calibration import CalibrationFinds
from lineside_models.labels import LABELS
from lineside_models.metrics import evaluate, match
from lineside_models.postprocess import Candidates, decode
from lineside_models.preprocess import prepare_batch
from lineside_runtime.bundle import Preprocess

_AT_ONCE = 4


@torch.no_grad()
def find_all(model: nn.Module, pictures: Sequence[TrainingPicture], how: Preprocess = PREPROCESS) -> list[Candidates]:
    """Runs the network over pictures.

    Returns:
        What each may show, with raw scores, boxes in its own pixels.
    """
    model.eval()

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        tensor = torch.from_numpy(images).to(memory_format=torch.channels_last)
        return [value.numpy() for value in model(tensor)]

    return find_with(run, pictures, how)


def find_with(
    run: Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]],
    pictures: Sequence[TrainingPicture],
    how: Preprocess,
) -> list[Candidates]:
    """Runs a function with the network's signature over pictures; see `find_all`.

    Args:
        run: Given ``(B, 1, H, W)``, the six maps in the order of `facts.OUTPUTS`.
        how: They become the input.
    """
    found: dict[int, Candidates] = {}
    for first in range(0, len(pictures), _AT_ONCE):
        images = [picture.image for picture in pictures[first : first + _AT_ONCE]]
        for batch in prepare_batch(images, how):
            maps = dict(zip(OUTPUTS, run(batch.tensor), strict=True))
            answers = decode(maps, postprocess(), batch.letterboxes)
            found.update(zip((first + index for index in batch.indices), answers, strict=True))
    return [found[number] for number in range(len(pictures))]


def map50(pictures: Sequence[TrainingPicture], found: Sequence[Candidates], labels: Sequence[str] = LABELS) -> float:
    """Returns mAP@0.5 over the types that the pictures show."""
    return evaluate(pictures, found, labels=labels, thresholds=0.5).map50


def judge(
    pictures: Sequence[TrainingPicture], found: Sequence[Candidates], types: int = len(LABELS)
) -> CalibrationFinds:
    """Decides of every detection whether it is right, and lists the types that every picture shows."""
    present = np.zeros((len(pictures), types), bool)
    right = []
    for number, (picture, each) in enumerate(zip(pictures, found, strict=True)):
        present[number, picture.labels] = True
        right.append(_right(picture, each))
    return CalibrationFinds(
        scores=np.concatenate([each.scores for each in found]).astype(np.float64),
        labels=np.concatenate([each.labels for each in found]),
        right=np.concatenate(right),
        images=np.repeat(np.arange(len(found)), [len(each) for each in found]),
        present=present,
        truths=sum((np.bincount(picture.labels, minlength=types) for picture in pictures), np.zeros(types, int)),
    )


def _right(picture: TrainingPicture, found: Candidates) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    right = np.zeros(len(found), bool)
    for label in np.unique(found.labels):
        of = np.flatnonzero(found.labels == label)
        right[of] = match(found.boxes[of], picture.boxes[picture.labels == label])
    return right
