"""Tuning inside the train fold by part, training with several seeds, one test on val."""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.models.quantum.data import Rows, Task
from benchmarks.models.quantum.heads import HEADS, Head, Settings
from benchmarks.smoke import scaled
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.training.quantum.head import mean_recall

TRIALS = scaled(8, smoke=1)
FOLDS = scaled(3, smoke=2)
SEEDS = scaled(5, smoke=1)
PARTS_MIN = 10
"""With fewer parts, as deeppcb's board designs, the interval is over frames."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """The best settings of a head.

    Attributes:
        settings: Of the trial with the highest top-1.
        top1: Mean over the folds.
    """

    settings: Settings
    top1: float


def compare(task: Task) -> dict[str, Any]:
    """Returns the figures of every head on a set."""
    found: dict[str, Any] = {}
    right: dict[str, Any] = {}
    for name, head in HEADS.items():
        started_s = time.process_time()
        answers, tuned = _answers(task, head)
        right[name] = answers == task.val.labels
        found[name] = {
            "tuned_top1": round(tuned.top1, 4),
            "settings": tuned.settings,
            "parameters": head.parameters(task.train.features.shape[1], len(task.names)),
            "top1": round(float(right[name].mean()), 4),
            "top1_each": [round(float(row.mean()), 4) for row in right[name]],
            "mean_recall": round(float(np.mean([mean_recall(row, task.val.labels) for row in answers])), 4),
            **_verdicts(task, answers),
            "seconds": round(time.process_time() - started_s, 1),
        }
        print(
            f"quantum: {task.name}: {name} {found[name]['top1']:.4f}, {found[name]['seconds']} s",
            file=sys.stderr,
            flush=True,
        )
    best = max((name for name in HEADS if HEADS[name].classical), key=lambda name: float(found[name]["tuned_top1"]))
    return {
        "set": task.name,
        "train": len(task.train.labels),
        "val": len(task.val.labels),
        "val_parts": len(np.unique(task.val.parts)),
        "best_classical": best,
        "heads": found,
        "quantum_minus": {
            name: _difference(right["quantum"], right[name], task) for name in HEADS if name != "quantum"
        },
    }


def _answers(task: Task, head: Head) -> tuple[Any, Tuned]:
    """Returns the classes ``(SEEDS, n)`` that a head gives the val rows, and the tuned settings."""
    known, classes = task.train, len(task.names)
    tuned = tune(head, known, classes)
    models = (head.fit(known.features, known.labels, classes, tuned.settings, seed) for seed in range(SEEDS))
    return np.stack([model(task.val.features) for model in models]), tuned


def tune(head: Head, known: Rows, classes: int) -> Tuned:
    """Returns the best of `TRIALS` settings on folds of the rows, whose parts stay together."""
    rng = np.random.default_rng(0)
    trials = [head.draw(rng) for _ in range(TRIALS)]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer parts than folds
        splits = list(splitter.split(known.features, known.labels, known.parts))
    tuned = []
    for settings in trials:
        hits = []
        for rest, held in splits:
            one, other = known.of(rest), known.of(held)
            model = head.fit(one.features, one.labels, classes, settings, 0)
            hits.append(float((model(other.features) == other.labels).mean()))
        tuned.append(Tuned(settings, float(np.mean(hits))))
    return max(tuned, key=lambda each: each.top1)


def _difference(one: Any, other: Any, task: Task) -> dict[str, float]:
    """Returns by how much top-1 is higher, with the interval over parts: frames of one part go together."""
    parts = np.unique(task.val.parts)
    if len(parts) < PARTS_MIN:
        drop = drop_of_mean(one.mean(axis=0), other.mean(axis=0))
    else:
        frames = (one.mean(axis=0), other.mean(axis=0))
        drop = drop_of_mean(*([each[task.val.parts == part].mean() for part in parts] for each in frames))
    return {name: round(value, 4) for name, value in (("mean", drop.drop), ("low", drop.low), ("high", drop.high))}


def _verdicts(task: Task, answers: Any) -> dict[str, float]:
    """Returns the shares of bad parts that pass and of good parts that don't, where the set has good parts."""
    if task.good is None:
        return {}
    good = task.val.labels == task.good
    passed = answers == task.good
    return {
        "escapes": round(float(passed[:, ~good].mean()), 4),
        "false_rejects": round(float((~passed[:, good]).mean()), 4),
    }
