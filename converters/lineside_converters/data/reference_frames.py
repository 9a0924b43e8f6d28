"""Images of a data set composed with their references, as a model that compares with a reference reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from lineside_converters.data.part_variation import PartVariation, vary
from lineside_models.datasets import Dataset, Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.datasets.part_images import holds_good_parts
from lineside_models.frame import UInt8Array
from lineside_models.reference.reference_set import ReferenceSet
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import ConfigError, DatasetError, RegistrationError

log = logging.getLogger("lineside.datasets")


def compares(manifest: Manifest) -> bool:
    """Returns whether a model compares frames with references that are not in its bundle: its data must name them."""
    own = manifest.preprocess.reference
    return own is not msgspec.UNSET and not own.images


def refuse_single_frames(manifest: Manifest, frames: str) -> None:
    """Refuses frames without references for a model that needs them.

    Args:
        frames: What was given, for people.

    Raises:
        ConfigError: The model compares.
    """
    if compares(manifest):
        raise ConfigError(
            f"{manifest.name} compares frames with references, and {frames} name none",
            expected="a data set that names a reference of each image",
            actual=frames,
            action="Give --data with references/NAME or golden.png in it.",
        )


def load_compared(root: Path, fold: str, manifest: Manifest, *, with_clean: bool = False) -> Dataset:
    """Reads a fold as `load_dataset` does, and for a model that compares the references too.

    A sample that can't be laid over its reference is left out, with a warning in the log.

    Args:
        with_clean: Whether good parts are among the samples, without labels. A model of good parts knows no class of
            them: a class whose name means good parts is one, as where it is evaluated.
    """
    dataset = load_dataset(root, fold, with_clean=with_clean, references=compares(manifest))
    samples, _ = split_by_registration(dataset.samples, manifest)
    if with_clean and manifest.task == "anomaly":
        good = [index for index, name in enumerate(dataset.labels) if holds_good_parts(name)]
        samples = [_without(sample, good) for sample in samples]
    return dataclasses.replace(dataset, samples=tuple(samples))


def _without(sample: Sample, good: Sequence[int]) -> Sample:
    """Returns a sample without the labels that mean a good part."""
    kept = ~np.isin(sample.labels, good)
    boxes = sample.boxes[kept] if len(sample.boxes) == len(kept) else sample.boxes
    return dataclasses.replace(sample, boxes=boxes, labels=sample.labels[kept])


def split_by_registration(samples: Sequence[Sample], manifest: Manifest) -> tuple[list[Sample], list[Sample]]:
    """Returns the samples that can be laid over their references, and those that can't, which a line rejects.

    A model that compares nothing takes all.
    """
    if not compares(manifest):
        return list(samples), []
    laid: list[Sample] = []
    for sample in samples:
        with left_out(sample):
            composed_image(sample)
            laid.append(sample)
    paths = {sample.path for sample in laid}
    return laid, [sample for sample in samples if sample.path not in paths]


@contextlib.contextmanager
def left_out(sample: Sample) -> Iterator[None]:
    """Logs a sample that cannot be registered with its reference, and continues."""
    try:
        yield
    except RegistrationError as error:
        log.warning("%s is left out: %s", sample.path, error)


def composed_image(sample: Sample) -> UInt8Array:
    """Decodes a sample and its reference, and composes them as at the line.

    Of a template that is its own reference another good part is drawn, always the same one.

    Returns:
        ``(H, W, 3) uint8``: frame, registered reference, difference (`lineside_models.reference.composition`).

    Raises:
        DatasetError: One of them is no image.
        RegistrationError: The sample does not show its reference.
    """
    if sample.reference is None:
        raise DatasetError(f"{sample.path.name} has no reference to be compared with")
    frame = read_pixels(sample.path, cv2.IMREAD_GRAYSCALE)
    if sample.reference == sample.path:
        seed = int.from_bytes(hashlib.sha256(sample.path.name.encode()).digest()[:8], "big")
        frame = vary(frame, PartVariation(), np.random.default_rng(seed))
    return _references(sample.reference).compose(frame).image


@functools.lru_cache(maxsize=2)
def _references(path: Path) -> ReferenceSet:
    """Returns a reference prepared for registration; one golden image serves thousands of frames."""
    return ReferenceSet([read_pixels(path, cv2.IMREAD_GRAYSCALE)])
