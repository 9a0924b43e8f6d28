"""Samples of the detector's data sets, decoded once and kept in memory as grey bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lineside_converters.data.reference_frames import composed_image
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.framing import PCB, STEEL, Framing
from lineside_models.datasets import Sample, load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.preprocess import to_grey
from lineside_models.simulator import Kind, render
from lineside_runtime.errors import DatasetError

DOMAINS: dict[str, Kind] = {"neu-det": "steel", "deeppcb": "pcb"}
_FRAMINGS = {"steel": STEEL, "pcb": PCB}
# Seeds of the frames to learn from; demo and tests count from 0 or draw out of 2**32, so that they meet none of these.
SIMULATED_SEED = 1_000_000
SIMULATED_FRAMES = {"steel": 300, "pcb": 60}
CLEAN_SEED = SIMULATED_SEED + 500_000
CLEAN_FRAMES = {"steel": 200, "pcb": 40}
"""Drawn good frames to learn from: neu-det shows none, and boards have their templates beside these."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of surface.

    Attributes:
        name: ``steel``, ``pcb``, or the data set's folder.
        train: With defects, to train on.
        clean: Without defects, to train on; with drawn ones among them where there are simulated frames.
        simulated: From the line simulator, to train on.
        framing: How its pictures become canvases.
    """

    name: str
    train: tuple[TrainingPicture, ...]
    clean: tuple[TrainingPicture, ...]
    held: tuple[TrainingPicture, ...]
    simulated: tuple[TrainingPicture, ...]
    framing: Framing


def load_domain(root: Path, *, held_share: float, simulate: bool, held_number: int | None = None) -> Domain:
    """Reads the train fold of one data set and holds a share of its parts out.

    Args:
        held_share: Share of the parts to keep out of training; the same ones every time.
        simulate: Whether to render simulator frames as well.
        held_number: Which share, see `hold_out`.

    Raises:
        DatasetError: The folder is no data set of a domain that the detector knows, or has too few images.
    """
    dataset = load_dataset(root, "train", with_clean=True)
    if dataset.name not in DOMAINS:
        raise DatasetError(f"no domain for {dataset.name}", expected=sorted(DOMAINS), actual=dataset.name)
    held, rest = hold_out(dataset.samples, share=held_share, number=held_number)
    if not held or not rest:
        raise DatasetError(f"{dataset.name} has too few images to keep some aside", actual=len(dataset.samples))
    pictures = [read_picture(sample) for sample in rest]
    name = DOMAINS[dataset.name]
    drawn = tuple(simulate_pictures(name, SIMULATED_FRAMES[name])) if simulate else ()
    good = tuple(simulate_pictures(name, CLEAN_FRAMES[name], first_seed=CLEAN_SEED, defects=0)) if simulate else ()
    return Domain(
        name,
        train=tuple(p for p in pictures if len(p.boxes)),
        clean=(*(p for p in pictures if not len(p.boxes)), *good),
        held=tuple(read_picture(sample) for sample in held),
        simulated=drawn,
        framing=_FRAMINGS[name],
    )


def part_of(sample: Sample) -> str:
    """Returns the name that a board and its clean template share; of other samples the file's own."""
    return sample.part_id.removesuffix("_test").removesuffix("_temp")


def hold_out(
    samples: Iterable[Sample],
    *,
    share: float,
    group_of: Callable[[Sample], str] = part_of,
    number: int | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """Splits samples by part, every type of defect alike, into (held, rest).

    A part's images stay on one side. The order is by a hash of the part's name, so that a new image moves no other.

    Args:
        group_of: Returns the part that a sample shows.
        number: Which of the ``round(1 / share)`` shares that have no part in common, from 0; ``None`` for the middle
            one.
    """
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(group_of(sample), []).append(sample)

    def order(part: str) -> tuple[int, str]:
        first = next((int(s.labels[0]) for s in parts[part] if len(s.labels)), -1)
        return first, hashlib.sha256(part.encode()).hexdigest()

    every = max(2, round(1 / share))
    held: list[Sample] = []
    rest: list[Sample] = []
    chosen = every // 2 if number is None else number
    for place, part in enumerate(sorted(parts, key=order)):
        (held if place % every == chosen else rest).extend(parts[part])
    return held, rest


def read_picture(sample: Sample) -> TrainingPicture:
    """Decodes a sample's image to grey.

    Raises:
        DatasetError: The file is no image.
    """
    return TrainingPicture(read_pixels(sample.path, cv2.IMREAD_GRAYSCALE), sample.boxes, sample.labels)


def read_composed(sample: Sample) -> TrainingPicture:
    """Decodes a sample's image and composes it with its reference: ``(H, W, 3)``."""
    return TrainingPicture(composed_image(sample), sample.boxes, sample.labels)


def read_pair(sample: Sample) -> TrainingPicture:
    """Decodes a sample's image and its reference, registered, to compose them on each canvas anew: ``(H, W, 2)``."""
    pair = np.ascontiguousarray(composed_image(sample)[..., :2])
    return TrainingPicture(pair, sample.boxes, sample.labels)


def simulate_pictures(
    kind: Kind, count: int, *, first_seed: int = SIMULATED_SEED, defects: int | None = None
) -> Iterable[TrainingPicture]:
    """Renders ``count`` frames of the line simulator in grey, with seeds from ``first_seed`` on.

    Args:
        first_seed: The others follow it.
        defects: Of each frame at most, 0 for good ones; as the simulator likes if not given.
    """
    for number in range(count):
        frame = render(kind, seed=first_seed + number, defects=defects)
        yield TrainingPicture(to_grey(frame.image), np.asarray(frame.boxes, np.float32).reshape(-1, 4), frame.labels)
