"""Data of a detector: its types, the pictures of each dataset, and the framing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import msgspec
import numpy as np

from lineside_converters.data.reference_frames import left_out
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.framing import OWN, choose_framing, preprocess_for
from lineside_converters.training.data.holdout import DividedDataset, read_divided
from lineside_converters.training.data.samples import (
    DOMAINS,
    Domain,
    load_domain,
    read_composed,
    read_pair,
    read_picture,
)
from lineside_converters.training.detection.bundle_facts import PREPROCESS
from lineside_converters.training.detection.config import DetectorConfig
from lineside_models.datasets import Sample, load_dataset
from lineside_models.labels import LABELS
from lineside_runtime.bundle import Preprocess
from lineside_runtime.errors import DatasetError, TrainingError


@dataclass(frozen=True, slots=True)
class DetectionData:
    """Data of a detector.

    Attributes:
        labels: The types, in the order of the network's outputs; labels of pictures are indices into them.
        preprocess: How a frame becomes the network's input.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    domains: tuple[Domain, ...]


def load_detection_data(config: DetectorConfig) -> DetectionData:
    """Reads the data of a run.

    neu-det and deeppcb make the surface detector of 12 types, whether both are given or one. All else, and all that is
    compared with a reference, gets `DetectorConfig.labels`, or the types that the data annotate; of several data sets
    those of one name are one type.

    Raises:
        DatasetError: A data folder can't be read, has no boxes, or too few images.
        TrainingError: The data sets can't be trained together.
    """
    surface = config.labels in ((), LABELS) and not config.reference
    if surface and all(load_dataset(root).name in DOMAINS for root in config.data):
        simulate = config.simulated_share > 0
        share, number = config.held_share, config.held_number
        domains = [load_domain(root, held_share=share, simulate=simulate, held_number=number) for root in config.data]
        return DetectionData(LABELS, PREPROCESS, tuple(domains))
    found = [read_divided(root, config, references=config.reference) for root in config.data]
    for each in found:
        if not each.dataset.boxed:
            raise DatasetError(
                f"{each.name} annotates whole images and no boxes",
                expected="boxes",
                action="Train a classifier: lineside train classifier.",
            )
    labels = _labels(config, tuple(dict.fromkeys(name for each in found for name in each.dataset.labels)))
    read, read_held = (read_pair, read_composed) if config.reference else (read_picture, read_picture)
    pictures = [_pictures(_all(each.rest, read), each, labels) for each in found]
    kinds = [_kind(config, each, ours) for each, ours in zip(found, pictures, strict=True)]
    longest = [max(max(p.image.shape[:2]) for p in ours) for ours in pictures]
    preprocess = preprocess_for(kinds, longest, config.canvas_px, reference=config.reference)
    domains = [
        _domain(each, kind, ours, tuple(_pictures(_all(each.held, read_held), each, labels)), preprocess)
        for each, kind, ours in zip(found, kinds, pictures, strict=True)
    ]
    return DetectionData(labels, preprocess, tuple(domains))


def _labels(config: DetectorConfig, annotated: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in annotated if config.labels and name not in config.labels]:
        raise TrainingError(
            "the data annotate types that are not among labels",
            expected=", ".join(config.labels),
            actual=", ".join(unknown),
            action="Leave labels out, or add them.",
        )
    return config.labels or annotated


def _all(samples: Iterable[Sample], read: Callable[[Sample], TrainingPicture]) -> Iterator[TrainingPicture]:
    """Yields the pictures of samples; one that can't be laid over its reference is left out, with a warning."""
    for sample in samples:
        with left_out(sample):
            yield read(sample)


def _pictures(
    pictures: Iterable[TrainingPicture], of: DividedDataset, labels: tuple[str, ...]
) -> list[TrainingPicture]:
    """Numbers the types of a data set's pictures as the network does."""
    number_of = np.array([labels.index(name) if name in labels else -1 for name in of.dataset.vocabulary], np.int64)
    return [TrainingPicture(p.image, p.boxes, number_of[p.labels]) for p in pictures]


def _kind(config: DetectorConfig, of: DividedDataset, pictures: list[TrainingPicture]) -> str:
    if not any(len(picture.boxes) for picture in pictures):
        raise DatasetError(f"{of.name} has no box to train on", expected="images with boxes", actual=len(pictures))
    framing = config.framing.get(of.name, "auto") if isinstance(config.framing, dict) else config.framing
    return choose_framing(pictures, config.canvas_px) if framing == "auto" else framing


def _domain(
    of: DividedDataset,
    kind: str,
    pictures: list[TrainingPicture],
    held: tuple[TrainingPicture, ...],
    preprocess: Preprocess,
) -> Domain:
    seen = pictures if kind == "scale" else [as_seen(picture, preprocess) for picture in pictures]
    return Domain(
        of.name,
        train=tuple(p for p in seen if len(p.boxes)),
        clean=tuple(p for p in seen if not len(p.boxes)),
        held=held,
        simulated=(),
        framing=replace(OWN[kind], turn=preprocess.reference is not msgspec.UNSET),  # a comparison knows no direction
    )


def as_seen(picture: TrainingPicture, how: Preprocess) -> TrainingPicture:
    """Returns a picture at the scale that the network's input has at the line."""
    long_side = max(picture.image.shape[:2])
    scale = min(max(long_side, how.min_side), how.max_side) / long_side
    if scale == 1:
        return picture
    size = (max(1, round(picture.image.shape[1] * scale)), max(1, round(picture.image.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(picture.image, size, interpolation=method), np.uint8)
    return TrainingPicture(image, picture.boxes * np.float32(scale), picture.labels)


def canvases_per_domain(config: DetectorConfig, domains: tuple[Domain, ...]) -> tuple[int, ...]:
    """Returns how many canvases of each domain a batch holds; each domain has at least one.

    Steel and boards by `DetectorConfig.pcb_share`; others by how many pictures there are to learn from.

    Raises:
        TrainingError: Two data folders are of one domain, or there are more of them than canvases.
    """
    names = [domain.name for domain in domains]
    if len(set(names)) != len(names):
        raise TrainingError("two data folders are of one domain", expected="one of each", actual=names)
    if len(domains) > config.batch:
        raise TrainingError("batch is not usable", expected=f"{len(domains)} or more", actual=config.batch)
    if len(domains) == 1:
        return (config.batch,)
    if set(names) == set(DOMAINS.values()):
        pcb = min(max(1, round(config.batch * config.pcb_share)), config.batch - 1)
        return tuple(pcb if name == "pcb" else config.batch - pcb for name in names)
    return _in_proportion([len(domain.train) for domain in domains], config.batch)


def _in_proportion(sizes: list[int], whole: int) -> tuple[int, ...]:
    """Divides a whole into parts of at least 1, by largest remainders."""
    spare = whole - len(sizes)
    exact = [spare * size / sum(sizes) for size in sizes]
    parts = [math.floor(each) for each in exact]
    order = sorted(range(len(sizes)), key=lambda n: parts[n] - exact[n])
    for number in order[: spare - sum(parts)]:
        parts[number] += 1
    return tuple(part + 1 for part in parts)


def steps_per_epoch(counts: tuple[int, ...], domains: tuple[Domain, ...]) -> int:
    """Returns after how many steps the largest data set has been seen once."""
    size, count = max((len(domain.train), count) for domain, count in zip(domains, counts, strict=True))
    return math.ceil(size / count)
