"""Our detector against YOLO11n: both trained for the same time, then speed and accuracy of the same trained networks.

python -m benchmarks yolo11n [--minutes M]

Twice, on NEU-DET's train fold, for so many minutes of wall time with the same number of threads, one after the other:

- ``random``: both begin with random weights;
- ``best``: each begins with the best weights that can be had. Ours: ImageNet's in the trunk, which come in a package.
  YOLO11n: ``ultralytics`` holds no weights and nothing is fetched here; with the ``yolo11n.pt`` of its releases at
  ``benchmarks/.networks/yolo11n/yolo11n.pt`` that row is measured, without it the row says so.

Judged on the val fold, float and INT8 by the same recipe (static QDQ, U8S8, per channel; YOLO's last decoding in
float).
Speed: the engine alone (ONNX Runtime, one thread), all forms in turn on the same frame, in processor time.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime

from benchmarks.inputs import networks
from benchmarks.inputs.data import shared
from benchmarks.others.environments import python_of, versions_of
from benchmarks.others.networks import HERE, environment
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_converters.evaluation import DetectorEvaluation, EvaluationRequest, judge
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.labels import LABELS
from lineside_models.preprocess import prepare
from lineside_models.simulator import Kind, render
from lineside_models.vision.images import read_image
from lineside_models.vision.model_facts import ModelFacts
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Postprocess, open_bundle

WEIGHTS = networks.HOME / "yolo11n" / "yolo11n.pt"
"""Pretrained weights of YOLO11n, put there by hand."""

TRAIN_SIDE = 224
SIDES: dict[int, Kind] = scaled({224: "steel", 640: "pcb"}, smoke={224: "steel"})
ROUNDS = scaled({224: 60, 640: 15}, smoke={224: 2})
WARM_UP = scaled(3, smoke=1)
CALIBRATION_FRAMES = scaled(16, smoke=2)
MINUTES = scaled(34.0, smoke=0.02)
"""Wall time of each training."""

THREADS = len(os.sched_getaffinity(0))
"""Of all trainings: the cores that this process may use."""
SEED = 0
STARTS = scaled(("random", "best"), smoke=("random",))
NO_WEIGHTS = (
    f"no pretrained YOLO11n: the package ultralytics holds no weights, and no {WEIGHTS.name} of its releases lies at "
    f"benchmarks/{WEIGHTS.relative_to(networks.HOME.parent)}"
)
NO_ENVIRONMENT = "YOLO11n, which needs an environment of its own"


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network.

    Attributes:
        float_files: ONNX by side of its input.
        facts: How frames go in and answers come out.
        start: The weights that it began with.
    """

    float_files: dict[int, Path]
    facts: ModelFacts
    spent: dict[str, float]
    start: str


def run(minutes: float = MINUTES) -> dict[str, Any]:
    """Trains, judges and times.

    Args:
        minutes: Wall time of each training.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = shared("neu-det")
        yaml = _as_yolo(data, Path(folder) / "yolo")
        return {
            "baseline": "YOLO11n trained for the same time, INT8 by the same recipe, ONNX Runtime, 1 thread",
            **({} if SMOKE else {"versions": versions_of("ultralytics", ("ultralytics", "torch", "onnxruntime"))}),
            "minutes": minutes,
            "threads": THREADS,
            "starts": {start: _compared(start, data, yaml, Path(folder) / start, minutes) for start in STARTS},
        }


def _compared(start: str, data: Path, yaml: Path, folder: Path, minutes: float) -> dict[str, Any]:
    """Returns the rows of both networks after training from one kind of start."""
    folder.mkdir()
    rows: dict[str, Any] = {}
    made = {"lineside": _train_ours(start, data, folder / "ours", minutes)}
    absent = NO_ENVIRONMENT if SMOKE else NO_WEIGHTS if start == "best" and not WEIGHTS.exists() else ""
    if absent:
        rows["yolo11n"] = {"left_out": absent}
    else:
        made["yolo11n"] = _train_theirs(start, yaml, folder, minutes)
    samples = load_dataset(data, "train").samples
    images = [read_image(sample.path) for sample in samples[:: len(samples) // CALIBRATION_FRAMES]]
    small = {name: _small_of(each, images[:CALIBRATION_FRAMES]) for name, each in made.items()}
    for name, each in made.items():
        plain = each.float_files[TRAIN_SIDE]
        rows[name] = {
            "start": each.start,
            **each.spent,
            "parameters": _parameters(plain),
            "map50_float": round(_map50(plain, each.facts, data), 4),
            "map50_int8": round(_map50(small[name][TRAIN_SIDE], each.facts, data), 4),
        }
    return {**rows, "speed": {f"{side}x{side}": _speed(made, small, side) for side in SIDES}}


def _train_ours(start: str, data: Path, out: Path, minutes: float) -> Trained:
    command: list[str | Path] = [sys.executable, "-m", "lineside", "train", "detector", "--data", data, "--out", out]
    command += ["--epochs", "1000", "--minutes", str(minutes), "--seed", str(SEED), "--threads", str(THREADS)]
    if start == "random":
        command += ["--start", _random_detector(out.with_name("random.onnx"))]
    else:
        command += ["--architecture", "lite0@96"]
    spent = _untrained(command, out) if SMOKE else _call(command)
    shipped = open_bundle(zoo.path("surface-12-float")).manifest
    how = {key: value for key, value in shipped.postprocess.params.items() if key not in ("calibration", "thresholds")}
    facts = ModelFacts(
        labels=LABELS, preprocess=shipped.preprocess, postprocess=Postprocess(name="dfl_anchor_free", params=how)
    )
    weights = "random weights" if start == "random" else "ImageNet's weights in the trunk, random ones elsewhere"
    return Trained(dict.fromkeys(SIDES, out / "float.onnx"), facts, spent, weights)


def _untrained(command: list[str | Path], out: Path) -> dict[str, float]:
    """Checks that the command's words are understood, and puts the shipped float network where a training would."""
    nothing = out.with_name("nothing")
    nothing.mkdir()
    words = [nothing if before == "--data" else word for before, word in zip(["", *command], command, strict=False)]
    if subprocess.run(words, check=False).returncode != 1:  # 2 for wrong usage, 1 for a folder without images
        raise RuntimeError(f"not understood: {words}")
    shipped = open_bundle(zoo.path("surface-12-float"))
    out.mkdir(exist_ok=True)
    shutil.copy(shipped.file(shipped.manifest.variants[0].file), out / "float.onnx")
    return {"wall_s": 0.0, "processor_s": 0.0}


def _random_detector(path: Path) -> Path:
    """Writes our detector with random weights."""
    import torch

    from lineside_converters.training.detection.bundle_facts import ARCHITECTURE
    from lineside_converters.training.detection.trainer import export_detector
    from lineside_models.networks import build

    torch.manual_seed(SEED)
    export_detector(build(ARCHITECTURE, num_classes=len(LABELS)).eval(), path)
    return path


def _train_theirs(start: str, yaml: Path, folder: Path, minutes: float) -> Trained:
    files = {side: folder / f"yolo11n-{side}.onnx" for side in SIDES}
    task = {
        "outputs": {str(path): side for side, path in files.items()},
        "train_side": TRAIN_SIDE,
        "data": str(yaml),
        "minutes": minutes,
        "weights": str(WEIGHTS) if start == "best" else "",
        "seed": SEED,
        "threads": THREADS,
    }
    spent = _call([python_of("ultralytics"), HERE / "train_yolo.py", msgspec.json.encode(task).decode()])
    facts = ModelFacts(postprocess=Postprocess(name="yolov8", params={"score_min": 0.01}))
    return Trained(files, facts, spent, "random weights" if start == "random" else f"{WEIGHTS.name} of its releases")


def _small_of(network: Trained, images: list[np.ndarray]) -> dict[int, Path]:
    """Makes the INT8 form of each file; inputs of other sides are calibrated on the simulator's frames."""
    made: dict[Path, Path] = {}
    for side, path in network.float_files.items():
        if path in made:
            continue
        bundle = wrap_onnx(path, path.with_suffix(".bundle"), network.facts)
        frames = [render(SIDES[side], seed, size=(side, side)).image for seed in range(CALIBRATION_FRAMES)]
        seen = images if side == TRAIN_SIDE else frames
        inputs = [prepare(image, bundle.manifest.preprocess)[0] for image in seen]
        made[path] = _int8(path, path.with_suffix(".int8.onnx"), inputs)
    return {side: made[path] for side, path in network.float_files.items()}


def _speed(made: dict[str, Trained], small: dict[str, dict[int, Path]], side: int) -> dict[str, Any]:
    """Times the trained networks' forms at one size, in turn."""
    frame = render(SIDES[side], 0, size=(side, side)).image
    calls = {}
    for name, each in made.items():
        preprocess = open_bundle(each.float_files[side].with_suffix(".bundle")).manifest.preprocess
        tensor, _ = prepare(frame, preprocess)
        for form, path in (("int8", small[name][side]), ("float", each.float_files[side])):
            engine = _engine(path)
            calls[f"{name}_{form}_ms"] = _caller(engine, tensor)
    times = interleaved(calls, rounds=ROUNDS[side], warm_up=WARM_UP, clock=time.thread_time_ns)
    found: dict[str, Any] = {name: spread(values) for name, values in times.items()}
    found["macs"] = {name: networks.macs(each.float_files[side]) for name, each in made.items() if name == "yolo11n"}
    if "yolo11n" in made:
        ours = times["lineside_int8_ms"]
        fastest = [min(pair) for pair in zip(times["yolo11n_int8_ms"], times["yolo11n_float_ms"], strict=True)]
        found["yolo11n_int8_over_ours"] = round(median_ratio(times["yolo11n_int8_ms"], ours), 3)
        found["yolo11n_faster_form_over_ours"] = round(median_ratio(fastest, ours), 3)
    return found


def _caller(engine: onnxruntime.InferenceSession, tensor: np.ndarray) -> Any:
    feed = {engine.get_inputs()[0].name: tensor}
    return lambda: engine.run(None, feed)


def _parameters(model: Path) -> int:
    return sum(math.prod(each.dims) for each in onnx.load(model).graph.initializer)


def _map50(model: Path, facts: ModelFacts, data: Path) -> float:
    bundle = model.with_suffix(".bundle")
    opened = open_bundle(bundle) if bundle.is_dir() else wrap_onnx(model, bundle, facts)
    found = judge(opened, data, EvaluationRequest(fold="val"))
    if not isinstance(found, DetectorEvaluation):
        raise TypeError(f"{model} was judged as another kind of model")
    return found.map50


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
    """Runs a program to its end and returns its wall-clock and processor seconds."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    subprocess.run(command, check=True, stdout=sys.stderr, env={**environment(), **threads})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(time.perf_counter() - began_s, 1), "processor_s": round(used_s, 1)}
