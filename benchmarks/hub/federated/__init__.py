"""Federated training across plants beside the same training of all frames together and of each plant alone.

Three plants share the train fold of neu-det, once by part at random and once by type: each then lacks two types. All
begin with the same weights, trained shortly on frames of the line simulator. Each plant and the coordinator is a
process of ``lineside federate``; a real broker is between them. Pooled training sees as many pictures in as many steps,
with batches of all plants' size together; a plant alone takes as many steps as it takes in the federation. Judged on
the validation fold, which no training reads. Every stage is kept, so that a run that was stopped goes on.

The second part adds up vectors of a large detector's length with drop-outs before each step.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hub.federated.processes import run_federation, train_first
from benchmarks.hub.federated.splits import LACKED, PLANTS, write_all, write_plants
from benchmarks.hub.pool import run_rounds
from benchmarks.inputs.data import shared
from benchmarks.smoke import kept, scaled
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
LENGTH = scaled(1_000_000, smoke=1000)
POOLED_BAR, LACKED_BAR, BYTES_BAR = 0.97, 0.05, 2.0
FEDERATIONS = scaled(
    (("by type", "plain average"), ("by type", "outer rate 1.73"), ("by part", "outer rate 1.73")),
    smoke=(("by part", ""),),
)
"""Split and variant. A smoke run starts no processes of plants: `tests/system/test_federation.py` does."""

VARIANTS: dict[str, tuple[str | float, ...]] = {
    "plain average": (),
    "outer rate 1.73": ("--outer-rate", 1.73),
    "local norms": ("--local-norms", "--outer-rate", 1.73),
}
"""Options of ``federate init``. AdamW's steps are the shorter, the more noise is in the gradient, so that the mean of
three plants moves less than pooled training with three times the batch: by about the square root of 3."""


def run() -> dict[str, Any]:
    """Trains all variants and measures the sums."""
    work = kept(".federated")
    work.mkdir(exist_ok=True)
    first = train_first(work / "first", SETTINGS, epochs=scaled(2, smoke=1))
    start = read_first_weights(first)
    pooled = _stage(work / "pooled.json", partial(_pooled, work, start))
    splits: dict[str, dict[str, Any]] = {split: {} for split, _ in FEDERATIONS}
    for split, variant in FEDERATIONS:
        folders = write_plants(work / split.replace(" ", "-"), split)
        splits[split]["pictures"] = [_count(folder) for folder in folders]
        if variant:
            splits[split][variant] = _stage(
                work / f"{split}-{variant}.json",
                partial(_federated, work, first, folders, split, variant),
            )
        splits[split]["alone"] = [_stage(folder / "alone.json", partial(_alone, folder, start)) for folder in folders]
    return {
        "baseline": "all frames in one place; each plant alone",
        "sizes": {**SETTINGS, "plants": PLANTS, "rounds": ROUNDS, "steps": STEPS, "numbers_of_a_sum": LENGTH},
        "bars": {"of_pooled": POOLED_BAR, "above_alone_on_lacked": LACKED_BAR, "bytes_of_weights": BYTES_BAR},
        "lacked": LACKED,
        "pooled": pooled,
        "splits": {split: _compared(found, pooled) for split, found in splits.items()},
        "sums": run_rounds(
            scaled((3, 5), smoke=(3,)),
            rounds=scaled(3, smoke=1),
            length=LENGTH,
            bits=16,
            value_max=lambda count: largest_value(count, 16),
        ),
    }


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


def _pooled(work: Path, start: FirstWeights) -> dict[str, Any]:
    trainer = _new_trainer(start, write_all(work / "all"), work / "pooled", batch=PLANTS * BATCH)
    return judge(trainer, _trained(trainer, start))


def _alone(folder: Path, start: FirstWeights) -> dict[str, Any]:
    trainer = _new_trainer(start, folder, folder / "alone", batch=BATCH)
    return judge(trainer, _trained(trainer, start))


def _federated(work: Path, first: Path, folders: Sequence[Path], split: str, variant: str) -> dict[str, Any]:
    out = work / f"{split}-{variant}".replace(" ", "-")
    state = run_federation(first, folders, out, rounds=ROUNDS, steps=STEPS, options=VARIANTS[variant])
    start = read_first_weights(first)
    weights = read_weights(out / "coordinator" / f"weights-{ROUNDS}.npz")
    rows = []
    for number, folder in enumerate(folders):
        trainer = _trainer(start, folder, out / f"plant-{number}" / "result", batch=BATCH)
        trainer.take(weights, state["settings"]["shared"])
        rows.append(judge(trainer, None))
        if variant != "local norms":  # the network of all plants is the same
            break
    sizes = [
        (each["sent_bytes"] + each["received_bytes"]) / PLANTS / state["weights_bytes"] for each in state["rounds"]
    ]
    return {
        "map50": statistics.mean(row["map50"] for row in rows),
        "ap50": [row["ap50"] for row in rows],
        "plants": [len(each["plants"]) for each in state["rounds"]],
        "weights_bytes": state["weights_bytes"],
        "bytes_of_weights": round(max(sizes), 3),
        "seconds": round(sum(each["seconds"] for each in state["rounds"]), 1),
        "scores": [each["score"] for each in state["rounds"]],
    }


def judge(trainer: PlantTrainer, weights: Weights | None) -> dict[str, Any]:
    """Returns mAP@0.5 and each type's AP on the validation fold, of the trainer's network with these weights."""
    if weights is not None:
        trainer.take(weights, tuple(weights))
    dataset = load_dataset(shared("neu-det"), "val")
    order = [dataset.labels.index(name) if name in dataset.labels else -1 for name in trainer.labels]
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


def _compared(found: dict[str, Any], pooled: dict[str, Any]) -> dict[str, Any]:
    """Adds the figures of the goals to those of a split."""
    alone = statistics.mean(each["map50"] for each in found["alone"])
    rows: dict[str, Any] = {"pictures": found["pictures"], "alone": {"map50": round(alone, 4)}}
    rows["alone"]["lacked_ap50"] = _lacked([each["ap50"] for each in found["alone"]])
    for variant in found.keys() - {"alone", "pictures"}:
        row = dict(found[variant])
        networks = row.pop("ap50")
        row["of_pooled"] = round(row["map50"] / pooled["map50"], 4) if pooled["map50"] else 0.0
        row["lacked_ap50"] = _lacked([networks[number % len(networks)] for number in range(PLANTS)])
        rows[variant] = row
    return rows


def _lacked(networks: Sequence[dict[str, float]]) -> float:
    """Returns the mean AP of each plant's network on the types that the plant lacks in the split by type."""
    found = [networks[number].get(name, 0.0) for number, names in enumerate(LACKED) for name in names]
    return round(statistics.mean(found), 4)
