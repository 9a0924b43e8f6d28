"""Final accuracy of each scheme against float32: a classifier and a detector, paired seeds.

Two workers train every scheme from the same weights on the same batches in the same order; what differs is how
gradients and updates travel. The networks are what people train: EfficientNet-Lite0 with ImageNet's weights, here with
all its layers, and a new head (a network from drawn weights ends two points apart from itself when a bit changes).
The classifier learns x-sdd and neu-det from one half of the train folds, with the next seed from the other half, and is
judged on the half that it hasn't seen and on the val folds. The detector learns neu-det from one half of the train
fold, with the next seed from the other half, and is judged on the half that it hasn't seen, at the scale that it
learnt. Both are judged on each frame and on its mirror image, because fewer frames say less. Nothing is chosen by what
is judged on, and the lengths of the trainings by float32's accuracy alone. What is finished is kept in
``benchmarks/.training/`` with its settings, and used again for the same settings only; ``--minutes`` ends the work
after the run that is under way, and compares what there is.

A training's time on a slower link follows from its processor time, its bytes and what the backward pass hides, as in
`benchmarks.converters.training.wire`; its first steps, which use float32, are counted as such.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from scipy import stats
from torch import Tensor, nn

from benchmarks.converters.training.ranks import together
from benchmarks.converters.training.wire import RATES_MBIT, waited_s
from benchmarks.inputs.data import shared
from benchmarks.smoke import kept, scaled
from lineside_converters.distillation.losses import LogitDistillation
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.training import checkpoints
from lineside_converters.training.classification.data import ClassData, ClassifierInput, LabelledCrops, read_all
from lineside_converters.training.classification.objective import ClassificationObjective, classify
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.objective import DetectionObjective
from lineside_converters.training.detection.trainer import DetectorTrainer
from lineside_converters.training.distributed.workers import Workers, WorkerSettings
from lineside_models.datasets import load_dataset
from lineside_models.labels import STEEL
from lineside_models.networks.detector import pretrained_trunk
from lineside_runtime.files import write_atomic

KEPT = kept(".training")
SEEDS = tuple(range(scaled(5, smoke=1)))
CASES = scaled(
    {
        "fp32": ("ddp", "fp32"),
        "zero1 int4": ("zero1", "int4"),
        "local": ("ddp", "local"),
        "low-rank": ("ddp", "low-rank"),
        "int8": ("ddp", "int8"),
        "bf16": ("ddp", "bf16"),
        "zero1 int8": ("zero1", "int8"),
        "zero1 low-rank": ("zero1", "low-rank"),
    },
    smoke={"fp32": ("ddp", "fp32"), "local": ("ddp", "local")},
)
SIDE_PX, BATCH, EPOCHS, WARM_UP_STEPS = scaled((48, 32, 10, 30), smoke=(32, 4, 1, 1))
LEARNING_RATE = 1e-3
CANVAS_PX, DETECTOR_BATCH, DETECTOR_EPOCHS = scaled((96, 16, 12), smoke=(64, 4, 1))
DETECTOR_NETWORK, DETECTOR_RATE = "lite0@32", 3e-3
MAIN = 3
"""So many cases are trained with all seeds before the others."""


class Classifier(nn.Module):
    """EfficientNet-Lite0 for grey pictures, and a layer that begins at nothing."""

    def __init__(self, types: int) -> None:
        super().__init__()
        self.trunk = pretrained_trunk()
        self.head = nn.Linear(192, types)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Returns ``(B, types)`` logits of ``(B, 1, S, S)``."""
        logits: Tensor = self.head(self.trunk(image)[2].mean((2, 3)))
        return logits


class Detector(DetectorTrainer):
    """A detector's training that trains all layers."""

    def pretrained(self) -> nn.Module:
        """Builds the network, nothing of it frozen."""
        return super().pretrained().requires_grad_(True)

    def load(self) -> DetectionObjective:
        """Judges the mirror image of each held picture too."""
        objective = super().load()
        (steel,) = self.data.domains
        held = (*steel.held, *(_mirrored(each) for each in steel.held))
        self.data = replace(self.data, domains=(replace(steel, held=held),))
        return DetectionObjective(self.data, self.mixer, epoch_steps=objective.epoch_steps)


def _mirrored(picture: TrainingPicture) -> TrainingPicture:
    width = picture.image.shape[1]
    boxes = picture.boxes.copy()
    boxes[:, [0, 2]] = width - picture.boxes[:, [2, 0]]
    return TrainingPicture(np.ascontiguousarray(picture.image[:, ::-1]), boxes, picture.labels)


def run(minutes: float | None = None) -> dict[str, Any]:
    """Trains what is missing, and returns the differences."""
    train(tuple(CASES), minutes)
    return {"settings": _settings(), **{task: compared(task) for task in TASKS}}


def compared(task: str) -> dict[str, Any]:
    """Returns each scheme's accuracies, and the mean difference to float32 with its interval, of the seeds kept."""
    found: dict[str, Any] = {}
    plain = _all_kept(task, "fp32")
    for name in CASES:
        rows = _all_kept(task, name)
        seeds = sorted(rows.keys() & plain.keys())
        if not seeds:
            continue
        figures = [rows[seed]["figure"] for seed in seeds]
        apart = [100 * (rows[seed]["figure"] - plain[seed]["figure"]) for seed in seeds]
        mean = statistics.mean(apart)
        plain_bytes = statistics.mean(row["bytes_a_step"] for row in plain.values())
        found[name] = {
            "seeds": seeds,
            "figures": figures,
            "mean": statistics.mean(figures),
            "points_against_fp32": mean,
            "interval_95": _interval(apart),
            **_times(name, [rows[seed] for seed in seeds], plain_bytes),
        }
    return found


def _times(name: str, rows: Sequence[dict[str, Any]], plain_bytes: float) -> dict[str, Any]:
    """Returns what a training takes on average, and its seconds at each rate."""
    steps, sent, cpu_s = (statistics.mean(row[key] for row in rows) for key in ("steps", "bytes_a_step", "cpu_s"))
    first, values, alone_s = min(WARM_UP_STEPS, steps), int(plain_bytes / 4), cpu_s / steps
    seconds = {}
    for rate in RATES_MBIT:
        as_float32 = first * waited_s("fp32", plain_bytes, values, rate_mbit=rate, alone_s=alone_s)
        rest = (steps - first) * waited_s(name, sent, values, rate_mbit=rate, alone_s=alone_s)
        seconds[str(rate)] = cpu_s + as_float32 + rest
    return {"steps": steps, "bytes_a_step": sent, "cpu_s": cpu_s, "seconds_at_mbit": seconds}


def _interval(apart: Sequence[float]) -> list[float] | None:
    if len(apart) < 2:
        return None
    mean = statistics.mean(apart)
    half = float(stats.t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
    return [mean - half, mean + half]


def train(names: Sequence[str], minutes: float | None = None) -> None:
    """Trains schemes with every seed, one task after the other; skips finished ones."""
    KEPT.mkdir(exist_ok=True)
    together(_train_all, names, math.inf if minutes is None else time.time() + 60 * minutes)


def _train_all(names: Sequence[str], end_s: float) -> None:
    ordered = [
        (seed, task, name) for few in (names[:MAIN], names[MAIN:]) for task in TASKS for seed in SEEDS for name in few
    ]
    for seed, task, name in ordered:
        late = torch.tensor(float(time.time() > end_s))
        dist.broadcast(late, 0)
        if not late and seed not in _all_kept(task, name):
            TASKS[task](name, seed)
        dist.barrier()


def _kept(task: str, name: str, seed: int) -> Path:
    return KEPT / f"{task}-{name.replace(' ', '-')}-{seed}.json"


def _all_kept(task: str, name: str) -> dict[int, dict[str, Any]]:
    paths = {seed: _kept(task, name, seed) for seed in SEEDS}
    rows = {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.exists()}
    return {seed: row for seed, row in rows.items() if row["settings"] == _settings()[task]}


def _settings() -> dict[str, Any]:
    return {
        "network": "EfficientNet-Lite0 with ImageNet's weights, for grey pictures, all layers trained",
        "float32_steps": WARM_UP_STEPS,
        "workers": 2,
        "classifier": {
            "side_px": SIDE_PX,
            "batch": BATCH,
            "epochs": EPOCHS,
            "learnt_from": "a half of the train folds of x-sdd and neu-det",
            "judged_on": "the other half, and the val folds; each frame and its mirror image",
            "figure": "top-1",
        },
        "detector": {
            "architecture": DETECTOR_NETWORK,
            "canvas_px": CANVAS_PX,
            "batch": DETECTOR_BATCH,
            "epochs": DETECTOR_EPOCHS,
            "learning_rate": DETECTOR_RATE,
            "learnt_from": "a half of the train fold of neu-det",
            "judged_on": "the other half; each frame and its mirror image",
            "figure": "mAP@0.5",
        },
    }


def _divided(seed: int) -> tuple[ClassData, LabelledCrops]:
    """Returns a seed's training data and evaluation data."""
    folders, look = [shared("x-sdd"), shared("neu-det")], ClassifierInput(SIDE_PX)
    labels = tuple(dict.fromkeys(label for each in folders for label in load_dataset(each, "train").labels))
    train, val = (read_all(folders, labels, look=look, fold=fold, px=look.kept_px) for fold in ("train", "val"))
    order = np.random.default_rng(seed // 2).permutation(len(train.labels))
    order = order[np.argsort(train.labels[order], kind="stable")]  # class by class, so that both halves have each
    mine, others = order[seed % 2 :: 2], order[1 - seed % 2 :: 2]
    images = np.concatenate([train.images[others], val.images])
    types = np.concatenate([train.labels[others], val.labels])
    judged = LabelledCrops(np.concatenate([images, images[:, :, ::-1]]), np.concatenate([types, types]))
    few = LabelledCrops(
        val.images[:16], val.labels[:16]
    )  # what the loop looks at, and nothing is chosen by: one evaluation
    return ClassData(labels, LabelledCrops(train.images[mine], train.labels[mine]), few, look), judged


def _workers(name: str, batch: int, out: Path) -> Workers:
    layout, scheme = CASES[name]
    how = WorkerSettings(layout=layout, scheme=scheme, batch=batch, warm_up_steps=WARM_UP_STEPS)
    return Workers(how, torch.device("cpu"), out, lambda *_: None)


def _train_classifier(name: str, seed: int) -> None:
    data, judged = _divided(seed)
    began_s = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        workers = _workers(name, BATCH, Path(out))
        objective = ClassificationObjective(data, batch=BATCH, seed=seed, part=workers.part)
        settings = DistillationSettings(
            learning_rate=LEARNING_RATE, epochs=EPOCHS, evaluate_every=EPOCHS, threads=1, seed=seed
        )
        torch.manual_seed(seed)
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
            plain = Classifier(len(data.labels))
            plain.load_state_dict(checkpoints.load(Path(out) / "best.pt"))
            top1 = float((classify(plain, judged, data.look) == judged.labels).mean())
            _keep("classifier", name, seed, top1, workers, time.process_time() - began_s)
    workers.exchange.close()


def _train_detector(name: str, seed: int) -> None:
    began_s = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        workers = _workers(name, DETECTOR_BATCH, Path(out))
        config = DetectorConfig(
            data=(shared("neu-det"),),
            out=Path(out),
            epochs=DETECTOR_EPOCHS,
            evaluate_every=DETECTOR_EPOCHS,
            seed=seed,
            batch=DETECTOR_BATCH,
            canvas_px=CANVAS_PX,
            architecture=DETECTOR_NETWORK,
            learning_rate=DETECTOR_RATE,
            simulated_share=0.0,
            labels=STEEL,  # with types of their own, pictures are judged at the scale of the training
            framing="scale",
            held_share=0.5,
            held_number=seed % 2,
            threads=1,
        )
        trainer = Detector(config, lambda _: None, workers)
        trainer.train()
        if dist.get_rank() == 0:
            figure = statistics.fmean(value for key, value in trainer.run.curve[-1].items() if key in _names(trainer))
            _keep("detector", name, seed, figure, workers, time.process_time() - began_s)
    workers.exchange.close()


def _names(trainer: DetectorTrainer) -> set[str]:
    return {each.name for each in trainer.data.domains}


def _keep(task: str, name: str, seed: int, figure: float, workers: Workers, cpu_s: float) -> None:
    sent = statistics.fmean(each.bytes_sent for each in workers.meter.settled())
    content = {
        "figure": figure,
        "steps": len(workers.meter.steps),
        "bytes_a_step": sent,
        "cpu_s": cpu_s,
        "settings": _settings()[task],
    }
    print(f"seed {seed} {task} {name}: {json.dumps(content)}", file=sys.stderr, flush=True)
    write_atomic(_kept(task, name, seed), json.dumps(content, indent=1).encode())


TASKS: dict[str, Callable[[str, int], None]] = {"classifier": _train_classifier, "detector": _train_detector}
