"""Federated training across plants beside the same training of all frames together and of each plant alone.

Three plants share the train fold of a data set, once by part at random and once by type: each then lacks two types. All
begin with the same weights, trained shortly on frames of the line simulator. Each plant and the coordinator is a
process of ``lineside federate``; a real broker is between them. Pooled training sees as many pictures in as many steps,
with batches of all plants' size together; a plant alone takes as many steps as it takes in the federation. Judged on
the validation fold, which no training reads. Each seed has first weights, orders of pictures and trainings of its own:
so short a training differs by several points from the same one of another seed. Every stage is kept, so that a run that
was stopped goes on.

This benchmark does so with neu-det, `federated.boards` with deeppcb. Here a second part adds up vectors of a large
detector's length with drop-outs before each step.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.hub.federated.processes import run_federation, train_first
from benchmarks.hub.federated.splits import PLANTS, STRIPS, Frames, write_all, write_plants
from benchmarks.hub.pool import run_rounds
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.training.data.samples import read_picture
from lineside_converters.training.detection.accuracy import find_all
from lineside_converters.training.plant_training import (
    LOCAL_NAME,
    FirstWeights,
    PlantTrainer,
    Weights,
    read_first_weights,
)
from lineside_hub.federation.training_round import read_weights
from lineside_link.aggregation.messages import largest_value
from lineside_models.datasets import load_dataset
from lineside_models.metrics import evaluate

BATCH = scaled(8, smoke=4)
SETTINGS = {
    "architecture": "lite0-short@32",
    "canvas_px": 128,
    "batch": BATCH,
    "learning_rate": 1.2e-3,
    "held_share": scaled(0.08, smoke=0.4),
}
ROUNDS, STEPS = scaled((30, 20), smoke=(1, 1))
SEEDS = scaled((0, 1, 2), smoke=(0,))
LENGTH = scaled(1_000_000, smoke=1000)
CORES = min(2, len(os.sched_getaffinity(0)))
POOLED_BAR, LACKED_BAR, BYTES_BAR = 0.97, 0.05, 2.0
PLAIN, OUTER, OFTEN = "plain average", "outer rate 1.73", "outer rate 1.73, four times as many rounds"
TWO_STEPS = "outer rate 1.73, ten times as many rounds"
FEDERATIONS = scaled(
    (
        *(("by type", variant) for variant in (PLAIN, OUTER, OFTEN)),
        *(("by part", variant) for variant in (OUTER, OFTEN, TWO_STEPS)),
    ),
    smoke=(("by part", ""),),
)
"""Split and variant. A smoke run starts no processes of plants: `tests/system/test_federation.py` does."""

_RATE = ("--outer-rate", 1.73)
VARIANTS: dict[str, tuple[int, int, tuple[str | float, ...]]] = {
    PLAIN: (ROUNDS, STEPS, ()),
    OUTER: (ROUNDS, STEPS, _RATE),
    OFTEN: (4 * ROUNDS, STEPS // 4, _RATE),
    TWO_STEPS: (10 * ROUNDS, STEPS // 10, _RATE),
}
"""Rounds, steps a round, and options of ``federate init``. AdamW's steps are the shorter, the more noise is in the
gradient, so that the mean of three plants moves less than pooled training with three times the batch: by about the
square root of 3. With more and shorter rounds the plants part less from each other between two averages."""


def run() -> dict[str, Any]:
    """Trains all variants of the strips and measures the sums."""
    return {
        **compare(STRIPS, kept(".federated"), FEDERATIONS, SEEDS),
        "sums": run_rounds(
            scaled((3, 5), smoke=(3,)),
            rounds=scaled(3, smoke=1),
            length=LENGTH,
            bits=16,
            value_max=lambda count: largest_value(count, 16),
        ),
    }


def compare(frames: Frames, work: Path, federations: Sequence[tuple[str, str]], seeds: Sequence[int]) -> dict[str, Any]:
    """Trains what is missing, and compares.

    Args:
        work: Folder of the stages.
        federations: Split and variant of each.
    """
    work.mkdir(exist_ok=True)
    everything = write_all(work / "all", frames, "train")
    judged = write_all(work / "judged", frames, "val")
    splits = {split: write_plants(work / split.replace(" ", "-"), frames, split) for split, _ in federations}
    folders = _Folders(everything, judged, splits)
    found = [_run_seed(work / f"seed-{seed}", seed, frames, folders, federations) for seed in seeds]
    return {
        "baseline": "all frames in one place; each plant alone",
        "sizes": {**SETTINGS, "plants": PLANTS, "rounds": ROUNDS, "steps": STEPS, "numbers_of_a_sum": LENGTH},
        "bars": {"of_pooled": POOLED_BAR, "above_alone_on_lacked": LACKED_BAR, "bytes_of_weights": BYTES_BAR},
        "lacked": frames.lacked,
        "judged": _count(judged),
        "seeds": list(seeds),
        "pooled": _mean([each["pooled"]["map50"] for each in found]),
        "splits": {
            split: {"pictures": [_count(folder) for folder in folders], **_compared([each[split] for each in found])}
            for split, folders in splits.items()
        },
    }


class _Folders(NamedTuple):
    everything: Path
    judged: Path
    splits: Mapping[str, Sequence[Path]]


def _run_seed(
    work: Path, seed: int, frames: Frames, folders: _Folders, federations: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Returns the pooled training of a seed, and for each split its federations and the plants alone."""
    work.mkdir(exist_ok=True)
    first = train_first(work / "first", frames, {**SETTINGS, "seed": seed}, epochs=scaled(2, smoke=1))
    start = read_first_weights(first)
    alone = partial(_alone, start, folders.judged)
    jobs = {"pooled": partial(alone, folders.everything, work / "pooled", PLANTS * BATCH)}
    for split, plants in folders.splits.items():
        for number, plant in enumerate(plants):
            jobs[f"{split}-{number}"] = partial(alone, plant, work / f"{split}-{number}", BATCH)
    files = [work / f"{name}.json" for name in jobs]
    if SMOKE:
        done = list(map(_stage, files, jobs.values()))
    else:
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(_stage, files, jobs.values()))
    by_name = dict(zip(jobs, done, strict=True))
    found: dict[str, dict[str, Any]] = {"pooled": by_name["pooled"]}
    for split, plants in folders.splits.items():
        rows = [by_name[f"{split}-{number}"] for number in range(len(plants))]
        found[split] = {"alone": _together(rows, frames)}
    for split, variant in federations:
        if variant:
            compute = partial(_federated, work, first, frames, folders, split, variant)
            found[split][variant] = _stage(work / f"{split}-{variant}.json", compute)
    for split in folders.splits:
        for row in found[split].values():
            pooled = found["pooled"]["map50"]
            row["of_pooled"] = round(row["map50"] / pooled, 4) if pooled else 0.0
    return found


def _stage(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(compute()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _count(folder: Path) -> int:
    return len((folder / "folds.csv").read_text().splitlines()) - 1


def _new_trainer(start: FirstWeights, data: Path, out: Path, *, batch: int) -> PlantTrainer:
    (out / LOCAL_NAME).unlink(missing_ok=True)
    return _trainer(start, data, out, batch=batch)


def _trainer(start: FirstWeights, data: Path, out: Path, *, batch: int) -> PlantTrainer:
    return PlantTrainer({**start.settings, "batch": batch}, start.labels, data=[data], out=out, threads=1)


def _trained(trainer: PlantTrainer, start: FirstWeights) -> Weights:
    """Trains as long as a plant in the federation, without averaging."""
    found = trainer.train(start.weights, start.shared, number=1, rounds=1, steps=ROUNDS * STEPS)
    if found is None:
        raise RuntimeError("a training alone ended without an answer")
    return {**start.weights, **{name: start.weights[name] + change for name, change in found[0].items()}}


def _alone(start: FirstWeights, judged: Path, data: Path, out: Path, batch: int) -> dict[str, Any]:
    trainer = _new_trainer(start, data, out, batch=batch)
    return judge(trainer, judged, _trained(trainer, start))


def _federated(work: Path, first: Path, frames: Frames, folders: _Folders, split: str, variant: str) -> dict[str, Any]:
    out = work / f"{split}-{variant}".replace(" ", "-")
    rounds, steps, options = VARIANTS[variant]
    plants = folders.splits[split]
    state = run_federation(first, plants, out, rounds=rounds, steps=steps, options=options)
    start = read_first_weights(first)
    weights = read_weights(out / "coordinator" / f"weights-{rounds}.npz")
    trainer = _trainer(start, plants[0], out / "plant-0" / "result", batch=BATCH)  # that of all plants is the same
    trainer.take(weights, state["settings"]["shared"])
    sizes = [
        (each["sent_bytes"] + each["received_bytes"]) / PLANTS / state["weights_bytes"] for each in state["rounds"]
    ]
    return {
        **_together([judge(trainer, folders.judged, None)] * PLANTS, frames),
        "plants": [len(each["plants"]) for each in state["rounds"]],
        "weights_bytes": state["weights_bytes"],
        "bytes_of_weights": round(max(sizes), 3),
        "seconds": round(sum(each["seconds"] for each in state["rounds"]), 1),
        "scores": [each["score"] for each in state["rounds"]],
    }


def judge(trainer: PlantTrainer, judged: Path, weights: Weights | None) -> dict[str, Any]:
    """Returns mAP@0.5 and each type's AP of the trainer's network with these weights.

    Args:
        judged: Folder of the frames that it is judged on.
    """
    if weights is not None:
        trainer.take(weights, tuple(weights))
    dataset = load_dataset(judged, "train")
    order = [dataset.vocabulary.index(name) if name in dataset.vocabulary else -1 for name in trainer.labels]
    number_of = {old: new for new, old in enumerate(order) if old >= 0}
    pictures = [read_picture(sample) for sample in dataset.samples]
    pictures = [
        type(each)(each.image, each.boxes, np.array([number_of[int(label)] for label in each.labels], np.int64))
        for each in pictures
    ]
    found = evaluate(
        pictures, find_all(trainer.network, pictures, trainer.preprocess), labels=trainer.labels, thresholds=0.5
    )
    return {
        "map50": round(found.map50, 4),
        "ap50": {name: each.ap50 for name, each in found.classes.items() if each.ap50 is not None},
    }


def _together(plants: Sequence[dict[str, Any]], frames: Frames) -> dict[str, Any]:
    """Returns the mean over plants, and their mean AP on the types that each lacks in the split by type."""
    lacked = [plants[number]["ap50"].get(name, 0.0) for number, names in enumerate(frames.lacked) for name in names]
    mean = statistics.mean(each["map50"] for each in plants)
    return {"map50": round(mean, 4), "lacked_ap50": round(statistics.mean(lacked), 4)}


def _compared(seeds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns the figures of the goals for each way of training in a split."""
    return {
        name: {
            **{key: _mean([each[name][key] for each in seeds]) for key in ("map50", "lacked_ap50", "of_pooled")},
            "runs": [each[name] for each in seeds],
        }
        for name in seeds[0]
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    sd = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 4), "sd": sd, "per_seed": list(values)}
