"""Level 2 on a ResNet-18 for x-sdd and neu-det. Baseline: its float model in ONNX Runtime, one thread, the same frames.

The classifier is trained here, from random weights, on the train folds: x-sdd's pictures as they are, neu-det's cut out
around each image's largest box; 64 pixels, grey, 13 classes. The val folds are judged once, at the end.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from benchmarks.converters.pruning import unpruned
from benchmarks.converters.pruning.common import (
    HOME,
    SEED,
    answers,
    data_set,
    drop_row,
    print_progress,
    progress_printer,
    pruning_optimizer,
)
from benchmarks.converters.pruning.speeds import PRUNED, fastest, pruned_forms, speedups
from benchmarks.smoke import scaled
from lineside_converters.data.calibration_data import AnnotatedFrame, feed_of
from lineside_converters.distillation.distill import macs
from lineside_converters.loading.source import open_source
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import Effort
from lineside_converters.pruning import structured
from lineside_converters.tasks import ClassificationTask
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.data import ClassifierInput, read_all
from lineside_converters.training.classification.trainer import ClassifierResult, train_classifier
from lineside_converters.training.progress import TrainingProgress
from lineside_models.datasets import load_dataset
from lineside_models.frame import Frame
from lineside_models.networks.classifier import resnet18
from lineside_models.vision.model_facts import ModelFacts

SETS = scaled(("x-sdd", "neu-det"), smoke=("x-sdd",))
SIDE = scaled(64, smoke=32)
EPOCHS, BATCH, WIDTH = scaled((18, 32, 1.0), smoke=(4, 8, 0.25))
EFFORT = scaled(
    Effort(
        speedup=2.2, epochs=8, batch=32, learning_rate=1e-3, true_weight=1.0, teach_weight=1.0, threads=1, bf16=True
    ),
    smoke=Effort(speedup=1.1, epochs=3, batch=8, learning_rate=2e-3, true_weight=1.0, threads=1),
)
TARGET = scaled("x86", smoke="rpi5")
"""In a smoke run one that this machine isn't, so that no gate depends on its speed."""

BARS = {"int8": 5.0, "drop": 1.0}

WIDTH_SEARCH: contextlib.AbstractContextManager[Any] = scaled(
    contextlib.nullcontext(), smoke=mock.patch.multiple(structured, CLOSE_ENOUGH=0.0, TOO_MUCH=99.0, SURPRISE=99.0)
)
"""In a smoke run the first widths are taken, however fast they are: each measurement exports and quantizes two
networks."""


def progress(name: str) -> Any:
    """Returns a listener that prints every evaluation."""
    count = progress_printer()

    def show(at: TrainingProgress) -> None:
        count(name, at.step + 1, at.steps)
        if at.held:
            print_progress(f"{name}: epoch {at.epoch + 1}: {at.held}")

    return show


def trained() -> ClassifierResult:
    """Trains the classifier. A training that was ended goes on; a finished one is read."""
    return train_classifier(
        ClassifierConfig(
            data=tuple(data_set(name) for name in SETS),
            out=HOME / "classifier" / "teacher",
            epochs=EPOCHS,
            batch=BATCH,
            width=WIDTH,
            side_px=SIDE,
            evaluate_every=3,
            threads=1,
            bf16=True,
            resume=True,
        ),
        progress("classifier"),
    )


def crops_folder(labels: tuple[str, ...]) -> Path:
    """Writes both folds' pictures as a folder a class: train for calibration and choices, val for the gates."""
    root = HOME / "classifier" / "crops"
    for fold in ("train", "val"):
        if (root / fold).is_dir():
            continue
        crops = read_all([data_set(name) for name in SETS], labels, look=ClassifierInput(SIDE), fold=fold)
        half = root.with_name(f"{fold}.half")
        for number, (image, label) in enumerate(zip(crops.images, crops.labels, strict=True)):
            folder = half / labels[label]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), image)
        root.mkdir(parents=True, exist_ok=True)
        half.rename(root / fold)
    return root


def val_frames(labels: tuple[str, ...]) -> list[AnnotatedFrame]:
    """Returns the pictures of the val folds."""
    crops = read_all([data_set(name) for name in SETS], labels, look=ClassifierInput(SIDE), fold="val")
    empty = np.empty((0, 4), np.float32)
    return [
        AnnotatedFrame(Frame(image=image, source="val", sequence=number), empty, np.array([label], np.int64))
        for number, (image, label) in enumerate(zip(crops.images, crops.labels, strict=True))
    ]


def optimizer(teacher: ClassifierResult) -> Optimizer:
    """Returns the optimizer of the benchmark."""
    data = [crops_folder(teacher.labels)]
    work = "classifier/level2"
    return pruning_optimizer(teacher.onnx, TARGET, data=data, name="surface-classes-slim", work=work, effort=EFFORT)


def run() -> dict[str, Any]:
    """Measures speed and accuracy of the pruned float model and of its INT8 forms."""
    teacher = trained()
    with WIDTH_SEARCH:
        pruned, pruning = pruned_forms(optimizer(teacher))
    source = open_source(teacher.onnx, HOME / "classifier" / "decoded", given=ModelFacts(), trust=False)
    frames = val_frames(teacher.labels)
    whole = unpruned.train_control(
        teacher.onnx,
        [crops_folder(teacher.labels)],
        HOME / "classifier" / "unpruned",
        effort=EFFORT,
        steps=unpruned.steps_of(pruning),
    )
    forms = {**pruned, **whole.forms}
    times = speedups(teacher.onnx, forms, source.manifest, {f"{SIDE} px": feed_of(frames[0].frame, source.manifest)})
    before = answers(teacher.onnx, frames, source.manifest)
    after = {
        form: answers(path, frames, source.manifest, engine, precision)
        for form, (path, engine, precision) in forms.items()
    }
    drop = ClassificationTask().drop
    drops = {form: drop_row(drop(frames, before, found, seed=SEED)) for form, found in after.items()}
    costs = {form: drop_row(drop(frames, after[unpruned.control_of(form)], after[form], seed=SEED)) for form in pruned}
    example = torch.zeros(1, 1, SIDE, SIDE)
    return {
        "baseline": f"ResNet-18 at {SIDE} px, ORT FP32, 1 thread",
        "macs": macs(resnet18(len(teacher.labels), width=WIDTH), example),
        "sets": {name: len(load_dataset(data_set(name), "val").samples) for name in SETS},
        "epochs": EPOCHS,
        "held_top1": teacher.held_top1,
        "effort": {"speedup": EFFORT.speedup, "epochs": EFFORT.epochs},
        "pruning": pruning,
        "unpruned_taught": {"steps": whole.steps, "curve": whole.curve},
        "speed": times,
        "speedup_float": times["geometric mean"][PRUNED]["speedup"],
        "speedup_int8": fastest(times, [name for name in pruned if name != PRUNED]),
        "accuracy_val": drops,
        "cost_of_pruning_val": costs,
        "bars": BARS,
    }
