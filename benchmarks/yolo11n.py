"""The shipped detector against YOLO11n at equal input: INT8 on ONNX Runtime, one thread; and trained for the same time.

python -m benchmarks yolo11n [--minutes M]

Baseline: YOLO11n of ``ultralytics``, in an environment of its own, made INT8 by the same recipe as ours (static QDQ,
U8S8, per channel; its last decoding in float). The engine alone, both in turn on the same frame, in
processor time: one thread runs all of it.

Both are also trained on NEU-DET's train fold for so many minutes (``--minutes``) of wall time and with the same
number of threads, one after the other, and judged on the val fold, float and INT8. YOLO11n begins with random weights,
ours with ImageNet's in its trunk, as each does where nothing is fetched: the processor time of both is in the result.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime

from benchmarks import networks
from benchmarks.data import shared
from benchmarks.others.environments import python_of, versions_of
from benchmarks.others.networks import HERE, environment
from benchmarks.smoke import SMOKE, kept, scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.compress.cleanup import clean_graph
from lineside_converters.compress.quantize import quantize
from lineside_converters.evaluation import Asked, DetectorEvaluation, judge
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.labels import LABELS
from lineside_models.preprocess import prepare
from lineside_models.simulator import Kind, render
from lineside_models.vision.facts import ModelFacts
from lineside_models.vision.images import read_image
from lineside_models.vision.wrap import wrap_onnx
from lineside_runtime.bundle import Bundle, Postprocess, open_bundle

HOME = kept(".networks") / "yolo11n"
SIZES: dict[int, Kind] = scaled({224: "steel", 640: "pcb"}, smoke={224: "steel"})
ROUNDS = scaled({224: 60, 640: 15}, smoke={224: 2})
CALIBRATION_FRAMES = scaled(16, smoke=2)
MINUTES = scaled(34.0, smoke=0.02)
"""Wall time of each training."""

THREADS = len(os.sched_getaffinity(0))
"""Of both trainings: the cores that this process may use."""
SEED = 0


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Measures the speed, and trains both.

    Args:
        minutes: Wall time of each training.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return {
            "baseline": "YOLO11n, INT8 by the same recipe, ONNX Runtime, 1 thread, the engine alone",
            **_versions(),
            "speed": {f"{side}x{side}": _speed(side) for side in SIZES},
            "trained": {"minutes": minutes, "threads": THREADS, **_trained(Path(folder), minutes)},
        }


def _versions() -> dict[str, Any]:
    if SMOKE:
        return {
            "left_out": ["YOLO11n, which needs an environment of its own: a small network for it", "both trainings"]
        }
    return {"versions": versions_of("ultralytics", ("ultralytics", "torch", "onnxruntime"))}


def _speed(side: int) -> dict[str, Any]:
    plain = HOME / f"random-{side}.onnx"
    if SMOKE:
        plain.write_bytes(networks.small().read_bytes())
    elif not plain.exists():
        _call([python_of("ultralytics"), HERE / "train_yolo.py", plain, str(side)])
    frames = [render(SIZES[side], seed, size=(side, side)).image for seed in range(CALIBRATION_FRAMES)]
    small = _int8(plain, plain.with_suffix(".int8.onnx"), [_rgb(frame) for frame in frames])
    ours = open_bundle(zoo.path("surface-12"))
    tensor, _ = prepare(frames[0], ours.manifest.preprocess)
    theirs_float, theirs = (_engine(path) for path in (plain, small))
    mine = _engine(ours.path / ours.manifest.variants[0].file)
    name = theirs.get_inputs()[0].name
    image = _rgb(frames[0])
    times = interleaved(
        {
            "surface_12_int8_ms": lambda: mine.run(None, {"image": tensor}),
            "yolo11n_int8_ms": lambda: theirs.run(None, {name: image}),
            "yolo11n_float_ms": lambda: theirs_float.run(None, {name: image}),
        },
        rounds=ROUNDS[side],
        warm_up=3,
        clock=time.thread_time_ns,
    )
    ratio = median_ratio(times["yolo11n_int8_ms"], times["surface_12_int8_ms"])
    fastest = [min(pair) for pair in zip(times["yolo11n_int8_ms"], times["yolo11n_float_ms"], strict=True)]
    return {
        **{name: spread(values) for name, values in times.items()},
        "yolo11n_int8_over_ours": round(ratio, 3),
        "yolo11n_faster_form_over_ours": round(median_ratio(fastest, times["surface_12_int8_ms"]), 3),
        "macs": {"yolo11n": networks.macs(plain)},
    }


def _rgb(image: np.ndarray) -> np.ndarray:
    """Returns a frame as YOLO11n takes it: ``(1, 3, H, W) float32``, RGB, 0 to 1."""
    coloured = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    planes = np.ascontiguousarray(coloured[..., ::-1].transpose(2, 0, 1)[None])
    return np.asarray(planes / np.float32(255), np.float32)


def _engine(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _int8(source: Path, target: Path, inputs: list[np.ndarray]) -> Path:
    """Makes a model INT8, but for what lies behind YOLO's last convolutions: boxes in pixels would ruin the ranges."""
    clean = source.with_suffix(".clean.onnx")
    clean_graph(source, clean)
    graph = onnx.load(clean).graph
    head = max(
        (node.name.split("/")[1] for node in graph.node if node.name.startswith("/model.")), default="", key=_rank
    )
    tail = [node.name for node in graph.node if head and node.name.startswith(f"/{head}/") and node.op_type != "Conv"]
    name = graph.input[0].name
    quantize(clean, target, feeds=[{name: one} for one in inputs], exclude=tail)
    return target


def _rank(module: str) -> int:
    return int(module.removeprefix("model."))


def _trained(folder: Path, minutes: float) -> dict[str, Any]:
    data = shared("neu-det")
    yaml = _as_yolo(data, folder / "yolo")
    theirs, ours = folder / "yolo11n.onnx", folder / "ours"
    program: list[str | Path] = [sys.executable, "-m", "lineside", "train", "detector", "--data", data, "--out", ours]
    times = ["--epochs", "1000", "--minutes", str(minutes), "--seed", str(SEED), "--threads", str(THREADS)]
    if SMOKE:
        spent = {"lineside": _untrained([*map(str, program), *times], ours)}
    else:
        spent = {"lineside": _call([*program, *times])}
        script: list[str | Path] = [python_of("ultralytics"), HERE / "train_yolo.py", theirs, "224", yaml]
        spent["yolo11n"] = _call([*script, str(minutes), str(SEED), str(THREADS)])
    train = load_dataset(data, "train").samples
    images = [read_image(sample.path) for sample in train[:: len(train) // CALIBRATION_FRAMES][:CALIBRATION_FRAMES]]
    shipped = open_bundle(zoo.path("surface-12-float")).manifest
    how = {key: value for key, value in shipped.postprocess.params.items() if key not in ("calibration", "thresholds")}
    facts = {
        "yolo11n": ModelFacts(postprocess=Postprocess(name="yolov8", params={"score_min": 0.01})),
        "lineside": ModelFacts(
            labels=LABELS, preprocess=shipped.preprocess, postprocess=Postprocess(name="dfl_anchor_free", params=how)
        ),
    }
    models = {"yolo11n": theirs, "lineside": ours / "float.onnx"}
    return {name: {**spent[name], **_judged(models[name], facts[name], images, data)} for name in spent}


def _untrained(command: list[str], out: Path) -> dict[str, float]:
    """Checks that the command's words are understood, and puts the shipped float network where a training would."""
    nothing = out.with_name("nothing")
    nothing.mkdir()
    words = [
        str(nothing) if before == "--data" else word for before, word in zip(["", *command], command, strict=False)
    ]
    if subprocess.run(words, check=False).returncode != 1:  # 2 for wrong usage, 1 for a folder without images
        raise RuntimeError(f"not understood: {words}")
    shipped = open_bundle(zoo.path("surface-12-float"))
    out.mkdir(exist_ok=True)
    shutil.copy(shipped.file(shipped.manifest.variants[0].file), out / "float.onnx")
    return {"wall_s": 0.0, "processor_s": 0.0}


def _judged(model: Path, facts: ModelFacts, images: list[np.ndarray], data: Path) -> dict[str, float]:
    bundle = wrap_onnx(model, model.parent / f"{model.stem}.bundle", facts)
    inputs = [prepare(image, bundle.manifest.preprocess)[0] for image in images]
    small = _int8(model, model.with_suffix(".int8.onnx"), inputs)
    forms = {"float": bundle, "int8": wrap_onnx(small, model.parent / f"{model.stem}.int8.bundle", facts)}
    return {f"map50_{name}": round(_map50(each, data), 4) for name, each in forms.items()}


def _map50(bundle: Bundle, data: Path) -> float:
    found = judge(bundle, data, Asked(fold="val"))
    if not isinstance(found, DetectorEvaluation):
        raise TypeError(f"{bundle.path} was judged as another kind of model")
    return found.map50


def _as_yolo(data: Path, folder: Path) -> Path:
    """Writes the train fold as ultralytics reads it, and returns its ``data.yaml``; the val fold isn't given."""
    dataset = load_dataset(data, "train")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for sample in dataset.samples:
        height, width = read_image(sample.path).shape[:2]
        shutil.copy(sample.path, folder / "images" / sample.path.name)
        numbers = [dataset.labels.index(dataset.vocabulary[label]) for label in sample.labels]
        corners = sample.boxes / np.array([width, height, width, height])
        rows = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        lines = [
            f"{number} {' '.join(f'{value:.6f}' for value in row)}" for number, row in zip(numbers, rows, strict=True)
        ]
        (folder / "labels" / f"{sample.path.stem}.txt").write_text("\n".join(lines))
    names = dict(enumerate(dataset.labels))
    content = {"path": str(folder), "train": "images", "val": "images", "names": names}
    (folder / "data.yaml").write_bytes(msgspec.json.encode(content))  # JSON is YAML
    return folder / "data.yaml"


def _call(command: list[str | Path]) -> dict[str, float]:
    """Runs a program to its end and returns what it took."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    subprocess.run(command, check=True, stdout=sys.stderr, env={**environment(), **threads})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.perf_counter() - began_s, 1), "processor_s": round(used_s, 1)}
