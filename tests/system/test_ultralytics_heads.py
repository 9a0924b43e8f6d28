"""What `ultralytics` finds with its own exports, we find with them too: boxes, classes, scores and masks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from lineside_converters.loading.torch_import import import_pt
from lineside_models.metrics import box_iou
from lineside_models.postprocess import Candidates, decode, recognise
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_models.vision.model_facts import from_ultralytics
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Postprocess
from tests.peers.environments import environment

SCRIPT = Path(__file__).parent / "ultralytics_export.py"
SIDE = 320
SETTINGS = {"score_min": 0.25, "nms_iou": 0.7, "max_detections": 300}
NEEDS = ["ultralytics>=8.3,<9", "onnxruntime>=1.20,<2", "onnx>=1.17,<2"]
NETWORKS = ("yolov8n", "yolo11n-seg", "yolov10n")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    python = environment("ultralytics", NEEDS)
    folder = tmp_path_factory.mktemp("exports")
    image = cv2.resize(render("pcb", 3).image, (SIDE, SIDE))
    cv2.imwrite(str(folder / "part.png"), image)
    command = [str(python), str(SCRIPT), str(folder / "part.png"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return folder, json.loads(lines[0].removeprefix("RESULT "))


def ours(model: Path, image: Path) -> Candidates:
    facts = read_onnx(model)
    known = from_ultralytics(facts)
    assert known.labels is not None and known.preprocess is not None
    how = recognise(facts.inputs, facts.outputs, len(known.labels))
    tensor, letterbox = prepare(cv2.imread(str(image)), known.preprocess)  # type: ignore[arg-type]  # the picture is there
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {known.preprocess.input: tensor}), strict=True))
    (found,) = decode(outputs, Postprocess(name=how.name, params={**how.params, **SETTINGS}), [letterbox])
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_boxes_are_found(name: str, exports: tuple[Path, dict[str, Any]]) -> None:
    folder, theirs = exports
    said = theirs[f"{name}.onnx"]
    found = ours(folder / f"{name}.onnx", folder / "part.png")
    assert len(said["boxes"]) > 10
    assert len(found) == len(said["boxes"])
    for box, score, label in zip(said["boxes"], said["scores"], said["labels"], strict=True):
        near = (found.labels == label) & (np.abs(found.scores - score) < 1e-3)
        assert near.any()
        assert box_iou(np.array([box], np.float32), found.boxes[near]).max() > 0.99


def test_a_checkpoint_becomes_what_ultralytics_exports_of_it(
    exports: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = exports
    program = environment("ultralytics", NEEDS).parent
    monkeypatch.setenv("PATH", f"{program}{os.pathsep}{os.environ['PATH']}")
    exported = import_pt(folder / "trained.pt", trust=True)
    assert list(exported.parent.glob("*.onnx")) == [exported]
    known = from_ultralytics(read_onnx(exported))
    assert known.labels is not None and known.preprocess is not None and known.preprocess.size == (SIDE, SIDE)
    tensor, _ = prepare(cv2.imread(str(folder / "part.png")), known.preprocess)  # type: ignore[arg-type]  # the picture is there
    found = [
        onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"images": tensor})[0]
        for model in (folder / "trained.onnx", exported)
    ]
    assert np.array_equal(*found) and found[0].std() > 1


def test_masks_cover_much_the_same(exports: tuple[Path, dict[str, Any]]) -> None:
    """Not the same pixels: ultralytics cuts a mask to its box in cells of four pixels, we do in the frame's."""
    folder, theirs = exports
    said = theirs["yolo11n-seg.onnx"]
    masks = np.load(folder / "yolo11n-seg.npy")
    found = ours(folder / "yolo11n-seg.onnx", folder / "part.png")
    overlaps = []
    for mask, box, score in zip(masks, said["boxes"], said["scores"], strict=True):
        near = np.flatnonzero(np.abs(found.scores - score) < 1e-3)
        mine = near[box_iou(np.array([box], np.float32), found.boxes[near]).argmax()]
        count, marks, facts, _ = cv2.connectedComponentsWithStats(mask)
        if count < 2 or not len(found.outlines[mine]):
            continue
        largest = marks == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
        drawn = np.zeros_like(mask)
        cv2.fillPoly(drawn, [np.round(found.outlines[mine]).astype(np.int32)], 1)
        overlaps.append((largest & (drawn > 0)).sum() / (largest | (drawn > 0)).sum())
    assert len(overlaps) > 10
    assert np.median(overlaps) > 0.7
