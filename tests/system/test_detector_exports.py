"""What other projects find with their own exports, we find with them too, and no sidecar file is needed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from lineside.vision import QualityInspector
from lineside_converters.optimizer import Optimizer
from lineside_converters.reports.report import read_report
from lineside_models.metrics import box_iou
from lineside_models.postprocess import Candidates, decode
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_models.vision.model_facts import ModelFacts, from_arguments
from lineside_models.vision.onnx_bundle import wrap_onnx
from lineside_runtime.bundle import Postprocess
from tests.peers.environments import environment
from tests.worlds.annotated_sets import write_coco

SCRIPT = Path(__file__).parent / "detector_exports.py"
TRAINING_SCRIPT = Path(__file__).parent / "detector_training.py"
PADDLE_SCRIPT = Path(__file__).parent / "paddle_exports.py"
SIDE = 256
PICODET = {
    "colour": "rgb",
    "resize": "stretch",
    "size": [160, 160],
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}
NEEDS = (
    ["torch>=2.8,<3", "torchvision", "onnx>=1.17,<2", "onnxruntime>=1.20,<2", "onnxsim"],
    ["rfdetr==1.11.2", "libreyolo==1.6.0", "transformers>=5.24,<6", "pixeltable-yolox==0.4.3", "pydfine==0.2.1"],
)
PADDLE_NEEDS = (
    ["--no-deps", "paddlepaddle==2.6.2", "paddle2onnx==1.2.4", "paddledet==2.6.0"],
    [
        "numpy<2",
        "protobuf==4.25.3",
        "onnx==1.16.2",
        "opencv-python-headless<4.11",
        "pandas<2.3",
        "scipy",
        "scikit-learn",
    ],
    ["astor", "decorator", "httpx", "opt_einsum", "Pillow", "pyyaml", "tqdm", "typeguard", "shapely", "pycocotools"],
    ["matplotlib", "requests", "six"],
)
"""Without what PaddleDetection needs for training alone, some of which has no wheels any more."""
MOST = 0.7
"""Share of the boxes behind Paddle's own suppression that ours keeps too: Paddle suppresses before it cuts boxes at the
image, which boxes of random weights reach out of; mmdetection's and LibreYOLO's PicoDet cut first, as we do."""
TRAINED_SIDE, LEAST_MAP = 128, 0.5
SQUARES = ("dent", "flash")
LABELS = ("dent", "hole", "stain")

EXPECTED = {
    "yolox": ("yolox", "bgr", 0.65),
    "yolox-decoded": ("yolox", "bgr", 0.65),
    "libre-yolox": ("yolox", "bgr", 0.65),
    "rf-detr": ("detr", "rgb", 1.0),
    "d-fine": ("detections", "rgb", 1.0),
    "transformers-RTDetr": ("detr", "rgb", 1.0),
    "transformers-DFine": ("detr", "rgb", 1.0),
    "libre-deim": ("detr", "rgb", 1.0),
    "libre-deimv2": ("detr", "rgb", 1.0),
    "libre-picodet": ("box_scores", "rgb", 0.6),
    "libre-rtmdet": ("box_scores", "bgr", 0.6),
    "picodet": ("distances", "rgb", 0.6),
    "rtmdet": ("distances", "bgr", 0.6),
    "nanodet": ("distances", "bgr", 0.6),
}
"""The decoder and colour that must be recognised, and the overlap from which the project suppresses."""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment("detectors", *NEEDS)
    folder = tmp_path_factory.mktemp("exports")
    cv2.imwrite(str(folder / "part.png"), cv2.resize(render("pcb", 3).image, (SIDE, SIDE)))
    command = [str(python), str(SCRIPT), str(folder / "part.png"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_boxes_are_found_without_a_sidecar_file(name: str, exports: Path, tmp_path: Path) -> None:
    assert (exports / f"{name}.json").is_file(), (exports / "log.txt").read_text()[-3000:]
    said: dict[str, Any] = json.loads((exports / f"{name}.json").read_text())
    bundle = wrap_onnx(exports / f"{name}.onnx", tmp_path / "bundle", ModelFacts(labels=LABELS))
    decoder, colour, iou = EXPECTED[name]
    manifest = bundle.manifest
    assert (manifest.postprocess.name, manifest.preprocess.colour) == (decoder, colour)
    tensor, letterbox = prepare(cv2.imread(str(exports / "part.png")), manifest.preprocess)  # type: ignore[arg-type]
    np.testing.assert_allclose(tensor, np.load(exports / f"{name}.npy"), atol=2e-3)
    session = onnxruntime.InferenceSession(bundle.file("onnx/model.onnx"), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {manifest.preprocess.input: tensor}), strict=True))
    settings = {"score_min": said["threshold"], "nms_iou": iou, "max_detections": 10_000}
    how = Postprocess(name=decoder, params={**manifest.postprocess.params, **settings})
    (found,) = decode(outputs, how, [letterbox])
    _check_same(found, said)


def _check_same(found: Candidates, said: dict[str, Any]) -> None:
    """Compares boxes, scores and labels; boxes without area in the frame are no candidates of ours."""
    theirs = np.clip(np.array(said["boxes"], np.float32), 0, SIDE)
    real = (theirs[:, 2] > theirs[:, 0]) & (theirs[:, 3] > theirs[:, 1])
    assert real.sum() > 10
    assert len(found) == real.sum()
    scores, labels = np.array(said["scores"])[real], np.array(said["labels"])[real]
    for box, score, label in zip(theirs[real], scores, labels, strict=True):
        near = (found.labels == label) & (np.abs(found.scores - score) < 1e-3)
        assert near.any()
        assert box_iou(box[None], found.boxes[near]).max() > 0.99


@pytest.fixture(scope="module")
def paddle_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment("paddledet", *PADDLE_NEEDS)
    folder = tmp_path_factory.mktemp("paddle")
    done = subprocess.run([str(python), str(PADDLE_SCRIPT), str(folder)], capture_output=True, text=True, timeout=900)
    assert (folder / "nms.onnx").is_file(), (done.stdout + done.stderr)[-3000:]
    return folder


def test_the_three_forms_of_paddledetections_picodet_give_the_same_boxes(paddle_exports: Path, tmp_path: Path) -> None:
    image = cv2.resize(render("pcb", 3).image, (160, 160))
    found: dict[str, Candidates] = {}
    for form, decoder in (("raw", "distances"), ("boxes", "box_scores"), ("nms", "detections")):
        model = paddle_exports / f"{form}.onnx"
        prepared = from_arguments(None, PICODET, None).preprocess if form == "nms" else None  # it may be any detector
        bundle = wrap_onnx(model, tmp_path / form, ModelFacts(labels=LABELS, preprocess=prepared))
        manifest = bundle.manifest
        assert manifest.postprocess.name == decoder
        tensor, letterbox = prepare(image, manifest.preprocess)
        session = onnxruntime.InferenceSession(bundle.file("onnx/model.onnx"), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, {"image": tensor}), strict=True))
        settings = {"score_min": 0.025, "nms_iou": 0.6, "max_detections": 100}
        how = Postprocess(name=decoder, params={**manifest.postprocess.params, **settings})
        (found[form],) = decode(outputs, how, [letterbox])
    raw, boxes, rows = found["raw"], found["boxes"], found["nms"]
    _check_same(raw, {"boxes": boxes.boxes, "scores": boxes.scores, "labels": boxes.labels})
    same = (box_iou(rows.boxes, raw.boxes) > 0.99) & (np.abs(rows.scores[:, None] - raw.scores) < 1e-4)
    assert (same & (rows.labels[:, None] == raw.labels)).any(axis=1).mean() >= MOST


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns frames of dark and bright squares, 480 to train on and 80 to judge on."""
    root = write_coco(tmp_path_factory.mktemp("drawn") / "squares", 560, side=TRAINED_SIDE)
    whole = root / "annotations/instances_default.json"
    content = json.loads(whole.read_text())
    for fold, chosen in (("train", content["images"][:480]), ("val", content["images"][480:])):
        numbers = {one["id"] for one in chosen}
        annotations = [one for one in content["annotations"] if one["image_id"] in numbers]
        (root / f"annotations/instances_{fold}.json").write_text(
            json.dumps({**content, "images": chosen, "annotations": annotations})
        )
    whole.unlink()
    return root


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "decoder"), [("rt-detr", "detr")])
def test_a_network_of_another_project_is_evaluated_quantized_and_inspects(
    kind: str, decoder: str, drawn: Path, tmp_path: Path
) -> None:
    model = tmp_path / f"{kind}.onnx"
    python = environment("detectors", *NEEDS)
    command = [str(python), str(TRAINING_SCRIPT), kind, str(drawn), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert model.is_file(), (done.stdout + done.stderr)[-3000:]
    check_trained(model, decoder, drawn, tmp_path)


def check_trained(model: Path, decoder: str, data: Path, folder: Path) -> None:
    """Optimizes a network at level 1 for a Pi 5, within the gates that can be measured here, and inspects with it.

    Networks as small as these take as long in INT8 as in float on x86, so that speed is not asked for.
    """
    result = Optimizer(model, "rpi5", 1, out=folder / "bundle", data=[data], labels=SQUARES, max_drop=0.03).run()
    report = read_report(result.bundle.path)
    assert result.bundle.manifest.postprocess.name == decoder
    held = {gate.name for gate in report.gates if gate.status == "passed"}
    assert {"parity", "accuracy", "baseline"} <= held
    assert report.int8 is not None and report.int8.map50 is not None
    assert report.int8.map50 > LEAST_MAP
    assert any(variant.precision == "int8" for variant in result.bundle.manifest.variants)
    frames = [data / "images" / f"p{number}-a.png" for number in (240, 241, 242)]  # dark squares
    with QualityInspector(result.bundle.path) as inspector:
        assert {one.type for verdict in inspector.predict(frames) for one in verdict.detections} == {"dent"}
