"""Distillation of the ResNet-18 into one of 7/16 of its width: less than a quarter of its MACs.

Baseline: the same student with the same seed, data, schedule and start, without a teacher. Three seeds. Judged on the
val folds once, at the end; what is kept of each run was chosen on the share of the train folds that is kept aside.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from benchmarks.converters.pruning.classifier import SETS, SIDE, progress, trained
from benchmarks.converters.pruning.common import HOME, data_set
from benchmarks.smoke import scaled
from lineside_converters.distillation.distill import macs, open_distillation, open_student
from lineside_converters.distillation.trainer import DistillationSettings, train_student
from lineside_converters.training.classification.data import ClassifierInput, read_all
from lineside_converters.training.classification.objective import classify

SEEDS = scaled((0, 1, 2), smoke=(0,))
STUDENT = "resnet18@0.4375"  # 0.23 of the multiply-accumulates
SETTINGS = DistillationSettings(
    learning_rate=1.5e-3,
    true_weight=0.5,
    teach_weight=1.0,
    feature_weight=0.1,
    epochs=scaled(14, smoke=1),
    evaluate_every=4,
    threads=1,
    bf16=True,
)
BATCH = scaled(32, smoke=8)
BARS = {"share_of_teacher": 0.98, "better_than_alone": True}


def run() -> dict[str, Any]:
    """Trains six students, or reads what earlier calls have trained, and judges them."""
    teacher = trained()
    crops = read_all([data_set(name) for name in SETS], teacher.labels, look=ClassifierInput(SIDE), fold="val")
    accuracies: dict[str, list[float]] = {"taught": [], "alone": []}
    sizes: dict[str, int] = {}
    for seed in SEEDS:
        setup = open_distillation(teacher.onnx, [data_set(name) for name in SETS], batch=BATCH, seed=seed)
        for way in accuracies:
            student = open_student(STUDENT, setup, seed=seed)
            settings = dataclasses.replace(SETTINGS, seed=seed)
            if way == "alone":
                settings = dataclasses.replace(settings, true_weight=1.0, feature_weight=0.0)
            train_student(
                student.module,
                setup.teacher if way == "taught" else None,
                setup.objective,
                setup.distillation_loss,
                settings=settings,
                out=HOME / "distilling" / f"{way}-{seed}",
                on_progress=progress(f"student {seed} {way}"),
            )
            found = classify(student.module, crops, ClassifierInput(SIDE))
            accuracies[way].append(round(float((found == crops.labels).mean()), 4))
            sizes["student_macs"] = macs(student.module, setup.frames[0])
        sizes["teacher_macs"] = macs(setup.teacher, setup.frames[0])
        sizes["teacher_right"] = int((classify(setup.teacher, crops, ClassifierInput(SIDE)) == crops.labels).sum())
    before = sizes.pop("teacher_right") / len(crops.labels)
    taught, alone = (float(np.mean(accuracies[way])) for way in ("taught", "alone"))
    return {
        "baseline": "the same student without a teacher",
        **sizes,
        "frames_val": len(crops.labels),
        "teacher_top1": round(before, 4),
        "top1": accuracies,
        "share_of_teacher": round(taught / before, 4) if before else None,
        "gain_points": round(100 * (taught - alone), 2),
        "settings": SETTINGS.as_dict(),
        "bars": BARS,
    }
