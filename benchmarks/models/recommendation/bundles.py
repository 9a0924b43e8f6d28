"""The bundle of a trained network: accuracy of INT8, time of a ranking, bytes of a daily patch."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models.recommendation.baselines import aucs
from benchmarks.models.recommendation.data import TrainedNetwork
from benchmarks.smoke import scaled
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.training.recommendation.interactions import Interactions
from lineside_converters.training.recommendation.model import DINModel
from lineside_converters.training.recommendation.objective import KINDS, HeldChoices, score_all
from lineside_hub.repository.deltas import make_patches
from lineside_hub.repository.repository import Repository
from lineside_models.recommendation import Recommender
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config

QUANTIZED_USERS = scaled(6000, smoke=20)
CALLS = scaled(400, smoke=3)
CANDIDATES = scaled((200, 1000), smoke=(5, 10))
DAY = scaled(2000, smoke=5)
"""Choices of a day: one each of so many users."""

CONFIG = Config(engines=("ort",), threads=1)
GROUP = "kiosks"


def quantized(trained: TrainedNetwork, held: HeldChoices) -> dict[str, Any]:
    """Returns GAUC of the bundle on a device against the float network, on the same users."""
    users = slice(0, QUANTIZED_USERS)
    before = score_all(trained.network, held.histories[users], held.candidates[users])
    with tempfile.TemporaryDirectory() as name:
        bundle = trained.model.optimize(Path(name) / "bundle")
        with Recommender(bundle, CONFIG) as recommender:
            ids = [item.decode() for item in recommender.tables.ids]
            after = np.stack(
                [
                    recommender.score([ids[row] for row in history if row >= 0], None, rows=candidates)
                    for history, candidates in zip(held.histories[users], held.candidates[users], strict=True)
                ]
            )
        found: dict[str, Any] = {
            "users": len(before),
            "bytes": bundle.manifest.size_bytes,
            "float_bytes": sum(path.stat().st_size for path in _float_files(trained)),
            "precision": bundle.manifest.variants[0].precision,
        }
    for kind in KINDS:
        drop = drop_of_mean(aucs(before)[kind], aucs(after)[kind])
        found[kind] = {"float": drop.before, "int8": drop.after, "drop": drop.drop, "low": drop.low, "high": drop.high}
    return found


def _float_files(trained: TrainedNetwork) -> list[Path]:
    return [trained.config.out / name for name in ("float.onnx", "tables.npz")]


def latency(trained: TrainedNetwork, choices: Interactions) -> dict[str, Any]:
    """Returns the processor time of `Recommender.recommend` in ms, by the number of candidates."""
    rng = np.random.default_rng(5)
    found: dict[str, Any] = {"calls": CALLS, "clock": "processor time, one thread"}
    with tempfile.TemporaryDirectory() as name:
        bundle = trained.model.optimize(Path(name) / "bundle")
        with Recommender(bundle, CONFIG) as recommender:
            for count in CANDIDATES:
                times = []
                for call in range(CALLS + 10):
                    own = choices.chosen[int(rng.integers(len(choices.chosen)))]
                    history = [choices.items[row] for row in own]
                    candidates = [choices.items[row] for row in rng.permutation(len(choices.items))[:count]]
                    began = time.process_time()
                    recommender.recommend(history, candidates, top=10)
                    times.append(1e3 * (time.process_time() - began))
                    del call
                p50, p99 = np.quantile(times[10:], (0.5, 0.99))
                found[str(count)] = {"p50_ms": float(p50), "p99_ms": float(p99)}
    return found


def daily_patch(trained: TrainedNetwork, choices: Interactions) -> dict[str, Any]:
    """Returns the bytes that the hub sends after a day's choices, and after a training from the begin."""
    rng = np.random.default_rng(8)
    users = rng.permutation(len(choices.users))[:DAY]
    day = [(choices.users[user], choices.items[choices.chosen[user][-1]]) for user in users]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(trained.config.out, folder / "run")
        shutil.copyfile(trained.config.data[0], folder / "run" / "interactions.csv")
        model = DINModel.load(folder / "run")
        repository = Repository.create(folder / "hub", groups=[GROUP])
        before = model.optimize(folder / "before", name="kiosk", version="1.0.0")
        count = model.update(day)
        after = model.optimize(folder / "after", name="kiosk", version="1.0.1", previous=before)
        repository.publish(before, GROUP)
        repository.publish(after, GROUP)
        patches = make_patches(repository.folder, after.digest, before.digest).patches
        return {
            "choices": count,
            "items": len({item for _, item in day}),
            "patch_bytes": sum(patch.size for patch in patches) + _manifest_bytes(after),
            "bundle_bytes": after.manifest.size_bytes,
        }


def _manifest_bytes(bundle: Bundle) -> int:
    return (bundle.path / "manifest.json").stat().st_size
