"""A whole run on a small set: learns, survives a kill, and leaves what a bundle needs."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train_detector extra is not installed")

import onnxruntime as ort
import torch

from lineside_converters.training import checkpoints
from lineside_converters.training.data.augmentation import TrainingPicture
from lineside_converters.training.data.batches import collate
from lineside_converters.training.detection.accuracy import find_all, judge, map50
from lineside_converters.training.detection.bundle_facts import OUTPUTS, PREPROCESS
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.loss import detection_loss
from lineside_converters.training.detection.trainer import DetectorResult, train_detector
from lineside_converters.training.loop import FINAL_RATE, rate_factor
from lineside_converters.training.progress import TrainingProgress
from lineside_models import zoo
from lineside_models.labels import LABELS
from lineside_models.networks import from_state_dict
from lineside_models.networks.detector import PRIOR, pretrained_detector
from lineside_models.postprocess import Candidates, read_params
from lineside_runtime.errors import TrainingError
from tests.converters.nets import convnet
from tests.worlds.annotated_sets import write_boards, write_strips

pytestmark = [pytest.mark.torch, pytest.mark.slow]
Folders = tuple[Path, Path]
WholeRun = tuple[DetectorResult, list[TrainingProgress], Path]


class KilledError(BaseException):
    """Stands for a kill: nothing in the training may catch it."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("sets")
    return write_strips(root / "steel", {"train": 9}), write_boards(root / "boards", {"train": 4}, side=320)


def settings(folders: Folders, out: Path, **more: Any) -> DetectorConfig:
    common: dict[str, Any] = {
        "epochs": 2,
        "batch": 4,
        "canvas_px": 64,
        "canvas_sizes": (64, 96),
        "balance": 0.4,
        "pcb_share": 0.5,
    }
    common |= {"threads": 1, "simulated_share": 0.0, "held_share": 0.3}
    common |= {} if "start" in more else {"architecture": "lite0-short@16"}
    return DetectorConfig(data=folders, out=out, **(common | {"evaluate_every": 1} | more))


@pytest.fixture(scope="module")
def whole_run(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    out = tmp_path_factory.mktemp("whole")
    heard: list[TrainingProgress] = []
    return train_detector(settings(folders, out), heard.append), heard, out


def test_a_run_leaves_weights_graph_and_facts(whole_run: WholeRun) -> None:
    result, _, out = whole_run
    model = from_state_dict(torch.load(result.weights, weights_only=True))
    image = np.random.default_rng(0).standard_normal((1, 1, 64, 96)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(image))
    found = ort.InferenceSession(result.onnx).run(list(OUTPUTS), {"image": image})
    for ours, theirs in zip(wanted, found, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)
    facts = json.loads(result.facts.read_text())
    assert facts["labels"] == list(LABELS)
    assert facts["held_map50"] == result.held_map50 and set(result.held_map50) == {"steel", "pcb"}
    assert [row["step"] for row in facts["curve"]] == [facts["steps"] // 2, facts["steps"]]
    assert read_params(facts["postprocess"]["params"]).thresholds == result.thresholds
    assert facts["preprocess"]["mean"] == list(PREPROCESS.mean)
    assert facts["onnx_max_difference"] <= 1e-3
    assert str(out.parent) not in result.facts.read_text()


def test_progress_counts_every_step_and_tells_of_evaluations(whole_run: WholeRun) -> None:
    _, heard, _ = whole_run
    assert [p.step for p in heard] == list(range(heard[0].steps))
    assert [p.epoch for p in heard] == [0] * (len(heard) // 2) + [1] * (len(heard) // 2)
    assert [bool(p.held) for p in heard].count(True) == 2
    assert heard[-1].remaining_s == 0 and heard[0].remaining_s > 0
    assert all(np.isfinite(p.loss) for p in heard)


def test_a_killed_run_goes_on_to_the_very_same_weights_on_the_same_curve(
    whole_run: WholeRun, folders: Folders, tmp_path: Path
) -> None:
    before: list[TrainingProgress] = []

    def kill_in_the_second_epoch(progress: TrainingProgress) -> None:
        before.append(progress)
        if progress.epoch == 1:
            raise KilledError

    with pytest.raises(KilledError):
        train_detector(settings(folders, tmp_path), kill_in_the_second_epoch)
    assert not (tmp_path / "training.json").exists()
    heard: list[TrainingProgress] = []
    resumed = train_detector(settings(folders, tmp_path, resume=True), heard.append)
    assert {p.epoch for p in heard} == {1}
    whole = checkpoints.load(whole_run[2] / "checkpoint.pt")["model"]
    again = checkpoints.load(tmp_path / "checkpoint.pt")["model"]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert resumed.thresholds == whole_run[0].thresholds
    ours, theirs = (json.loads(run.facts.read_text()) for run in (resumed, whole_run[0]))
    assert [s["resume"] for s in ours["starts"]] == [False, True]
    assert ours["losses"] == theirs["losses"] and len(ours["losses"]) == 2
    figures = [[{k: v for k, v in row.items() if k != "elapsed_s"} for row in run["curve"]] for run in (ours, theirs)]
    assert figures[0] == figures[1]
    both = {p.step: p.loss for p in (*before, *heard)}
    assert both == {p.step: p.loss for p in whole_run[1]}


def test_a_time_budget_ends_the_run_early_with_a_whole_result_and_warns_of_few_passes(
    folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[TrainingProgress] = []
    with caplog.at_level(logging.WARNING, logger="lineside.training"):
        result = train_detector(settings(folders, tmp_path, epochs=1000, minutes=0.002), heard.append)
    assert "passes over the data, of 1000: give more minutes" in caplog.text
    assert len(heard) < 100
    assert heard[-1].held and result.onnx.exists()


def test_a_run_goes_on_from_a_shipped_int8_bundle_with_its_channels(
    whole_run: WholeRun, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = zoo.path("surface-12")
    with caplog.at_level(logging.WARNING, logger="lineside.training"):
        result = train_detector(settings(folders, tmp_path, start=start, epochs=1, learning_rate=1e-5), lambda _: None)
    assert "passes" not in caplog.text, "one pass is what was asked for"
    assert result.onnx.stat().st_size < 4_500_000, "the slim network has less than half of the whole one's weights"
    fresh = whole_run[0]
    assert result.held_map50["pcb"] > fresh.held_map50["pcb"] + 0.2, "it knows what the bundle knew"
    facts = json.loads(result.facts.read_text())
    assert facts["starts"][0]["start"] == "surface-12"


def test_a_start_of_another_kind_nothing_to_resume_and_a_loss_without_a_number_are_errors(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_bytes(convnet())
    with pytest.raises(TrainingError, match="outputs are others"):
        train_detector(settings(folders, tmp_path / "out", start=tmp_path / "net.onnx"), lambda _: None)
    with pytest.raises(TrainingError, match="resumed"):
        train_detector(settings(folders, tmp_path / "none", resume=True), lambda _: None)
    monkeypatch.setattr("lineside_converters.training.detection.loss.GIOU_WEIGHT", float("inf"))
    with pytest.raises(TrainingError, match="loss of step 0"):
        train_detector(settings(folders, tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run" / "best.pt").exists()


def test_small_defects_pull_the_scores_off_the_prior() -> None:
    """Plain cross-entropy left them there for whole trainings: the highest score has to rise, and on the defect."""
    torch.manual_seed(0)
    model = pretrained_detector(len(LABELS), channels=32, short=True)
    model.trunk.freeze_early()
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(4):
        image = rng.integers(100, 130, (96, 96)).astype(np.uint8)
        x, y = (int(v) for v in rng.integers(16, 64, 2))
        image[y : y + 14, x : x + 14] = 250 if number % 2 else 5
        box = np.array([[x, y, x + 14, y + 14]], np.float32)
        pictures.append(TrainingPicture(image, box, np.array([10 + number % 2])))
    batch = collate(pictures)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for step in range(1, 241):  # how many it takes depends on the processor's rounding
        loss = detection_loss(model(batch.images), true_boxes=batch.boxes, true_labels=batch.labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 40 == 0:
            scores = _highest_scores(model, batch.images)
            if scores.argmax(1).tolist() == [10, 11, 10, 11]:
                break
    assert float(scores.max()) > 20 * PRIOR
    assert scores.argmax(1).tolist() == [10, 11, 10, 11]


def _highest_scores(trained: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Returns each type's highest score in each image, with the norms' averages of these images."""
    model = copy.deepcopy(trained)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
            norm.reset_running_stats()
    with torch.no_grad():
        model(images)
        maps = model.eval()(images)[:3]
    return torch.cat([each.flatten(2) for each in maps], 2).sigmoid().amax(2)


def test_the_rate_rises_then_falls_to_its_end() -> None:
    assert rate_factor(0, 0.0) < 0.01
    assert rate_factor(1000, 0.0) == pytest.approx(1.0)
    assert rate_factor(1000, 1.0) == rate_factor(1000, 1.3) == pytest.approx(FINAL_RATE)
    assert rate_factor(20, 0.1, warm_up_steps=200) == rate_factor(1000, 0.1), "a run of 200 steps by its time budget"
    falling = [rate_factor(1000, done) for done in np.linspace(0, 1, 11)]
    assert falling == sorted(falling, reverse=True)


def test_held_out_pictures_of_two_sizes_are_found_in_their_own_pixels() -> None:
    torch.manual_seed(0)
    model = pretrained_detector(len(LABELS))
    for head in model.cls_heads:
        assert isinstance(head, torch.nn.Sequential)
        torch.nn.init.zeros_(head[-1].get_parameter("bias"))
    none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    pictures = [TrainingPicture(np.full((side, side), 90, np.uint8), *none) for side in (200, 320, 200)]
    found = find_all(model, pictures)
    assert not model.training
    assert all(len(each) and each.boxes.max() <= p.image.shape[0] for each, p in zip(found, pictures, strict=True))
    np.testing.assert_allclose(found[0].boxes, found[2].boxes, atol=1e-3)


def test_finds_are_judged_by_their_own_type_and_image() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], np.float32)
    found = Candidates(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 1, 2]))
    nothing = Candidates(boxes[:0], np.empty(0, np.float32), np.empty(0, np.int64))
    image = np.zeros((64, 64), np.uint8)
    pictures = [TrainingPicture(image, boxes[:1], np.array([1])), TrainingPicture(image, boxes[2:], np.array([2]))]
    finds = judge(pictures, [found, nothing])
    assert finds.right.tolist() == [True, False, False]
    assert finds.images.tolist() == [0, 0, 0]
    assert finds.present[:, 1:3].tolist() == [[True, False], [False, True]]
    assert map50(pictures, [found, nothing]) == pytest.approx(0.5)


def test_a_checkpoint_that_would_run_code_or_is_damaged_is_refused_and_a_whole_one_comes_back(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
            return (tmp_path / "ran").touch, ()

    path = tmp_path / "checkpoint.pt"
    torch.save(Payload(), path)
    with pytest.raises(TrainingError, match="resumed"):
        checkpoints.load(path)
    assert not (tmp_path / "ran").exists()
    checkpoints.save(path, {"step": 3, "tensor": torch.arange(4)})
    assert checkpoints.load(path)["tensor"].tolist() == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TrainingError):
        checkpoints.load(path)
