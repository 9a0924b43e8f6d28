"""Level 2 on the shipped detector. Baseline: its float parent in ONNX Runtime, one thread, the same frames.

Learnt and chosen from the train folds; the val folds are judged once, at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.converters.pruning import unpruned
from benchmarks.converters.pruning.common import (
    HOME,
    answers,
    data_set,
    drop_row,
    map_drop,
    pruning_optimizer,
    val_frames,
)
from benchmarks.converters.pruning.speeds import PRUNED, fastest, pruned_forms, smoke_forms, speedups
from benchmarks.smoke import SMOKE
from lineside_converters.data.calibration_data import feed_of
from lineside_converters.optimizer import Optimizer
from lineside_converters.options import Effort
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from lineside_runtime.precision import Precision

SETS = ("neu-det", "deeppcb")
EFFORT = Effort(
    speedup=2.25,
    epochs=24,
    minutes=62,
    learning_rate=1e-3,
    true_weight=1.0,
    teach_weight=2.0,
    threads=2,
    teacher_bf16=True,
)
BARS = {"float": 2.1, "int8": 5.0, "float_drop": 1.0, "int8_drop": 1.5}


def optimizer() -> Optimizer:
    """Returns the optimizer of the benchmark."""
    data = [data_set(name) for name in SETS]
    parent = zoo.path("surface-12-float")
    return pruning_optimizer(parent, "x86", data=data, name="surface-12", work="detector", effort=EFFORT)


def run() -> dict[str, Any]:
    """Measures speed and accuracy of the pruned float model and of its INT8 forms."""
    source = zoo.path("surface-12-float")
    bundle = open_bundle(source)
    manifest = bundle.manifest
    original = bundle.file(manifest.variants[0].file)
    frames = {name: val_frames(data_set(name), manifest.labels) for name in SETS}
    feeds = {
        f"{name} {each[0].frame.image.shape[:2]}": feed_of(each[0].frame, manifest) for name, each in frames.items()
    }
    pruned, pruning = smoke_forms(original) if SMOKE else pruned_forms(optimizer())
    whole = _unpruned(source, original, pruning)
    forms = {**pruned, **whole.forms}
    times = speedups(original, forms, manifest, feeds)
    drops: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    for name, each in frames.items():
        before = answers(original, each, manifest)
        after = {
            form: answers(path, each, manifest, engine, precision) for form, (path, engine, precision) in forms.items()
        }
        drops[name] = {form: drop_row(map_drop(each, before, found, manifest.labels)) for form, found in after.items()}
        costs[name] = {
            form: drop_row(map_drop(each, after[unpruned.control_of(form)], after[form], manifest.labels))
            for form in pruned
        }
    return {
        "baseline": "surface-12-float, ORT FP32, 1 thread",
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


def _unpruned(source: Path, original: Path, pruning: dict[str, Any]) -> unpruned.Unpruned:
    """Returns the control; in a smoke run the float model stands for it, as the classifier's trains one."""
    if SMOKE:
        float_form: tuple[Path, str, Precision] = (original, "ort", "fp32")
        return unpruned.Unpruned({unpruned.FLOAT: float_form, unpruned.INT8: float_form}, 0, [])
    data = [data_set(name) for name in SETS]
    steps = unpruned.steps_of(pruning)
    return unpruned.train_control(source, data, HOME / "detector" / "unpruned", effort=EFFORT, steps=steps)
