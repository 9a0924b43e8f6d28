"""Evaluation, cross-validation and layer sensitivity as Ray tasks, beside the plain loop: seconds, and equal results.

The plain loop, then two tasks and four tasks at once. Four share two cores where the machine has no more, so that they
can't be faster there than two. Ray is started, and every worker has imported what it needs, before the clock runs; what
that takes is told apart. Results are compared to the last bit, without the latencies.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.inputs.data import shared
from benchmarks.smoke import SMOKE, scaled
from lineside_converters.cluster.tasks import ALONE, TaskCluster, TaskRunner, open_tasks
from lineside_converters.evaluation import EvaluationRequest, judge
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.quantization.sensitivity import SensitivitySweep
from lineside_converters.targets import find_target
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.cross_validation import cross_validate
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle

WORKERS = scaled((1, 2, 4), smoke=(1,))
FRAMES = scaled(240, smoke=4)
FOLDS, EPOCHS = scaled((4, 2), smoke=(2, 1))
LAYERS, FEEDS, SIDE_PX = scaled((24, 4, 320), smoke=(2, 1, 64))


def run() -> dict[str, Any]:
    """Measures each kind of work with each number of workers."""
    found: dict[str, Any] = {name: {} for name in WORK}
    results: dict[str, Any] = {}
    started: dict[str, float] = {}
    for workers in WORKERS:
        with ExitStack() as stack:
            began_s = time.monotonic()
            tasks = stack.enter_context(open_tasks(TaskCluster(workers=workers))) if workers > 1 else ALONE
            tasks.map(_warm, range(2 * workers))
            started[str(workers)] = time.monotonic() - began_s
            for name, work in WORK.items():
                before_s = time.monotonic()
                result = work(tasks)
                found[name][str(workers)] = {
                    "seconds": time.monotonic() - before_s,
                    "same": results.setdefault(name, result) == result,
                }
    return {
        "cores": os.cpu_count(),
        "started_s": started,
        "work": {
            "evaluate": {"what": f"surface-12 on {FRAMES} frames of NEU-DET", "workers": found["evaluate"]},
            "folds": {"what": f"a classifier of X-SDD, {FOLDS} folds of {EPOCHS} epochs", "workers": found["folds"]},
            "sensitivity": {"what": f"{LAYERS} layers of surface-12-float", "workers": found["sensitivity"]},
        },
        **({"left_out": "Ray: the plain loop alone"} if SMOKE else {}),
    }


def _warm(_: int) -> None:
    """Imports what all the work needs, and keeps a worker busy long enough for the others to begin as well."""
    import torch  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        _sweep(Path(folder)).measure(_sweep(Path(folder)).layers[:1], ALONE, lambda *_: None)


def _evaluate(tasks: TaskRunner) -> Any:
    request = EvaluationRequest(fold="train", max_frames=FRAMES, tasks=tasks)
    result = judge(zoo.path("surface-12"), shared("neu-det"), request)
    plain: dict[str, Any] = msgspec.to_builtins(result)
    return {name: value for name, value in plain.items() if name not in ("latency_ms", "workers")}


def _folds(tasks: TaskRunner) -> Any:
    with tempfile.TemporaryDirectory() as out:
        settings = ClassifierConfig(
            data=(shared("x-sdd"),), out=Path(out), epochs=EPOCHS, batch=32, side_px=32, evaluate_every=EPOCHS
        )
        found = cross_validate("classifier", settings, FOLDS, tasks=tasks)
        return [(run.figures, run.curve) for run in found.folds]


def _sweep(folder: Path) -> SensitivitySweep:
    bundle = open_bundle(zoo.path("surface-12-float"))
    clean = folder / "clean.onnx"
    clean_graph(bundle.file(bundle.manifest.variants[0].file), clean)
    import onnx

    from lineside_converters.quantization.static import KINDS

    layers = [node.name for node in onnx.load(clean).graph.node if node.op_type in KINDS]
    rng = np.random.default_rng(0)
    feeds = [
        {bundle.manifest.preprocess.input: rng.normal(0, 1, (1, 1, SIDE_PX, SIDE_PX)).astype(np.float32)}
        for _ in range(FEEDS)
    ]
    return SensitivitySweep(
        clean=clean.read_bytes(),
        layers=tuple(layers),
        method="minmax",
        feeds=feeds,
        ranges=None,
        manifest=bundle.manifest,
        target=find_target("cpu"),
    )


def _sensitivity(tasks: TaskRunner) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        sweep = _sweep(Path(folder))
        return sweep.measure(sweep.layers[:LAYERS], tasks, lambda *_: None)


WORK: dict[str, Callable[[TaskRunner], Any]] = {
    "evaluate": _evaluate,
    "folds": _folds,
    "sensitivity": _sensitivity,
}
