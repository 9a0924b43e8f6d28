"""Final accuracy of each scheme against float32: a classifier on x-sdd and neu-det crops, paired seeds.

Two workers train every scheme from the same weights on the same batches in the same order; what differs is how
gradients (and under FSDP2 parameters) travel. The network is what people train: EfficientNet-Lite0 with ImageNet's
weights and a new head (a network from drawn weights ends at four pictures of five, two points apart from itself when a
bit changes). A seed's networks learn from one half of the pictures of the train folds, the next seed's from the other
half, and are judged on the half that they haven't seen and on the val folds: nothing is chosen by any of them. What is
finished is kept in ``benchmarks/.training/``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy import stats
from torch import Tensor, nn

from benchmarks.converters.training.ranks import together
from benchmarks.inputs.data import shared
from benchmarks.smoke import kept, scaled
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.training import checkpoints
from lineside_converters.training.classification.data import ClassData, ClassifierInput, LabelledCrops, read_all
from lineside_converters.training.classification.objective import ClassificationObjective, classify
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_models.datasets import load_dataset
from lineside_models.networks.detector import pretrained_trunk
from lineside_runtime.files import write_atomic

KEPT = kept(".training")
SEEDS = tuple(range(scaled(12, smoke=2)))
CASES = scaled(
    {
        "fp32": ("ddp", "fp32"),
        "low-rank": ("ddp", "low-rank"),
        "bf16": ("ddp", "bf16"),
        "int8": ("ddp", "int8"),
        "fsdp int8": ("fsdp", "int8"),
    },
    smoke={"fp32": ("ddp", "fp32"), "low-rank": ("ddp", "low-rank")},
)
SIDE_PX, BATCH, EPOCHS, WARM_UP_STEPS = scaled((64, 32, 10, 30), smoke=(32, 4, 1, 1))
LEARNING_RATE = 1e-3


class Classifier(nn.Module):
    """EfficientNet-Lite0 for grey pictures, its first stages frozen, and a layer that begins at nothing."""

    def __init__(self, types: int) -> None:
        super().__init__()
        self.trunk = pretrained_trunk()
        self.trunk.freeze_early()
        self.head = nn.Linear(192, types)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Returns ``(B, types)`` logits of ``(B, 1, S, S)``."""
        logits: Tensor = self.head(self.trunk(image)[2].mean((2, 3)))
        return logits


def run() -> dict[str, Any]:
    """Trains what is missing, and returns the differences."""
    train(tuple(CASES))
    return {"settings": _settings(), "schemes": compared()}


def compared() -> dict[str, Any]:
    """Returns each scheme's accuracies, and the mean difference to float32 with its interval, of the seeds kept."""
    found: dict[str, Any] = {}
    plain = _all_kept("fp32")
    for name in CASES:
        rows = _all_kept(name)
        seeds = sorted(rows.keys() & plain.keys())
        if len(seeds) < 2:
            continue
        accuracies = [rows[seed]["top1"] for seed in seeds]
        apart = [100 * (rows[seed]["top1"] - plain[seed]["top1"]) for seed in seeds]
        half = float(stats.t.ppf(0.975, len(seeds) - 1)) * statistics.stdev(apart) / len(seeds) ** 0.5
        mean = statistics.mean(apart)
        found[name] = {
            "seeds": seeds,
            "top1": accuracies,
            "mean_top1": statistics.mean(accuracies),
            "points_against_fp32": mean,
            "interval_95": [mean - half, mean + half],
        }
    return found


def train(names: Sequence[str]) -> None:
    """Trains schemes with every seed, one seed after the other, but what is done."""
    KEPT.mkdir(exist_ok=True)
    together(_train_all, names)


def _train_all(names: Sequence[str]) -> None:
    for seed in SEEDS:
        for name in names:
            dist.barrier()
            if not _kept(name, seed).exists():
                _train(name, seed)


def _kept(name: str, seed: int) -> Path:
    return KEPT / f"lite0-{name.replace(' ', '-')}-{seed}.json"


def _all_kept(name: str) -> dict[int, dict[str, Any]]:
    paths = {seed: _kept(name, seed) for seed in SEEDS}
    return {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.exists()}


def _settings() -> dict[str, Any]:
    return {
        "network": "EfficientNet-Lite0 with ImageNet's weights, for grey pictures, first stages frozen",
        "side_px": SIDE_PX,
        "batch": BATCH,
        "epochs": EPOCHS,
        "float32_steps": WARM_UP_STEPS,
        "workers": 2,
        "learnt from": "a half of the train folds",
        "judged on": "the other half, and the val folds",
    }


def _divided(seed: int) -> tuple[ClassData, LabelledCrops]:
    """Returns what a seed's networks learn from, and what they are judged on."""
    folders, look = [shared("x-sdd"), shared("neu-det")], ClassifierInput(SIDE_PX)
    labels = tuple(dict.fromkeys(label for each in folders for label in load_dataset(each, "train").labels))
    train, val = (read_all(folders, labels, look=look, fold=fold) for fold in ("train", "val"))
    order = np.random.default_rng(seed // 2).permutation(len(train.labels))
    order = order[np.argsort(train.labels[order], kind="stable")]  # class by class, so that both halves have each
    mine, others = order[seed % 2 :: 2], order[1 - seed % 2 :: 2]
    judged = LabelledCrops(
        np.concatenate([train.images[others], val.images]), np.concatenate([train.labels[others], val.labels])
    )
    few = LabelledCrops(
        val.images[:16], val.labels[:16]
    )  # what the loop looks at, and nothing is chosen by: one evaluation
    return ClassData(labels, LabelledCrops(train.images[mine], train.labels[mine]), few, look), judged


def _train(name: str, seed: int) -> None:
    layout, scheme = CASES[name]
    data, judged = _divided(seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        how = WorkerSettings(layout=layout, scheme=scheme, batch=BATCH, warm_up_steps=WARM_UP_STEPS)
        workers = Workers(how, torch.device("cpu"), Path(out), lambda *_: None)
        objective = ClassificationObjective(data, batch=BATCH, seed=seed, part=workers.part)
        settings = DistillationSettings(
            learning_rate=LEARNING_RATE, epochs=EPOCHS, evaluate_every=EPOCHS, threads=1, seed=seed
        )
        train_student(
            Classifier(len(data.labels)),
            None,
            objective,
            LogitDistillation(),
            settings=settings,
            out=Path(out),
            on_progress=lambda _: None,
            strategy=workers,
        )
        if dist.get_rank() == 0:
            _judge(name, seed, checkpoints.load(Path(out) / "best.pt"), judged, data, time.monotonic() - began_s)
    workers.exchange.close()


def _judge(
    name: str, seed: int, state: dict[str, torch.Tensor], judged: LabelledCrops, data: ClassData, seconds: float
) -> None:
    plain = Classifier(len(data.labels))
    plain.load_state_dict(state)
    top1 = float((classify(plain, judged, data.look) == judged.labels).mean())
    learnt = float((classify(plain, data.train, data.look) == data.train.labels).mean())
    content = {"top1": top1, "learnt_top1": learnt, "seconds": seconds, "judged": len(judged.labels)}
    print(f"seed {seed} {name}: {json.dumps(content)}", file=sys.stderr, flush=True)
    write_atomic(_kept(name, seed), json.dumps(content, indent=1).encode())
