"""Training of a detector that compares each image with a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train_detector extra is not installed")

import onnxruntime as ort
import torch

from lineside_converters.data.calibration_data import annotated_frame, gather_inputs
from lineside_converters.evaluation import DetectorEvaluation, EvaluationRequest, judge
from lineside_converters.evaluation.bundle_runner import judge as run_frame
from lineside_converters.loading.training_run import facts_of_run
from lineside_converters.optimizer import Optimizer
from lineside_converters.thresholds.frames import FrameRequest, gather_frames, read
from lineside_converters.training.data.batches import Mixer
from lineside_converters.training.data.reference_pairs import compare
from lineside_converters.training.detection.bundle_facts import OUTPUTS
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import canvases_per_domain, load_detection_data
from lineside_converters.training.detection.reference_start import open_comparing
from lineside_converters.training.detection.trainer import DetectorResult, train_detector
from lineside_converters.training.initial_weights import open_start
from lineside_converters.training.objective import as_tuple
from lineside_models import zoo
from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import read_pixels
from lineside_models.labels import PCB
from lineside_models.networks import from_state_dict
from lineside_models.vision import ImageInspector
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import ConfigError
from tests.worlds.annotated_sets import write_boards

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SURFACE_12 = zoo.path("surface-12")
SIDE = 320


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_boards(tmp_path_factory.mktemp("sets") / "boards", {"train": 4}, side=SIDE)


def settings(boards: Path, out: Path, **more: Any) -> DetectorConfig:
    common: dict[str, Any] = {"epochs": 1, "batch": 4, "canvas_px": 96, "threads": 1, "held_share": 0.3}
    common |= {} if "start" in more else {"architecture": "lite0-short@16"}
    return DetectorConfig(data=(boards,), out=out, reference=True, **(common | {"evaluate_every": 1} | more))


def test_a_canvas_shows_frame_reference_and_difference_and_defects_differ(boards: Path, tmp_path: Path) -> None:
    config = settings(boards, tmp_path)
    data = load_detection_data(config)
    assert data.labels == PCB
    batch = Mixer(data.domains, canvases_per_domain(config, data.domains), config=config).batch(0, mosaics=True)
    assert batch.images.shape == (4, 3, 96, 96)
    frame, reference, difference = (batch.images * 128 + 127).round().unbind(1)
    assert torch.equal(difference, (frame - reference).abs())
    inside = torch.zeros_like(difference, dtype=torch.bool)
    for row, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        for x1, y1, x2, y2 in boxes[labels >= 0].round().int().tolist():
            inside[row, y1:y2, x1:x2] = True
    assert difference[inside].mean() > 3 * difference[~inside].mean()


def test_a_template_beside_itself_differs_at_its_edges_alone(boards: Path) -> None:
    template = read_pixels(boards / "PCBData/group1/1/0_temp.jpg", cv2.IMREAD_GRAYSCALE)
    edges = cv2.morphologyEx(template, cv2.MORPH_GRADIENT, np.ones((9, 9), np.uint8)) > 60
    for seed in range(20):
        composed = compare(np.dstack([template, template]), np.random.default_rng(seed))
        assert (composed[..., 2][~edges] > 90).mean() < 1e-3


@pytest.fixture(scope="module")
def run(boards: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectorResult:
    return train_detector(settings(boards, tmp_path_factory.mktemp("run")), lambda _: None)


def outputs_of(result: DetectorResult, image: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(result.onnx).run(list(OUTPUTS), {"image": image})


def test_a_run_leaves_a_graph_of_three_channels_and_says_that_it_compares(run: DetectorResult) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    found = outputs_of(run, image)
    assert found[0].shape == (1, len(PCB), 8, 12)
    facts = json.loads(run.facts.read_text())
    assert facts["preprocess"]["colour"] == "bgr" and facts["preprocess"]["reference"]["images"] == []
    model = from_state_dict(torch.load(run.weights, weights_only=True))
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(image))[0].numpy(), found[0], atol=1e-3)


@pytest.fixture(scope="module")
def bundle(boards: Path, tmp_path_factory: pytest.TempPathFactory, run: DetectorResult) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    facts = facts_of_run(run.onnx.parent)
    Optimizer(run.onnx, optimization_level=0, out=out, data=(boards,), fold="train", min_metric=0, **facts).run()
    return out


def test_its_bundle_is_judged_on_composed_frames_and_on_good_parts_drawn_from_templates(
    boards: Path, bundle: Path
) -> None:
    found = judge(bundle, boards, EvaluationRequest(fold="train"))
    assert isinstance(found, DetectorEvaluation) and found.frames == 4
    good = found.good_or_bad.false_rejects[0]
    assert (good.source, good.parts) == ("parts drawn from templates of deeppcb, fold train", 4)
    decided = gather_frames(open_bundle(bundle), FrameRequest(data=[boards], fold="train", take="all"))
    assert {frame.frame.image.shape for frame in read(decided)} == {(SIDE, SIDE, 3)}


def test_a_frame_that_can_not_be_compared_counts_as_rejected(tmp_path: Path, bundle: Path) -> None:
    root = write_boards(tmp_path / "other", {"train": 4}, side=SIDE)
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(0, 255, (40, 40), np.uint8), (SIDE, SIDE))
    cv2.imwrite(str(root / "PCBData/group1/1/2_temp.jpg"), noise)
    found = judge(bundle, root, EvaluationRequest(fold="train"))
    assert isinstance(found, DetectorEvaluation)
    assert (found.frames, found.faults) == (3, 1)
    bad = found.good_or_bad.recall
    assert bad.parts == 4 and bad.rejected >= 1


def test_the_inspector_compares_a_frame_with_the_reference_given_as_the_evaluation_does(
    boards: Path, bundle: Path
) -> None:
    sample = load_dataset(boards, references=True).samples[0]
    assert sample.reference is not None
    with ImageInspector(bundle, reference=sample.reference, rules={"confidence_threshold": 0.0}) as inspector:
        [inspection] = inspector.predict(sample.path)
        judged = run_frame(inspector.session, annotated_frame(sample, PCB, 0, None).frame)
    best = judged.candidates.scores[0]
    assert inspection.detections[0].score == pytest.approx(best, abs=1e-5)


def test_frames_that_name_no_reference_are_refused(boards: Path, bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    for frames in (None, np.zeros((SIDE, SIDE, 3), np.uint8)):
        with pytest.raises(ConfigError, match="compares frames with references"):
            gather_inputs(manifest, limit=2, frames=frames)
    with pytest.raises(ConfigError, match="simulator frames name none"):
        judge(bundle, boards, EvaluationRequest(fold="train", clean_simulated=2))
    assert len(gather_inputs(manifest, limit=2, data=[boards]).calibration) == 2


def test_a_run_starts_from_a_detector_of_grey_frames(boards: Path, tmp_path: Path) -> None:
    result = train_detector(settings(boards, tmp_path, start=SURFACE_12), lambda _: None)
    assert outputs_of(result, np.zeros((1, 3, 64, 64), np.float32))[0].shape == (1, len(PCB), 8, 8)


def test_a_start_of_grey_frames_finds_at_first_what_it_finds_in_the_frame() -> None:
    composed = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    alone = open_start(SURFACE_12, [composed[:, :1].contiguous()]).network.module.eval()
    comparing = open_comparing(SURFACE_12, [composed]).network.module.eval()
    with torch.no_grad():
        for wanted, found in zip(as_tuple(alone(composed[:, :1])), as_tuple(comparing(composed)), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_an_image_that_does_not_show_its_reference_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_boards(tmp_path / "other", {"train": 4}, side=SIDE)
    template = root / "PCBData/group1/1/2_temp.jpg"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(template), cv2.resize(rng.integers(0, 255, (40, 40), np.uint8), (SIDE, SIDE)))
    data = load_detection_data(settings(root, tmp_path))
    assert sum(len(domain.train) + len(domain.held) for domain in data.domains) < 8
    assert "2_test.jpg is left out" in caplog.text
