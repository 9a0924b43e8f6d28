"""Level 1 beside Olive and NNCF alone: the same float file, calibration frames, judged frames, engines and threads.

- Olive: its static pass as it comes, and with the options that suit x86 best; its file runs in ONNX Runtime.
- NNCF: ``nncf.quantize`` as it comes; its file runs in OpenVINO.
- lineside: `Optimizer` at level 1; the variant that the bundle names first, in that variant's engine.

The others make their files in environments of their own. All files are then loaded in one process, with the same
options and one thread, and run in turn. EfficientNet-Lite0 is judged by top-1 on the photos that nobody calibrated or
chose on. ResNet-50's weights are drawn: for it the cosine of the logits with the float model's stands in for accuracy.

Baseline: the float file in ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.inputs import networks
from benchmarks.inputs.data import shared
from benchmarks.others.environments import python_of, versions_of
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.data.calibration_data import AnnotatedFrame, ModelInputs, feed_of, gather_inputs
from lineside_converters.gates.checks import Run
from lineside_converters.gates.loaded_models import execution_place, open_model
from lineside_converters.gates.statistics import drop_of_mean
from lineside_converters.levels import level_options
from lineside_converters.optimizer import Optimizer, OptimizeResult
from lineside_runtime.bundle import Manifest

HERE = Path(__file__).parents[2] / "others"
PREPROCESS = {"input": "image", "colour": "rgb", "resize": "stretch", "size": [224, 224], "mean": [127.0] * 3}
FACTS: dict[str, Any] = {
    "labels": [str(number) for number in range(1000)],
    "preprocess": {**PREPROCESS, "std": [128.0] * 3},
    "postprocess": {"name": "classification"},
}
MAX_DROP = scaled(0.02, smoke=1.0)
LIMIT = scaled(None, smoke=0.0)
"""In a smoke run the network is random: no model that anybody would use."""
ROUNDS = scaled(60, smoke=2)
TARGET = scaled("x86", smoke="rpi5")
"""In a smoke run one that this machine isn't, so that the small network needn't be faster in INT8."""

LITE0 = scaled(networks.lite0_float, smoke=networks.small)
RESNET50 = scaled(networks.resnet50_float, smoke=networks.small)
LOGITS_OF = scaled(100, smoke=2)
"""Photos on which ResNet-50's logits are compared."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A model file of one tool."""

    model: Path
    engine: str
    precision: str = "int8"

    @property
    def bytes(self) -> int:
        """Of the model and of the weights beside it."""
        weights = self.model.with_suffix(".bin")
        beside = weights.stat().st_size if self.model.suffix == ".xml" else 0
        return self.model.stat().st_size + beside


def run() -> dict[str, Any]:
    """Compares on both networks."""
    photos = shared("imagenet-val-subset")
    found: dict[str, Any] = {
        "baseline": "the float file in ONNX Runtime, one thread; all in turn in one process",
        **_versions(),
    }
    with tempfile.TemporaryDirectory() as folder:
        lite0, resnet50 = Path(folder) / "lite0", Path(folder) / "resnet50"
        lite0.mkdir()
        resnet50.mkdir()
        print("    lite0 ...", file=sys.stderr, flush=True)
        ours = Optimizer(
            LITE0(), TARGET, 1, out=lite0 / "lineside", data=photos, max_drop=MAX_DROP, min_metric=LIMIT, **FACTS
        ).run()
        inputs = _material(ours.bundle.manifest, photos)  # the same that the optimizer has just used
        found["lite0"] = {**compare(LITE0(), ours, inputs, lite0), **_accuracies(ours)}
        print("    resnet50 ...", file=sys.stderr, flush=True)
        how = {"frames": list(inputs.calibration), "max_drop": 1.0, **FACTS}  # drawn weights: no answer to lose
        ours = Optimizer(RESNET50(), TARGET, 1, out=resnet50 / "lineside", **how).run()
        found["resnet50"] = compare(RESNET50(), ours, inputs, resnet50, judged_max=LOGITS_OF)
    return found


def compare(
    model: Path, ours: OptimizeResult, inputs: ModelInputs, work: Path, *, judged_max: int | None = None
) -> dict[str, Any]:
    """Lets the others quantise a network, runs all files in turn, and returns the figures.

    Args:
        model: The float file.
        ours: What lineside made of it.
        material: What all calibrate and are judged on.
        work: Folder for files.
        judged_max: How many photos at most; their truth isn't looked at then.
    """
    first = ours.evaluation.accepted[0].candidate
    shipped = ours.bundle.file(first.variant.file)
    calibration = np.concatenate([feed["image"] for feed in inputs.calibration])
    files = {"float": File(model, "ort", "fp32"), "lineside": File(shipped, first.engine, first.variant.precision)}
    files |= _theirs(model, calibration, work)
    manifest, judged = ours.bundle.manifest, inputs.evaluation[: judged_max or len(inputs.evaluation)]
    with ExitStack() as stack:
        runs = {name: stack.enter_context(_loaded(file, manifest)) for name, file in files.items()}
        feed = feed_of(judged[0].frame, manifest)
        times = interleaved({name: functools.partial(run, feed) for name, run in runs.items()}, rounds=ROUNDS, block=3)
        logits = _logits(runs, judged, manifest)
    truth = None if judged_max else np.array([frame.labels[0] for frame in judged])
    return {
        "macs": networks.macs(model),
        "calibrated_on": len(calibration),
        "judged_on": len(judged),
        "rows": {
            name: {
                "engine": file.engine,
                "ms": spread(times[name]),
                "speedup": round(median_ratio(times["float"], times[name]), 2),
                "size_ratio": round(file.bytes / files["float"].bytes, 3),
                **(_cosine(logits, name) if truth is None else _top1(logits, name, truth)),
            }
            for name, file in files.items()
        },
    }


def _versions() -> dict[str, Any]:
    if SMOKE:
        return {"left_out": "Olive and NNCF, which need environments of their own"}
    return {
        "versions": {**versions_of("olive", ("olive-ai", "onnxruntime")), **versions_of("nncf", ("nncf", "openvino"))}
    }


def _material(manifest: Manifest, photos: Path) -> ModelInputs:
    return gather_inputs(manifest, limit=level_options(1).calibration_frames, data=(photos,))


def _theirs(model: Path, calibration: npt.NDArray[np.float32], work: Path) -> dict[str, File]:
    if SMOKE:
        return {}
    frames = work / "frames.npy"
    np.save(frames, calibration)
    made = {
        "olive": File(work / "olive.onnx", "ort"),
        "olive_tuned": File(work / "olive-tuned.onnx", "ort"),
        "nncf": File(work / "nncf.xml", "openvino"),
    }
    for name, how in (("olive", "default"), ("olive_tuned", "best")):
        _quantise("olive", "quantize_olive.py", model, frames, made[name].model, how)
    _quantise("nncf", "quantize_nncf.py", model, frames, made["nncf"].model)
    return made


def _quantise(environment: str, script: str, model: Path, frames: Path, out: Path, *more: str) -> None:
    command: list[str | Path] = [python_of(environment), HERE / script, model, frames, "image", out, *more]
    quiet = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "NNCF_TELEMETRY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if not out.exists():
        raise RuntimeError(f"{script} made nothing of {model.name}: {(done.stderr or done.stdout)[-2000:]}")


def _loaded(file: File, manifest: Manifest) -> AbstractContextManager[Run]:
    precision: Any = file.precision
    return open_model(file.model, execution_place(file.engine, "cpu"), manifest, precision=precision, threads=1)


def _logits(runs: Mapping[str, Run], judged: Sequence[AnnotatedFrame], manifest: Manifest) -> dict[str, Any]:
    found: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in runs}
    for frame in judged:
        feed = feed_of(frame.frame, manifest)
        for name, run in runs.items():
            found[name].append(run(feed)["logits"][0].astype(np.float32))
    return {name: np.stack(rows) for name, rows in found.items()}


def _top1(logits: Mapping[str, Any], name: str, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    drop = drop_of_mean(logits["float"].argmax(1) == truth, logits[name].argmax(1) == truth)
    return {"top1": round(drop.after, 4), "drop": round(drop.drop, 4), "ci": [round(drop.low, 4), round(drop.high, 4)]}


def _cosine(logits: Mapping[str, Any], name: str) -> dict[str, Any]:
    one, two = (rows - rows.mean(0) for rows in (logits["float"], logits[name]))
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    return {"cosine": round(float(cosine.mean()), 4)}


def _accuracies(ours: OptimizeResult) -> dict[str, Any]:
    """Accuracies of the optimizer's own report, to compare with those measured here."""
    metric = ours.report.metric
    accuracy = None if metric is None else {"before": round(metric.before, 4), "after": round(metric.after, 4)}
    return {"lineside_says": accuracy}
