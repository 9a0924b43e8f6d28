"""Pictures with masks, for segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lineside_converters.training.data.holdout import divide_samples
from lineside_converters.training.data.samples import read_picture
from lineside_converters.training.settings import TrainingSettings
from lineside_models.datasets import Sample
from lineside_models.datasets.masks import MaskDataset, load_masks
from lineside_runtime.errors import DatasetError


@dataclass(frozen=True, slots=True)
class MaskedPicture:
    """A grey picture with its mask.

    Attributes:
        image: ``(H, W) uint8``.
        mask: ``(H, W) uint8``: 0 for nothing, k + 1 for the k-th type.
        labels: ``(N,) int64``, the types that it shows, without repetition.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MaskedData:
    """Data of a segmenter.

    Attributes:
        held: Held out of training.
    """

    labels: tuple[str, ...]
    train: tuple[MaskedPicture, ...]
    held: tuple[MaskedPicture, ...]


def load_masked(settings: TrainingSettings) -> MaskedData:
    """Reads all folders of a run; types of one name are one type.

    Raises:
        DatasetError: A folder can't be read, or too few masks show anything.
    """
    train: list[MaskedPicture] = []
    held: list[MaskedPicture] = []
    sets = []
    for root in settings.data:
        fold, samples = divide_samples(root, settings, partial(load_masks, root))
        sets.append((fold, samples))
    labels = tuple(dict.fromkeys(label for each, _ in sets for label in each.labels))
    for each, (rest, aside) in sets:
        train += _read(rest, each, labels)
        held += _read(aside, each, labels)
    if not any(len(one.labels) for one in train) or not any(len(one.labels) for one in held):
        raise DatasetError("too few masks show anything", expected="some to learn from, and some to keep aside")
    return MaskedData(labels, tuple(train), tuple(held))


def _read(samples: Sequence[Sample], of: MaskDataset, labels: tuple[str, ...]) -> list[MaskedPicture]:
    number_of = np.array([0, *(labels.index(name) + 1 for name in of.labels)], np.uint8)
    found = []
    for sample in samples:
        image, mask = read_picture(sample).image, number_of[of.mask_of(sample)]
        if image.shape != mask.shape:
            raise DatasetError(
                f"the mask of {sample.path.name} has another size", expected=image.shape, actual=mask.shape
            )
        found.append(MaskedPicture(image, mask, np.unique(mask[mask > 0]).astype(np.int64) - 1))
    return found
