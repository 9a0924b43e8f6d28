"""Which frames to correct: ``relabel export --select informative`` beside frames drawn at random.

Five times, on three data sets: a third of the parts is judged, and of the rest a classifier first knows the types of
5 % of the frames, then of 5 % more in each round. Which ones, `informative` says by the classifier's best score on each
other frame, or chance does. The classifier is a softmax regression on the features that `informative` compares frames
by, so that it is trained anew in a second; frames of tiles stay together. Accuracy is the mean of the types' recalls.
The bar: what random frames reach with 60 % of the labels is reached with at most 45 %.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs.data import shared
from benchmarks.inputs.tiles import tiles
from benchmarks.smoke import scaled
from lineside_hub.relabel.active_learning import Floats, Ints, choose, descriptor, uncertainty
from lineside_models.anomaly.features import features_bundle
from lineside_models.datasets import load_dataset
from lineside_models.preprocess import prepare
from lineside_models.vision.images import read_image
from lineside_runtime.config import Config
from lineside_runtime.session import Session

SETS = scaled(("x-sdd", "neu-det", "magnetic-tile"), smoke=("x-sdd",))
SEEDS = scaled(5, smoke=1)
ROUNDS = scaled(12, smoke=2)
SHARE = scaled(0.05, smoke=0.3)
"""Of the frames that are not judged: labels at the beginning, and more in each round."""

JUDGED_PARTS = 3
REFERENCE_SHARE, BAR_SHARE = scaled((0.6, 0.45), smoke=(0.6, 0.6))
REPORTED_FROM = 0.1
"""Scores below it are not in a device's results."""

STEPS, RATE, DECAY = 150, 0.05, 1e-3


def run() -> dict[str, Any]:
    """Measures both ways on each data set."""
    return {
        "baseline": "frames drawn at random",
        "seeds": SEEDS,
        "bars": {"share": BAR_SHARE, "of": REFERENCE_SHARE},
        "sets": {name: _measured(name) for name in SETS},
    }


def _measured(name: str) -> dict[str, Any]:
    looks, types, parts, good = _frames(name)
    print(f"relabel_selection: {name}, {len(types)} frames", file=sys.stderr, flush=True)
    shares = [round(SHARE * number, 4) for number in range(1, ROUNDS + 1)]
    curves = {
        how: np.mean([_curve(how, seed, looks, types, parts, good) for seed in range(SEEDS)], axis=0)
        for how in ("random", "informative")
    }
    wanted = float(curves["random"][shares.index(REFERENCE_SHARE)])
    reached = [share for share, value in zip(shares, curves["informative"], strict=True) if value >= wanted]
    return {
        "frames": len(types),
        "types": int(types.max()) + 1,
        "shares": shares,
        **{how: np.round(values, 4).tolist() for how, values in curves.items()},
        "wanted": round(wanted, 4),
        "reached_at": reached[0] if reached else None,
    }


def _frames(name: str) -> tuple[Floats, Ints, Ints, int | None]:
    """Returns descriptor, type and part of each frame of one type, and which type means a good part."""
    good = None
    if name == "magnetic-tile":
        images = tiles()
        kinds = sorted({each.kind for each in images})
        found = [(each.path, kinds.index(each.kind), each.tile) for each in images]
        good = kinds.index("")
    else:
        samples = [one for one in load_dataset(shared(name)).samples if len(set(one.labels.tolist())) == 1]
        found = [(one.path, int(one.labels[0]), number) for number, one in enumerate(samples)]
    source = features_bundle()
    how, names = source.manifest.preprocess, [spec.name for spec in source.manifest.outputs]
    looks = []
    with Session(source, Config(threads=1)) as session:
        for path, _, _ in found:
            outputs = session.predict({how.input: prepare(read_image(path), how)[0]})
            looks.append(descriptor([outputs[each] for each in names]))
    _, types = np.unique([kind for _, kind, _ in found], return_inverse=True)
    standard = np.stack(looks)
    standard = (standard - standard.mean(axis=0)) / (standard.std(axis=0) + 1e-4)
    return np.asarray(standard, np.float32), types, np.array([part for _, _, part in found], np.int64), good


def _curve(how: str, seed: int, looks: Floats, types: Ints, parts: Ints, good: int | None) -> list[float]:
    """Returns the accuracy after each round."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(np.unique(parts))
    judged = np.isin(parts, shuffled[: len(shuffled) // JUDGED_PARTS])
    learned = np.flatnonzero(~judged)
    step, count = int(SHARE * len(learned)), int(types.max()) + 1
    ones = np.ones((len(looks), 1), np.float32)
    inputs = np.concatenate([looks * np.float32(4 / looks.shape[1] ** 0.5), ones], axis=1)
    labelled = random.choice(learned, step, replace=False)
    accuracy = []
    for number in range(ROUNDS):
        weights = _fit(inputs[labelled], types[labelled], count)
        accuracy.append(_recall(types[judged], _softmax(inputs[judged] @ weights).argmax(axis=1)))
        pool = np.setdiff1d(learned, labelled)
        if how == "random":
            chosen = random.choice(len(pool), step, replace=False)
        else:
            scores, best = _reported(_softmax(inputs[pool] @ weights), good)
            seen = looks[pool]
            chosen = choose(uncertainty(scores), best, step, seen.__getitem__, seed=seed * ROUNDS + number)
        labelled = np.concatenate([labelled, pool[chosen]])
    return accuracy


def _reported(probabilities: Floats, good: int | None) -> tuple[Floats, Ints]:
    """Returns score and type of each frame's best find, as a device reports them."""
    found = probabilities.copy()
    if good is not None:
        found[:, good] = 0
    scores, types = found.max(axis=1), found.argmax(axis=1)
    return np.where(scores >= REPORTED_FROM, scores, 0), np.where(scores >= REPORTED_FROM, types, -1)


def _recall(types: Ints, found: Ints) -> float:
    return float(np.mean([(found[types == kind] == kind).mean() for kind in np.unique(types)]))


def _fit(inputs: Floats, types: Ints, count: int) -> Floats:
    """Returns the weights of a softmax regression, by Adam."""
    wanted = np.eye(count, dtype=np.float32)[types]
    weights, mean, square = (np.zeros((inputs.shape[1], count), np.float32) for _ in range(3))
    for step in range(1, STEPS + 1):
        gradient = inputs.T @ (_softmax(inputs @ weights) - wanted) / len(inputs) + DECAY * weights
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (gradient * gradient - square)
        weights -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return weights


def _softmax(values: npt.NDArray[np.float32]) -> Floats:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
