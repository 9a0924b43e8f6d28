"""Few labelled defects of one kind and good parts, on magnetic tiles: `lineside learn-good --bad`.

Five times the tiles are divided: about 150 good frames and 10, 25 or 50 bad ones of one kind are learned from two
thirds of the tiles, and all good frames and those of this kind on the other tiles are judged. Baseline: the good frames
alone. Escapes are of the judged bad frames, at the threshold that rejects 1 % of the judged good ones, so that methods
are compared at one rate; ``own`` is the threshold that `learn-good` chose from the good parts that it learned. Times
are processor time. `few_defects.fine_tuning` trains networks on the same frames.

``named``: bad frames of all kinds are marked; how many of the judged ones whose strongest region is named have the
right name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.inputs.tiles import Ints, Tile, tiles
from benchmarks.models.few_defects.splits import (
    COUNTS,
    KINDS,
    SEEDS,
    TOLERATED,
    Bools,
    Floats,
    Split,
    judged_frames,
    of_kind,
    rates_of,
    say,
    summarize,
)
from benchmarks.models.few_defects.training import meets
from lineside_models.anomaly.copy_paste import squared
from lineside_models.anomaly.defect_head import MarkedFrame, collect_marked
from lineside_models.anomaly.features import FrameFeatures, collect_features
from lineside_models.anomaly.learning import PASTED_ON, AnomalyModel, LearningOptions, fit, joined
from lineside_models.anomaly.names import HEAD, TYPES, map_name
from lineside_models.frame import Frame
from lineside_models.postprocess import Candidates
from lineside_models.postprocess.decoders.anomaly import anomaly_maps
from lineside_models.preprocess import prepare


def run() -> dict[str, Any]:
    """Measures each kind and number of labels."""
    images = tiles()
    started_s = time.process_time()
    features = collect_features(
        Frame(image=each.image(), source=each.path.name, part_id=f"{each.tile:06d}") for each in images
    )
    feature_s = (time.process_time() - started_s) / len(images)
    splits = [Split(images, seed) for seed in range(SEEDS)]
    banks = [fit(features.of(split.good), LearningOptions(seed=seed)) for seed, split in enumerate(splits)]
    say("banks fitted")
    return {
        "baseline": "learn-good without marked defects",
        "seeds": SEEDS,
        "good_frames": [len(split.good) for split in splits],
        "tolerated": TOLERATED,
        "rows": list(_learned(images, features, splits, banks, feature_s)),
        "named": {f"{count}": _named(images, features, splits, banks, count) for count in COUNTS},
    }


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
                chosen = of_kind(images, split.candidates, kind)[:count]
                started_s = time.process_time()
                known = model if not count else _with_marks(images, features, split, model, chosen, seed)
                seconds = time.process_time() - started_s + feature_s * (len(split.good) + len(chosen))
                seconds += sum(model.seconds.values()) * (count > 0)
                judged, good = judged_frames(images, split, kind)
                if good.all():
                    continue
                rows = tuple(cells[:, judged] for cells in features.scales)
                sums = known.sums(rows)
                finds = _finds(images, known, tuple(cells[:, ~good] for cells in rows), judged[~good])
                hits = [
                    meets(found.boxes[0], images[place].boxes())
                    for found, place in zip(finds, judged[~good], strict=True)
                ]
                outcomes.append(
                    {
                        "labels": len(chosen),
                        "seconds": seconds,
                        **rates_of(sums, good, np.array(hits)),
                        **_own(known, sums, good),
                    }
                )
            say(f"{kind}, {count} marked")
            yield {"method": "learn-good", "kind": kind, "count": count, **summarize(outcomes)}


def _with_marks(
    images: Sequence[Tile], features: FrameFeatures, split: Split, model: AnomalyModel, chosen: Ints, seed: int
) -> AnomalyModel:
    """Fits the model again with marked frames, whose defects have the type of the frame."""
    how = features.source.manifest.preprocess
    good = np.random.default_rng(seed).permutation(split.good)[:PASTED_ON]
    marks = [images[place] for place in chosen]
    boxes = [one.boxes() for one in marks]
    marked = collect_marked(
        [
            MarkedFrame(Frame(image=one.image()), its, (one.kind,) * max(1, len(its)))
            for one, its in zip(marks, boxes, strict=True)
        ],
        [squared(images[place].image(), how) for place in good],
        seed=seed,
    )
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
        values = model.types.values(joined(model.banks, tuple(cells[0] for cells in rows)))
        params["types"] = map_name(TYPES)
        outputs[params["types"]] = values.reshape(len(values), model.side, model.side, -1)
    how = model.source.manifest.preprocess
    letterboxes = [prepare(images[place].image(), how)[1] for place in places]
    return anomaly_maps(outputs, params, letterboxes)


def _square(cells: Floats) -> Floats:
    side = round(cells.shape[1] ** 0.5)
    return cells.reshape(-1, side, side)


def _own(model: AnomalyModel, sums: Floats, good: Bools) -> dict[str, float]:
    above = sums >= model.threshold.value
    return {"own_escapes": float((~above[~good]).mean()), "own_false_rejects": float(above[good].mean())}


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
        finds = _finds(images, known, tuple(cells[:, judged] for cells in features.scales), judged)
        for one, place in zip(finds, judged, strict=True):
            label = int(one.labels[0])
            found["frames"] += 1
            found["named"] += label > 0
            found["right"] += label > 0 and names[label - 1] == images[place].kind
    return found
