"""Good parts for an evaluation: templates of the data set, and clean frames of the simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lineside_converters.data.calibration_data import AnnotatedFrame, AnnotatedFrames, annotated_frame
from lineside_converters.data.reference_frames import compares, split_by_registration
from lineside_models.datasets import ALL, Dataset, load_dataset
from lineside_models.datasets.folds import has_fold, parts_of
from lineside_models.frame import Frame
from lineside_models.labels import PCB, STEEL
from lineside_models.simulator import Kind, render
from lineside_runtime.bundle import Manifest
from lineside_runtime.errors import BadInputFormatError

CLEAN_SEED = 3_000_017
"""Neither training, nor the optimizer, nor the demo draws from this stream."""


@dataclasses.dataclass(frozen=True, slots=True)
class GoodParts:
    """Good parts of one source.

    Attributes:
        frames: Read or drawn when their turn comes.
        parts: Part that each frame shows; then those of the faults.
        faults: Further ones, which can't be compared with their reference.
    """

    source: str
    count: int
    frames: AnnotatedFrames
    parts: Sequence[str]
    faults: int = 0


def templates(root: Path, dataset: Dataset, fold: str, manifest: Manifest) -> list[GoodParts]:
    """Returns the data set's defect-free templates, without those of its train fold.

    For a model that compares frames with a reference another part is drawn from each template.
    """
    with_clean = load_dataset(root, fold, with_clean=True, references=compares(manifest))
    seen = {sample.path for sample in dataset.samples}
    if fold == ALL and has_fold(root, "train"):
        seen |= {sample.path for sample in load_dataset(root, "train", with_clean=True).samples}
    clean = [one for one in with_clean.samples if not len(one.labels) and one.path not in seen]
    samples, faults = split_by_registration(clean, manifest)
    if not clean:
        return []
    frames = AnnotatedFrames([partial(annotated_frame, one, (), number, dataset) for number, one in enumerate(samples)])
    source = "parts drawn from templates" if compares(manifest) else "templates"
    part_of = parts_of(root, dataset.name)
    parts = [part_of(one) for one in (*samples, *faults)]
    return [GoodParts(f"{source} of {dataset.name}, fold {fold}", len(samples), frames, parts, len(faults))]


def simulated(count: int, types: Sequence[str]) -> list[GoodParts]:
    """Returns clean frames of the line simulator, of the surfaces that the types lie on."""
    if not count:
        return []
    surfaces: tuple[tuple[Kind, Sequence[str]], ...] = (("steel", STEEL), ("pcb", PCB))
    kinds = [kind for kind, own in surfaces if set(own) & set(types)]
    if count < 0 or not kinds:
        raise BadInputFormatError(
            "clean simulator frames",
            expected="a number from 0, and types of steel strip or boards",
            actual=f"{count} for {', '.join(types)[:80]}",
            action="Leave out --clean-simulated for other surfaces.",
        )
    parts = [f"clean {number}" for number in range(count)]
    frames = AnnotatedFrames([partial(_draw, number, kinds[number % len(kinds)]) for number in range(count)])
    return [GoodParts(f"clean simulator frames ({' and '.join(kinds)})", count, frames, parts)]


def _draw(number: int, kind: Kind) -> AnnotatedFrame:
    seed = int(np.random.SeedSequence([CLEAN_SEED, number]).generate_state(1)[0])
    frame = Frame(
        image=render(kind, seed, defects=0).image, source="simulator", sequence=number, part_id=f"clean-{seed}"
    )
    return AnnotatedFrame(frame, np.empty((0, 4), np.float32), np.empty(0, np.int64))
