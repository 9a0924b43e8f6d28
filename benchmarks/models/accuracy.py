"""Accuracy of the shipped detectors on the validation folds of NEU-DET and DeepPCB.

Each detector is judged at its own thresholds and at ``confidence_threshold=0.9`` (one threshold for every type): by
box, by image and type, and by part. Intervals are by bootstrap over images, or over boards where that is wider: DeepPCB
shows each board in many places. No figure is a time, so the load of the machine does not matter.

The data are not part of the repository: `benchmarks.inputs.data` says where they are looked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.smoke import scaled
from lineside_converters.data.calibration_data import AnnotatedFrame, annotated_frame
from lineside_converters.evaluation.bundle_accuracy import find
from lineside_converters.evaluation.good_parts import GoodParts, simulated, templates
from lineside_converters.evaluation.part_verdicts import PartStrengths, factor_of, rate, strengths
from lineside_converters.gates.statistics import interval_of_f1, interval_of_map50, interval_of_ratio
from lineside_models import zoo
from lineside_models.datasets import Dataset, load_dataset
from lineside_models.datasets.base import evenly_spread
from lineside_models.datasets.folds import parts_of
from lineside_models.metrics import CONFIDENCE, Matched, evaluate, match_type, wilson
from lineside_models.postprocess import Candidates, thresholds_of
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

FOLD = "val"
CHOSEN_ON = "train"
CONFIDENCE_THRESHOLD = 0.9
RECALL = 0.99
CLEAN = scaled({"neu-det": 1000, "deeppcb": 200}, smoke={"neu-det": 2, "deeppcb": 2})
"""Clean frames of the line simulator that are judged as good parts, by data set."""

DETECTORS = {
    "surface-12": ("surface-12", "onnx-int8-mirrored"),
    "surface-12, onnx-int8": ("surface-12", "onnx-int8"),
    "surface-12-float": ("surface-12-float", "onnx-fp32"),
    "surface-starter": ("surface-starter", "onnx-int8"),
}
BARS = {
    "map50": {"neu-det": 0.77, "deeppcb": 0.95},
    "f1_images": {"neu-det": 0.98, "deeppcb": 0.98},
    "false_reject_rate": {"neu-det": 0.01, "deeppcb": 0.01},
}
FRAMES = scaled(None, smoke=2)
"""At most so many frames of each fold."""

Counts = npt.NDArray[np.int64]
"""``(images, 3)``: right, wrong, missed."""

WRONG, MISSED = 1, 2


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """What a detector finds in the frames of a fold.

    Attributes:
        truths: What is truly in each.
        found: All candidates in each.
        parts: The part that each shows.
        good: Source of good parts; candidates in each; the part that each shows.
    """

    truths: Sequence[AnnotatedFrame]
    found: Sequence[Candidates]
    parts: Sequence[str]
    good: Sequence[tuple[str, Sequence[Candidates], Sequence[str]]] = ()


def run() -> dict[str, Any]:
    """Judges every detector.

    Raises:
        FileNotFoundError: The data are not on this machine.
    """
    folders = {name: shared(name) for name in CLEAN}
    return {
        "baseline": f"annotations of the {FOLD} folds; thresholds and weights were chosen on the train folds",
        "fold": FOLD,
        "confidence": CONFIDENCE,
        "confidence_threshold": CONFIDENCE_THRESHOLD,
        "bars": BARS,
        "detectors": {name: _detector(bundle, variant, folders) for name, (bundle, variant) in DETECTORS.items()},
    }


def _detector(bundle: str, variant: str, folders: dict[str, Path]) -> dict[str, Any]:
    opened = open_bundle(zoo.path(bundle))
    config = Config(threads=1, engines=("ort",), variant=variant)
    with Session(opened, config) as session:
        if session.variant != variant:
            raise RuntimeError(f"{session.variant} runs and not {variant}")
        print(f"  {bundle} {variant} ...", file=sys.stderr, flush=True)
        return {
            "bundle": session.manifest.identity,
            "variant": variant,
            "sha256": identity_of(opened.path, variant),
            "sets": {name: _dataset(session, root, CLEAN[name]) for name, root in folders.items()},
        }


def identity_of(folder: Path, variant: str) -> str:
    """Returns a sha256 of what decides a variant's verdicts: its files, pre-processing, post-processing and labels.

    The digest of the manifest does not serve: it covers the model card, in which these figures stand.
    """
    manifest = json.loads((folder / "manifest.json").read_bytes())
    files = {name: each["sha256"] for name, each in manifest["files"].items() if name.startswith(f"{variant}/")}
    decides = [files, manifest["preprocess"], manifest["postprocess"], manifest["labels"]]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _dataset(session: Session, root: Path, clean: int) -> dict[str, Any]:
    dataset = load_dataset(root, FOLD)
    goods = [*templates(root, dataset, FOLD, session.manifest), *simulated(clean, dataset.labels)]
    judged = dataclasses.replace(
        _find(session, root, dataset), good=[(each.source, *_judged(session, each)) for each in goods]
    )
    seen = _find(session, root, load_dataset(root, CHOSEN_ON)).found
    labels = session.manifest.labels
    own = thresholds_of(session.manifest.postprocess, len(labels)).astype(np.float64)
    same = np.full(len(labels), CONFIDENCE_THRESHOLD)
    factor = factor_of(strengths(seen, own), RECALL)
    low, high = interval_of_map50(judged.truths, judged.found, types=len(labels), parts=judged.parts)
    figures = evaluate(judged.truths, judged.found, labels=labels, thresholds=own)
    types = {name: each for name, each in figures.classes.items() if name in dataset.labels}
    return {
        "frames": len(judged.truths),
        "parts": len(set(judged.parts)),
        "map50": round(figures.map50, 4),
        "map50_interval": [round(low, 4), round(high, 4)],
        "ap50": {name: None if each.ap50 is None else round(each.ap50, 4) for name, each in types.items()},
        "shipped": _at(dataset, labels, judged, own),
        "at_0.9": _at(dataset, labels, judged, same),
        "at_99_recall": {
            "chosen_on": f"fold {CHOSEN_ON}",
            "factor": round(factor, 4),
            "parts": _parts(judged, own * factor),
        },
    }


def _at(dataset: Dataset, labels: Sequence[str], judged: Judged, bars: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Returns counts and rates at some thresholds, one a type."""
    boxes: dict[str, Counts] = {}
    images: dict[str, Counts] = {}
    for label, name in enumerate(labels):
        if name in dataset.labels:
            matched = match_type(judged.truths, judged.found, label)
            boxes[name], images[name] = _box_counts(matched, bars[label]), _image_counts(matched, bars[label])
    none, parts = np.zeros((len(judged.truths), 3), np.int64), judged.parts
    return {
        "boxes": _rates(sum(boxes.values(), none), parts),
        "images": _rates(sum(images.values(), none), parts),
        "parts": _parts(judged, bars),
        "types": {name: {"boxes": _rates(boxes[name], parts), "images": _rates(images[name], parts)} for name in boxes},
    }


def _box_counts(matched: Matched, bar: float) -> Counts:
    """Counts the boxes of one type in each image."""
    count = len(matched.truths)
    above = matched.scores >= bar
    right = np.bincount(matched.image[above & matched.right], minlength=count)
    wrong = np.bincount(matched.image[above & ~matched.right], minlength=count)
    return np.stack([right, wrong, matched.truths - right], axis=1)


def _image_counts(matched: Matched, bar: float) -> Counts:
    """Counts, for each image, whether one type is in it and whether it was found."""
    claimed = np.bincount(matched.image[matched.scores >= bar], minlength=len(matched.truths)) > 0
    really = matched.truths > 0
    return np.stack([really & claimed, ~really & claimed, really & ~claimed], axis=1).astype(np.int64)


def _rates(counts: Counts, parts: Sequence[str]) -> dict[str, Any]:
    """Returns sums and rates with bootstrap intervals; images are drawn with everything in them."""
    right, wrong, missed = (int(each) for each in counts.sum(axis=0))
    low, high = interval_of_f1(counts, parts=parts)
    return {
        "right": right,
        "wrong": wrong,
        "missed": missed,
        "precision": _share(right, right + wrong),
        "precision_interval": _interval(counts, WRONG, parts),
        "recall": _share(right, right + missed),
        "recall_interval": _interval(counts, MISSED, parts),
        "f1": _share(2 * right, 2 * right + wrong + missed),
        "f1_interval": [round(low, 4), round(high, 4)],
    }


def _share(part: float, whole: float) -> float | None:
    """Returns a share; ``None`` where there is nothing to take a share of."""
    return round(float(part / whole), 4) if whole else None


def _interval(counts: Counts, other: int, parts: Sequence[str]) -> list[float] | None:
    """Returns the interval of the share of the right ones among them and those of another column.

    Where all or none are right, every draw gives the same share: there the interval is Wilson's, as for independent
    trials.
    """
    right, others = counts[:, 0], counts[:, other]
    total = int(right.sum() + others.sum())
    if not total:
        return None
    if not right.sum() or not others.sum():
        return [round(end, 4) for end in wilson(int(right.sum()), total)]
    return [round(end, 4) for end in interval_of_ratio(right, right + others, parts=parts)]


def _parts(judged: Judged, bars: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Returns how many bad and good parts are rejected: a part is rejected if any find reaches its threshold."""
    bad = [number for number, truth in enumerate(judged.truths) if len(truth.labels)]
    found, parts = [judged.found[number] for number in bad], [judged.parts[number] for number in bad]
    return {
        "bad": _rejected("bad parts", found, parts, bars),
        "good": [_rejected(source, candidates, shown, bars) for source, candidates, shown in judged.good],
    }


def _rejected(
    source: str, found: Sequence[Candidates], parts: Sequence[str], bars: npt.NDArray[np.float64]
) -> dict[str, Any]:
    counted = rate(source, PartStrengths(strengths(found, bars), parts), 1.0)
    return {
        "source": source,
        "parts": counted.parts,
        "rejected": counted.rejected,
        "rate": round(counted.rate, 4),
        "interval": [round(counted.interval.low, 4), round(counted.interval.high, 4)],
    }


def _find(session: Session, root: Path, dataset: Dataset) -> Judged:
    samples = evenly_spread(dataset.samples, FRAMES)
    labels, part_of = session.manifest.labels, parts_of(root, dataset.name)
    frames = (annotated_frame(one, labels, number, dataset) for number, one in enumerate(samples))
    truths, judged = find(session, frames, total=len(samples))
    return Judged(truths, [each.candidates for each in judged], [part_of(one) for one in samples])


def _judged(session: Session, goods: GoodParts) -> tuple[list[Candidates], Sequence[str]]:
    count = FRAMES or goods.count
    found = [each.candidates for each in find(session, itertools.islice(goods.frames, count))[1]]
    return found, goods.parts[: len(found)]
