"""Features of images by a frozen INT8 trunk: the shipped ``patch-features``, its maps pooled to one vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lineside_converters.training.classification.data import ClassifierInput, read_whole_crop
from lineside_converters.training.data.samples import hold_out
from lineside_models.anomaly.features import features_bundle
from lineside_models.datasets import ALL, Dataset, Sample, load_dataset
from lineside_models.datasets.folds import groups_of, has_fold
from lineside_models.preprocess import prepare
from lineside_runtime.config import Config
from lineside_runtime.errors import DatasetError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Count = Callable[[int, int], None]

_EVERY = 200


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Features of images, and their classes.

    Attributes:
        rows: ``(n, F) float32``.
        labels: ``(n,) int64``, indices into ``names``.
    """

    rows: Floats
    labels: Ints
    names: tuple[str, ...]


def pooled_features(
    images: Iterable[npt.NDArray[np.uint8]], *, total: int = 0, on_count: Count = lambda done, total: None
) -> Floats:
    """Computes the features ``(n, F)`` of images, each ``(H, W)`` grey or ``(H, W, 3)`` BGR.

    Args:
        total: Their number, for ``on_count``.
        on_count: Told how many of ``total`` are done.

    Raises:
        BadInputFormatError: One is no image.
        DeviceError: The trunk doesn't run here.
    """
    source = features_bundle()
    how = source.manifest.preprocess
    names = [spec.name for spec in source.manifest.outputs]
    rows = []
    with Session(source, Config(engines=("ort",), threads=1)) as session:
        for image in images:
            outputs = session.predict({how.input: prepare(image, how)[0]})
            rows.append(pool_maps([outputs[name] for name in names]))
            if len(rows) % _EVERY == 0 or len(rows) == total:
                on_count(len(rows), total)
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)


def pool_maps(maps: Sequence[Array]) -> Floats:
    """Returns what `lineside_models.quantum.network.pool` computes, ``(B, F)``."""
    pooled = [value for each in maps for value in (each.mean((2, 3)), each.max((2, 3)))]
    return np.concatenate(pooled, axis=1, dtype=np.float32)


def read_train(
    folders: Sequence[Path], *, held_share: float, on_count: Count = lambda done, total: None
) -> tuple[ImageFeatures, ImageFeatures]:
    """Reads data sets, and holds a share of their parts out; of a set with folds only the train fold is read.

    An image with boxes is cropped around its largest box and has the class of it.

    Args:
        folders: Of the data sets; their classes are joined.
        held_share: Share of the parts to hold out, of each class alike; the same ones every time.
        on_count: Told how many of how many images are done.

    Returns:
        Features to train on, and those that are held out.

    Raises:
        DatasetError: A folder can't be read, or there are too few images.
    """
    sets = [_read(folder, "train" if has_fold(folder, "train") else ALL) for folder in folders]
    names = tuple(dict.fromkeys(label for each in sets for label in each.labels))
    rest: list[tuple[Dataset, Sample]] = []
    held: list[tuple[Dataset, Sample]] = []
    for folder, each in zip(folders, sets, strict=True):
        aside, others = hold_out(each.samples, share=held_share, group_of=groups_of(folder))
        held += [(each, sample) for sample in aside]
        rest += [(each, sample) for sample in others]
    if not held or not rest or len(names) < 2:
        raise DatasetError(
            "too little data to train on and to hold some out",
            expected="images of at least two classes and of at least two parts each",
            actual=f"{len(held) + len(rest)} images of {len(names)} classes",
        )
    found = _features([*rest, *held], names, on_count)
    parts = slice(None, len(rest)), slice(len(rest), None)
    train, aside_features = (ImageFeatures(found.rows[part], found.labels[part], names) for part in parts)
    return train, aside_features


def read_fold(
    folders: Sequence[Path], fold: str, names: tuple[str, ...], *, on_count: Count = lambda done, total: None
) -> ImageFeatures:
    """Reads every image of a fold; see `read_train`.

    Raises:
        DatasetError: A folder can't be read, has no such fold, or shows another class than ``names``.
    """
    sets = [_read(folder, fold) for folder in folders]
    return _features([(each, sample) for each in sets for sample in each.samples], names, on_count)


def _read(folder: Path, fold: str) -> Dataset:
    dataset = load_dataset(folder, fold)
    return dataclasses.replace(dataset, samples=tuple(one for one in dataset.samples if len(one.labels)))


def _features(samples: Sequence[tuple[Dataset, Sample]], names: tuple[str, ...], on_count: Count) -> ImageFeatures:
    look = ClassifierInput(0)  # grey; the pre-processing of the trunk resizes, as on a device
    labels: list[int] = []

    def images() -> Iterable[npt.NDArray[np.uint8]]:
        for of, sample in samples:
            image, label = read_whole_crop(sample, of, names, look)
            labels.append(label)
            yield image

    rows = pooled_features(images(), total=len(samples), on_count=on_count)
    return ImageFeatures(rows, np.array(labels, np.int64), names)
