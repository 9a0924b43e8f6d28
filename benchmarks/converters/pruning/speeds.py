"""Speed of a model's forms beside the float one in ONNX Runtime: interleaved, one thread, the same frames."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.smoke import scaled
from lineside_converters.gates.checks import Feed, time_together
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.optimizer import Optimizer
from lineside_runtime.bundle import Bundle, Manifest
from lineside_runtime.precision import Precision

SOURCE = "float"
PRUNED = "pruned float in ort"
ROUNDS = scaled(25, smoke=2)
ONNX_ENGINES = scaled(("ort", "openvino"), smoke=("ort",))


def speedups(
    source: Path,
    forms: Mapping[str, tuple[Path, str, Precision]],
    manifest: Manifest,
    feeds: Mapping[str, Feed],
) -> dict[str, dict[str, Any]]:
    """Times forms beside the source.

    Args:
        source: The float ONNX file, run by ONNX Runtime.
        forms: By name a file, its engine and its precision.
        feeds: By name an input; each is a row of its own, and the last row is their geometric mean.

    Returns:
        By input's name: milliseconds and speed-up of every form.
    """
    with contextlib.ExitStack() as stack:
        cpu = execution_place("ort", "cpu")
        runs = {SOURCE: stack.enter_context(open_model(source, cpu, manifest, precision="fp32", threads=1))}
        for name, (path, engine, precision) in forms.items():
            place = execution_place(engine, "cpu")
            runs[name] = stack.enter_context(open_model(path, place, manifest, precision=precision, threads=1))
        found: dict[str, dict[str, Any]] = {}
        for row, feed in feeds.items():
            times = time_together(runs, [feed], rounds=ROUNDS)
            base = times[SOURCE].samples_ms
            found[row] = {
                name: {
                    "ms": round(float(np.median(each.samples_ms)), 3),
                    "speedup": round(float(np.median(base / each.samples_ms)), 3),
                }
                for name, each in times.items()
            }
    found["geometric mean"] = {
        name: {"speedup": round(math.exp(np.mean([math.log(found[row][name]["speedup"]) for row in feeds])), 3)}
        for name in runs
    }
    return found


def fastest(found: Mapping[str, dict[str, Any]], names: list[str]) -> dict[str, float]:
    """Returns by input the speed-up of the fastest of some forms, and the geometric mean of those."""
    rows = [row for row in found if row != "geometric mean"]
    best = {row: max(found[row][name]["speedup"] for name in names) for row in rows}
    return best | {"geometric mean": round(math.exp(np.mean([math.log(value) for value in best.values()])), 3)}


def pruned_forms(optimizer: Optimizer) -> tuple[dict[str, tuple[Path, str, Precision]], dict[str, Any]]:
    """Optimises at level 2, or reads what an earlier call has finished.

    Returns:
        The forms by name, the pruned float one first, and the report of the pruning.
    """
    result = optimizer.run()
    if result.pruning is None:
        raise RuntimeError("level 2 made no slim model")
    training = result.pruning.training["pruning"]
    forms = {PRUNED: (result.pruning.model, "ort", "fp32"), **forms_of(result.bundle)}
    return forms, {key: training[key] for key in ("predicted_harm", "whole", "curve")}


def smoke_forms(source: Path) -> tuple[dict[str, tuple[Path, str, Precision]], dict[str, Any]]:
    """Returns what `pruned_forms` does, with the float model in place of all forms: for a smoke run."""
    forms: dict[str, tuple[Path, str, Precision]] = dict.fromkeys((PRUNED, "source"), (source, "ort", "fp32"))
    return forms, {"left_out": "level 2, which the classifier's smoke run has: the float model in place of all forms"}


def forms_of(bundle: Bundle) -> dict[str, tuple[Path, str, Precision]]:
    """Returns the forms in a bundle, those in ONNX for each engine that reads it."""
    found: dict[str, tuple[Path, str, Precision]] = {}
    for variant in bundle.manifest.variants:
        path = bundle.file(variant.file)
        if variant.format == "onnx":
            found |= {f"{variant.name} in {engine}": (path, engine, variant.precision) for engine in ONNX_ENGINES}
        elif variant.format == "openvino":
            found[variant.name] = (path, "openvino", variant.precision)
    return found
