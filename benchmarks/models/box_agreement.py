"""What limits steel: how exactly boxes agree with the annotated ones of NEU-DET, and two networks with each other.

``ap``: average precision on the validation fold at other least overlaps than 0.5. ``area``: overlap of the area that
all boxes of a type cover together in a frame, found at the type's threshold and annotated: it does not depend on how a
texture is divided into boxes. ``networks``: average precision of `surface-12` if the boxes of `surface-12-float`, at
its thresholds, are taken for annotations; the second is the parent that the first was pruned from, so that they agree
more than two independent networks would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside_converters.data.calibration_data import AnnotatedFrame, annotated_frame
from lineside_converters.evaluation.bundle_accuracy import find
from lineside_models import zoo
from lineside_models.datasets import Dataset, load_dataset
from lineside_models.metrics import FoundBoxes, TrueBoxes, evaluate
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_runtime.config import Config
from lineside_runtime.session import Session

DATA = "neu-det"
FOLD = "val"
BUNDLE, OTHER = "surface-12", "surface-12-float"
OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.75)
FRAMES = scaled(None, smoke=2)


@dataclasses.dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one frame that are taken for annotations."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def run() -> dict[str, Any]:
    """Runs both networks over the fold and compares boxes."""
    dataset = load_dataset(shared(DATA), FOLD)
    truths, found, bars, labels = _find(BUNDLE, dataset)
    _, others, other_bars, _ = _find(OTHER, dataset)
    own = [_above(each, bars) for each in found]
    taken = [_above(each, other_bars) for each in others]
    by_overlap = {f"{overlap:g}": _precisions(truths, found, labels, overlap) for overlap in OVERLAPS}
    between = {f"{overlap:g}": _precisions(taken, found, labels, overlap) for overlap in OVERLAPS}
    types = [name for name in labels if name in dataset.labels]
    return {
        "baseline": "annotations",
        "bundle": BUNDLE,
        "other": OTHER,
        "data": DATA,
        "fold": FOLD,
        "frames": len(truths),
        "types": {
            name: {
                "boxes": sum(int((each.labels == labels.index(name)).sum()) for each in truths),
                "ap": {overlap: each.get(name) for overlap, each in by_overlap.items()},
                "area": _area(truths, own, labels.index(name)),
                "networks": {overlap: each.get(name) for overlap, each in between.items()},
            }
            for name in types
        },
    }


def _find(
    bundle: str, dataset: Dataset
) -> tuple[list[AnnotatedFrame], list[Candidates], npt.NDArray[np.float64], list[str]]:
    with Session(zoo.path(bundle), Config(threads=1, engines=("ort",))) as session:
        manifest = session.manifest
        frames = (
            annotated_frame(one, manifest.labels, number, dataset)
            for number, one in enumerate(dataset.samples[:FRAMES])
        )
        truths, judged = find(session, frames)
        bars = thresholds_of(manifest.postprocess, len(manifest.labels)).astype(np.float64)
        return truths, [each.candidates for each in judged], bars, list(manifest.labels)


def _above(found: Candidates, bars: npt.NDArray[np.float64]) -> Boxes:
    rows = found.scores >= bars[found.labels]
    return Boxes(found.boxes[rows], found.labels[rows])


def _precisions(
    truths: Sequence[TrueBoxes], found: Sequence[FoundBoxes], labels: Sequence[str], overlap: float
) -> dict[str, float]:
    figures = evaluate(truths, found, labels=labels, thresholds=0.5, min_iou=overlap)
    return {name: round(each.ap50, 4) for name, each in figures.classes.items() if each.ap50 is not None}


def _area(truths: Sequence[TrueBoxes], found: Sequence[TrueBoxes], label: int) -> dict[str, float]:
    """Returns overlap, precision and recall of the pixels in any box of a type, over all frames."""
    both = claimed = really = 0
    for truth, each in zip(truths, found, strict=True):
        true, mine = (_covered(of.boxes[of.labels == label]) for of in (truth, each))
        both, claimed, really = both + int((true & mine).sum()), claimed + int(mine.sum()), really + int(true.sum())
    union = claimed + really - both
    shares = {"overlap": (both, union), "precision": (both, claimed), "recall": (both, really)}
    return {name: round(part / whole, 4) if whole else 0.0 for name, (part, whole) in shares.items()}


def _covered(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Returns the pixels ``(256, 256)`` in any of the boxes; frames of NEU-DET have 200 a side."""
    covered = np.zeros((256, 256), np.bool_)
    for x1, y1, x2, y2 in boxes.round().astype(int).tolist():
        covered[max(0, y1) : y2, max(0, x1) : x2] = True
    return covered
