"""Steps of training and optimizing: ``lineside train --gpus``, and level 3 for ``cuda:0``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.environment import ROOT
from benchmarks.gpu.steps import Case, Figures, LeftOut, StepError
from benchmarks.inputs.drawn import textures
from benchmarks.smoke import SMOKE, scaled
from lineside.commands import train
from lineside.commands.train.training import settings_of
from lineside.commands.train.workers import cluster_of
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import Effort
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.trainer import train_classifier

FOLDS = scaled({"train": 192, "val": 48}, smoke={"train": 48, "val": 12})
EFFORT = Effort(speedup=1.15, epochs=3, batch=32, learning_rate=3e-3, true_weight=1.0, trials=3, shortlist=1, threads=1)


def train_gpus(case: Case) -> Figures:
    """Trains a classifier by ``lineside train classifier --gpus``, a worker on each GPU."""
    workers = max(1, case.gpus)
    out = case.folder / "trained"
    words = [
        *("classifier", "--data", str(_data(case)), "--out", str(out), "--epochs", "4"),
        *("--evaluate-every", "2", "--workers", str(workers), "--gpus", "--gradients", "auto", "--json"),
    ]
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    options = parser.parse_args(words)
    settings, cluster = settings_of(options, ClassifierConfig), cluster_of(options)
    if cluster is None or not cluster.gpus:
        raise StepError("--gpus is not in the cluster's settings", {})
    if not case.gpus:
        return {"settings": settings.as_dict(), "workers": cluster.workers}
    if not torch.cuda.is_available():
        raise LeftOut(f"torch {torch.__version__} finds no CUDA device")
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "lineside", "train", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise StepError(f"lineside train ended with {done.returncode}: {done.stdout.strip()[-300:]}", {})
    found = json.loads(done.stdout[done.stdout.index("{") :])
    keys = ("workers", "layout", "scheme", "scheme_why", "samples_per_second", "bytes_per_step", "communication_share")
    accuracy = found.get("held_top1")
    figures = {name: found[name] for name in keys if name in found}
    return {**figures, "held_top1": accuracy, "seconds": round(time.perf_counter() - began_s, 1)}


def optimizer(case: Case) -> Figures:
    """Runs level 3 for ``cuda:0``: prunes, searches, quantizes, compiles, and times the forms on the GPU if it is here.

    Without a GPU the same is done for a target that is not here, in a smoke run at level 1.
    """
    level, epochs, width = (1, 1, 0.25) if SMOKE else (3, 6, 0.5)
    data = _data(case)
    config = ClassifierConfig(data=(data,), out=case.folder / "teacher", epochs=epochs, evaluate_every=3, width=width)
    teacher = train_classifier(config, lambda _: None)
    result = Optimizer(
        teacher.onnx,
        target_device="cuda:0",
        optimization_level=level,
        data=data,
        max_drop=0.5,
        min_metric=0.0,  # a short training on drawn parts: it is the time that counts
        out=case.folder / "bundle",
        work=case.folder / "work",
        effort=None if SMOKE else EFFORT,
        on_progress=lambda text: print(text, flush=True),
        on_count=lambda *_: None,
    ).run()
    report = result.report
    return {
        "level": level,
        "variants": [f"{each.name} ({each.format}, {each.precision})" for each in result.bundle.manifest.variants],
        "gates": {gate.name: gate.status for gate in report.gates},
        "latency_ms": {
            "float": round(result.float_figures.latency_ms, 4),
            "fastest": round(result.int8_figures.latency_ms, 4) if result.int8_figures else None,
        },
        "candidates": len(report.candidates),
        "hypervolumes": {each.series: round(each.value, 4) for each in report.hypervolumes},
        "notes": list(report.notes),
    }


def _data(case: Case) -> Path:
    return textures(case.folder / "data", FOLDS)
