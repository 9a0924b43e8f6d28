"""What is compared: two public networks, the frames, and the forms that each contestant takes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.inputs import networks
from benchmarks.others.environments import python_of
from benchmarks.smoke import SMOKE
from lineside_models.simulator import render
from lineside_models.vision.model_facts import ModelFacts
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Postprocess, Preprocess

HERE = Path(__file__).parent
HOME = networks.HOME / "others"

QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
"""So that ultralytics neither asks the network nor installs anything while it is timed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """One network in all forms.

    Attributes:
        kind: ``detector`` or ``classifier``.
        onnx: The file that all forms are made of.
        ir: OpenVINO's form of it.
        frame: ``(H, W, 3) uint8`` BGR as ``.npy``, exactly twice the network's size, so that all resize alike.
    """

    name: str
    kind: str
    onnx: Path
    ir: Path
    bundle: Path
    frame: Path

    @property
    def macs(self) -> int:
        """Its multiply-accumulates."""
        return networks.macs(self.onnx)


def yolov8n() -> Network:
    """Returns YOLOv8n at 640 x 640, 80 classes, float, random weights."""
    frame = _frame("yolov8n.npy", 1280)
    onnx = HOME / "yolov8n.onnx"
    if not onnx.exists():
        _run([python_of("ultralytics"), HERE / "export_yolo.py", frame, onnx])
    as_predict = Postprocess(name="yolov8", params={"score_min": 0.25, "max_detections": 300})  # ultralytics' defaults
    bundle = _bundle(onnx, ModelFacts(postprocess=as_predict))
    return Network("YOLOv8n, 640 x 640, float", "detector", onnx, _ir(onnx), bundle, frame)


def lite0() -> Network:
    """Returns EfficientNet-Lite0 at 224 x 224, INT8."""
    onnx = networks.lite0_int8()
    facts = ModelFacts(
        labels=tuple(str(number) for number in range(1000)),
        preprocess=Preprocess(
            input="image", colour="rgb", resize="stretch", size=(224, 224), mean=(127.0,) * 3, std=(128.0,) * 3
        ),
        postprocess=Postprocess(name="classification", params={"max_detections": 1}),
    )
    frame = _frame("lite0.npy", 448)
    return Network("EfficientNet-Lite0, 224 x 224, INT8", "classifier", onnx, _ir(onnx), _bundle(onnx, facts), frame)


def environment() -> dict[str, str]:
    """Returns the environment of a contestant's process, with one thread."""
    return {**os.environ, **QUIET, "YOLO_CONFIG_DIR": str(HOME), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _frame(name: str, side: int) -> Path:
    path = HOME / name
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        np.save(path, render("pcb", 3, size=(side, side)).image)
    return path


def _ir(onnx: Path) -> Path:
    path = HOME / f"{onnx.stem}.xml"
    if not SMOKE and not path.exists():
        ovc = python_of("model-api").with_name("ovc")
        _run([ovc, onnx, "--compress_to_fp16=False", "--output_model", path])
    return path


def _bundle(onnx: Path, facts: ModelFacts) -> Path:
    folder = HOME / f"{onnx.stem}.bundle"
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        wrap_onnx(onnx, folder, facts)
    return folder


def _run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment())
