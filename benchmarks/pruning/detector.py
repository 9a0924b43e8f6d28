"""Level 2 on the shipped detector. Baseline: its float parent in ONNX Runtime, one thread, the same frames.

Learnt and chosen from the train folds; the val folds are judged once, at the end.
"""

from __future__ import annotations

from typing import Any

from benchmarks.pruning import unpruned
from benchmarks.pruning.common import HOME, SEED, answers, data_set, map_drop, said, say, told, val_frames
from benchmarks.pruning.speeds import fastest, forms_of, speedups
from benchmarks.smoke import scaled
from lineside_converters.material import feed_of
from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_converters.slimming import Effort
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle

SETS = scaled(("neu-det", "deeppcb"), smoke=("neu-det",))
EFFORT = scaled(
    Effort(
        speedup=2.25,
        epochs=32,
        minutes=62,
        learning_rate=1e-3,
        true_weight=1.0,
        teach_weight=2.0,
        threads=2,
        teacher_bf16=True,
    ),
    smoke=Effort(speedup=1.2, epochs=1, threads=1, batch=4),
)
"""Of the INT8 form: what is left of its time is what INT8 alone doesn't save on the way to 5 times."""

TARGET = scaled("x86", smoke="rpi5")
"""In a smoke run one that this machine isn't, so that no gate depends on its speed."""

PRUNED = "pruned float in ort"
BARS = {"float": 2.1, "int8": 5.0, "float_drop": 1.0, "int8_drop": 1.5}


def optimise() -> OptimizeResult:
    """Prunes, teaches and quantises, or takes what an earlier call has kept."""
    return Optimizer(
        zoo.path("surface-12-float"),
        target_device=TARGET,
        optimization_level=2,
        data=[data_set(name) for name in SETS],
        fold="train",
        max_drop=1.0,  # judged below, on the val folds
        name="surface-12",
        out=HOME / "detector.bundle",
        work=HOME / "detector",
        overwrite=True,
        seed=SEED,
        effort=EFFORT,
        on_progress=say,
        on_count=said(),
    ).run()


def run() -> dict[str, Any]:
    """Measures speed and accuracy of the pruned float model and of its INT8 forms."""
    result = optimise()
    if result.slimmed is None:
        raise RuntimeError("level 2 made no slim model")
    source = zoo.path("surface-12-float")
    bundle = open_bundle(source)
    manifest = bundle.manifest
    frames = {name: val_frames(data_set(name), manifest.labels) for name in SETS}
    feeds = {
        f"{name} {each[0].frame.image.shape[:2]}": feed_of(each[0].frame, manifest) for name, each in frames.items()
    }
    whole = unpruned.teach_unpruned(
        source,
        [data_set(name) for name in SETS],
        HOME / "detector" / "unpruned",
        effort=EFFORT,
        steps=unpruned.steps_of(result.slimmed.training),
    )
    pruned = {PRUNED: (result.slimmed.model, "ort", "fp32"), **forms_of(result.bundle)}
    forms = {**pruned, **whole.forms}
    original = bundle.file(manifest.variants[0].file)
    times = speedups(original, forms, manifest, feeds)
    int8 = [name for name in pruned if name != PRUNED]
    drops: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    for name, each in frames.items():
        before = answers(original, each, manifest)
        after = {
            form: answers(path, each, manifest, engine, precision) for form, (path, engine, precision) in forms.items()
        }
        drops[name] = {form: told(map_drop(each, before, found, manifest.labels)) for form, found in after.items()}
        costs[name] = {
            form: told(
                map_drop(each, after[unpruned.FLOAT if form == PRUNED else unpruned.INT8], after[form], manifest.labels)
            )
            for form in pruned
        }
    return {
        "baseline": "surface-12-float, ORT FP32, 1 thread",
        "effort": {"speedup": EFFORT.speedup, "epochs": EFFORT.epochs},
        "pruning": {key: result.slimmed.training["pruning"][key] for key in ("predicted_harm", "whole", "curve")},
        "unpruned_taught": {"steps": whole.steps, "curve": whole.curve},
        "pruned_steps": unpruned.steps_of(result.slimmed.training),
        "speed": times,
        "speedup_float": times["geometric mean"][PRUNED]["speedup"],
        "speedup_int8": fastest(times, int8),
        "accuracy_val": drops,
        "cost_of_pruning_val": costs,
        "bars": BARS,
    }
