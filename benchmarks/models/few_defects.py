"""Few labelled defects of one kind and good parts, on magnetic tiles: `lineside learn-good --bad` and fine-tuning.

Five times the tiles are divided: about 150 good frames and 10, 25 or 50 bad ones of one kind are learned from two
thirds of the tiles, and all good frames and those of this kind on the other tiles are judged. Every method learns from
the same frames: `learn-good` with the banks alone and with the marked defects, and the fine-tuned networks of
`lineside train` (float, one thread, ``--minutes`` of processor time each). Escapes are of the judged bad frames, at the
threshold that rejects 1 % of the judged good ones, so that methods are compared at one rate; ``own`` is the threshold
that `learn-good` chose itself from the good parts that it learned. Times are processor time.

``named``: bad frames of all kinds are marked; how many of the judged ones whose strongest region is named have the
right name. anomalib isn't compared: its backbones' weights can't be had without a download from a model hub.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.tiles import Ints, Tile, draw, folds, tiles
from benchmarks.models.fine_tuned import fine_tuned, meets
from benchmarks.smoke import scaled
from lineside_models.anomaly.defect_head import MarkedFeatures, cells_in
from lineside_models.anomaly.features import FrameFeatures, collect_features
from lineside_models.anomaly.learning import AnomalyModel, LearningOptions, fit, joined
from lineside_models.anomaly.names import HEAD, TYPES, map_name
from lineside_models.frame import Frame
from lineside_models.metrics import auroc
from lineside_models.postprocess import Candidates
from lineside_models.postprocess.anomaly import anomaly_maps
from lineside_models.preprocess import prepare

KINDS = scaled(("MT_Blowhole", "MT_Break", "MT_Uneven"), smoke=("MT_Break",))
FINE_TUNED_KIND = KINDS[0]
COUNTS = scaled((10, 25, 50), smoke=(2,))
FINE_TUNED_COUNTS = scaled({"classifier": COUNTS, "detector": COUNTS[1:2], "segmenter": COUNTS[1:2]}, smoke={})
SEEDS = scaled(5, smoke=1)
PARTS = scaled(3, smoke=2)
GOOD_FRAMES = scaled(150, smoke=12)
TOLERATED = 0.01
MINUTES = 0.4

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Split:
    """Frames of one division of the tiles.

    Attributes:
        good: Indices of the good frames that are learned.
        candidates: Indices of the bad frames of the same tiles, in the order in which they are labelled.
        judged: Indices of the frames of the other tiles.
    """

    def __init__(self, images: Sequence[Tile], seed: int) -> None:
        numbers = np.array([each.tile for each in images], np.int64)
        good = np.array([not each.kind for each in images])
        others = np.isin(numbers, folds(numbers, PARTS, seed)[0])
        learned = np.flatnonzero(good & ~others)
        self.good: Ints = learned[draw(numbers[learned], GOOD_FRAMES, seed)]
        self.candidates: Ints = np.random.default_rng(seed).permutation(np.flatnonzero(~good & ~others))
        self.judged: Ints = np.flatnonzero(others)


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Measures all methods.

    Args:
        minutes: Processor time of each fine-tuning, about.
    """
    images = tiles()
    started_s = time.process_time()
    features = collect_features(
        Frame(image=each.image(), source=each.path.name, part_id=f"{each.tile:06d}") for each in images
    )
    feature_s = (time.process_time() - started_s) / len(images)
    splits = [Split(images, seed) for seed in range(SEEDS)]
    banks = [fit(features.of(split.good), LearningOptions(seed=seed)) for seed, split in enumerate(splits)]
    _say("banks fitted")
    rows = [*_learned(images, features, splits, banks, feature_s), *_fine_tuned(images, splits, minutes)]
    return {
        "baseline": "fine-tuned networks on the same frames; learn-good without marked defects",
        "seeds": SEEDS,
        "good_frames": [len(split.good) for split in splits],
        "tolerated": TOLERATED,
        "minutes": minutes,
        "rows": rows,
        "named": {f"{count}": _named(images, features, splits, banks, count) for count in COUNTS},
    }


def _say(text: str) -> None:
    print(f"few_defects: {text}", file=sys.stderr, flush=True)


def _of_kind(images: Sequence[Tile], chosen: Ints, kind: str) -> Ints:
    return np.array([place for place in chosen if images[place].kind == kind], np.int64)


def _judged(images: Sequence[Tile], split: Split, kind: str) -> tuple[Ints, Bools]:
    """Returns the judged frames of a kind and the good ones, and which of them are good."""
    chosen = np.array([place for place in split.judged if images[place].kind in ("", kind)], np.int64)
    return chosen, np.array([not images[place].kind for place in chosen])


def _learned(
    images: Sequence[Tile],
    features: FrameFeatures,
    splits: Sequence[Split],
    banks: Sequence[AnomalyModel],
    feature_s: float,
) -> Iterator[dict[str, Any]]:
    for kind in KINDS:
        for count in (0, *COUNTS):
            outcomes = []
            for seed, (split, model) in enumerate(zip(splits, banks, strict=True)):
                chosen = _of_kind(images, split.candidates, kind)[:count]
                started_s = time.process_time()
                known = model if not count else _with_marks(images, features, split, model, chosen, seed)
                seconds = time.process_time() - started_s + feature_s * (len(split.good) + len(chosen))
                seconds += sum(model.seconds.values()) * (count > 0)
                judged, good = _judged(images, split, kind)
                if good.all():
                    continue
                rows = tuple(cells[0, judged] for cells in features.scales)
                sums = known.sums(rows)
                finds = _finds(images, known, tuple(cells[~good] for cells in rows), judged[~good])
                hits = [
                    meets(found.boxes[0], images[place].boxes())
                    for found, place in zip(finds, judged[~good], strict=True)
                ]
                outcomes.append(
                    {
                        "labels": len(chosen),
                        "seconds": seconds,
                        **_rates(sums, good, np.array(hits)),
                        **_own(known, sums, good),
                    }
                )
            _say(f"{kind}, {count} marked")
            yield {"method": "learn-good", "kind": kind, "count": count, **_summary(outcomes)}


def _with_marks(
    images: Sequence[Tile], features: FrameFeatures, split: Split, model: AnomalyModel, chosen: Ints, seed: int
) -> AnomalyModel:
    """Fits the model again with marked frames, whose defects have the type of the frame."""
    side = round(features.scales[0].shape[2] ** 0.5)
    marks = [images[place] for place in chosen]
    defects = np.stack([cells_in(one.boxes(), one.image().shape[:2], side) for one in marks])
    names = tuple(sorted({one.kind for one in marks}))
    types = np.repeat([[names.index(one.kind)] for one in marks], side * side, axis=1)
    marked = MarkedFeatures(features.of(chosen), defects, types, names)
    return fit(features.of(split.good), LearningOptions(seed=seed), marked=marked, banks=model.banks)


def _finds(images: Sequence[Tile], model: AnomalyModel, rows: tuple[Floats, ...], places: Ints) -> list[Candidates]:
    """Returns the regions of some frames, as the bundle's decoder finds them."""
    names = [map_name(stride) for stride in model.strides] + [map_name(HEAD)] * (model.head is not None)
    maps = [_square(cells)[:, None] for cells in model.maps(rows)]
    params: dict[str, Any] = {
        "maps": names,
        "calibration": [model.threshold.calibration],
        "peak_cells": model.peak_cells,
    }
    outputs = dict(zip(names, maps, strict=True))
    if model.types is not None:
        values = model.types.values(joined(model.banks, rows))
        params["types"] = map_name(TYPES)
        outputs[params["types"]] = values.reshape(len(values), model.side, model.side, -1)
    how = model.source.manifest.preprocess
    letterboxes = [prepare(images[place].image(), how)[1] for place in places]
    return anomaly_maps(outputs, params, letterboxes)


def _square(cells: Floats) -> Floats:
    side = round(cells.shape[1] ** 0.5)
    return cells.reshape(-1, side, side)


def _rates(scores: Floats, good: Bools, hits: Bools) -> dict[str, float]:
    """Returns AUROC, escapes at the tolerated rate, and how many of the strongest regions meet the defect."""
    highest = np.sort(scores[good])[::-1]
    threshold = highest[int(TOLERATED * len(highest))]
    return {
        "auroc": auroc(scores[good], scores[~good]),
        "escapes": float((scores[~good] <= threshold).mean()),
        "met": float(hits.mean()),
    }


def _own(model: AnomalyModel, sums: Floats, good: Bools) -> dict[str, float]:
    above = sums >= model.threshold.value
    return {"own_escapes": float((~above[~good]).mean()), "own_false_rejects": float(above[good].mean())}


def _summary(outcomes: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Returns the mean of each figure over the divisions, and the lowest and highest escapes."""
    found: dict[str, Any] = {
        name: round(statistics.mean(each[name] for each in outcomes), 4) for name in (outcomes[0] if outcomes else ())
    }
    escapes = [round(each["escapes"], 4) for each in outcomes]
    return {**found, "escapes_each": escapes}


def _fine_tuned(images: Sequence[Tile], splits: Sequence[Split], minutes: float) -> Iterator[dict[str, Any]]:
    for method, counts in FINE_TUNED_COUNTS.items():
        for count in counts:
            outcomes = []
            for seed, split in enumerate(splits):
                chosen = _of_kind(images, split.candidates, FINE_TUNED_KIND)[:count]
                judged, good = _judged(images, split, FINE_TUNED_KIND)
                learned = [images[place] for place in np.concatenate([split.good, chosen])]
                scores, hits, seconds = fine_tuned(method, learned, [images[place] for place in judged], seed, minutes)
                outcomes.append({"labels": len(chosen), "seconds": seconds, **_rates(scores, good, hits[~good])})
                _say(f"{method}, {count} labelled, {seed}: {outcomes[-1]}")
            yield {"method": method, "kind": FINE_TUNED_KIND, "count": count, **_summary(outcomes)}


def _named(
    images: Sequence[Tile],
    features: FrameFeatures,
    splits: Sequence[Split],
    banks: Sequence[AnomalyModel],
    count: int,
) -> dict[str, int]:
    """Marks frames of all kinds; counts judged bad frames of these kinds, named ones and rightly named ones."""
    found = {"frames": 0, "named": 0, "right": 0}
    for seed, (split, model) in enumerate(zip(splits, banks, strict=True)):
        known = _with_marks(images, features, split, model, split.candidates[:count], seed)
        if known.types is None:
            raise RuntimeError("marked frames have types")
        names = known.types.names
        judged = np.array([place for place in split.judged if images[place].kind in names], np.int64)
        finds = _finds(images, known, tuple(cells[0, judged] for cells in features.scales), judged)
        for one, place in zip(finds, judged, strict=True):
            label = int(one.labels[0])
            found["frames"] += 1
            found["named"] += label > 0
            found["right"] += label > 0 and names[label - 1] == images[place].kind
    return found
