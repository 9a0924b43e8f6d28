"""A detector is trained at a plant round by round, and goes on after a kill as if there had been none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lineside.cli import parser_of
from lineside.commands.federate.detector_training import DetectorTraining, begin_federation
from lineside_converters.training import checkpoints
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.plant_training import FirstWeights, PlantTrainer, Weights, read_first_weights
from lineside_converters.training.settings import write_settings
from lineside_hub.federation.training_round import FederationSettings, TrainingRound
from lineside_models.networks.detector import SurfaceDetector
from lineside_models.simulator import render
from lineside_runtime.errors import ConfigError, InputError, InputNotFoundError, TrainingError

LABELS = ("stain", "scratches", "never seen")
SIDE = 64


def write_frames(folder: Path, *, label: str = "scratches", count: int = 8) -> Path:
    """Frames with boxes of one type."""
    (folder / "images").mkdir(parents=True)
    boxes, folds = ["image,class,x1,y1,x2,y2"], ["image,fold"]
    for seed in range(count):
        frame = render("steel", seed, size=(96, 96), defects=1)
        cv2.imwrite(str(folder / f"images/{seed}.png"), np.asarray(frame.image))
        folds.append(f"images/{seed}.png,train")
        boxes += [f"images/{seed}.png,{label},{','.join(map(str, box))}" for box in frame.boxes.tolist()]
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (folder / "folds.csv").write_text("\n".join(folds) + "\n")
    return folder


def write_run(folder: Path, **settings: Any) -> Path:
    """The files of a finished run with random weights."""
    folder.mkdir()
    values = {"architecture": "lite0-short@16", "canvas_px": SIDE, "batch": 4, "held_share": 0.3, **settings}
    write_settings(DetectorConfig(data=(folder / "elsewhere",), out=folder, labels=LABELS, **values))
    torch.manual_seed(0)
    checkpoints.save(folder / "best.pt", SurfaceDetector(len(LABELS), channels=16, short=True).state_dict())
    (folder / "training.json").write_text(json.dumps({"labels": LABELS}))
    return folder


@pytest.fixture
def first(tmp_path: Path) -> FirstWeights:
    return read_first_weights(write_run(tmp_path / "first"))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames")


def trainer(first: FirstWeights, frames: Path, out: Path) -> PlantTrainer:
    return PlantTrainer(first.settings, first.labels, data=[frames], out=out, threads=1)


def trained(of: PlantTrainer, first: FirstWeights, shared: tuple[str, ...], number: int) -> Weights:
    found = of.train(first.weights, shared, number=number, rounds=4, steps=2)
    assert found is not None
    change, score = found
    assert 0 <= score <= 1
    assert change.keys() == set(shared)
    return change


def test_first_weights_name_what_changes_in_training(first: FirstWeights, tmp_path: Path) -> None:
    assert first.labels == LABELS
    assert not any(name.startswith("trunk.early.") for name in first.shared)
    assert first.norms < set(first.shared) < set(first.weights)
    assert all(".running_" in name or name.endswith((".weight", ".bias")) for name in first.norms)
    assert any(name.endswith(".running_var") for name in first.norms)
    assert not any(name.endswith("num_batches_tracked") for name in first.shared)
    with pytest.raises(InputNotFoundError, match=r"config\.toml is missing"):
        read_first_weights(tmp_path)
    bundle = write_run(tmp_path / "from-a-bundle", architecture=None)
    with pytest.raises(TrainingError, match="expected a run with architecture"):
        read_first_weights(bundle)


def test_a_round_after_a_kill_is_that_without_one(first: FirstWeights, frames: Path, tmp_path: Path) -> None:
    shared = tuple(name for name in first.shared if name not in first.norms)
    whole = trainer(first, frames, tmp_path / "whole")
    trained(whole, first, shared, 1)
    second = trained(whole, first, shared, 2)
    assert sum(np.abs(change).max() > 0 for change in second.values()) > len(second) / 2

    killed = trainer(first, frames, tmp_path / "killed")
    trained(killed, first, shared, 1)
    after = trainer(first, frames, tmp_path / "killed")
    again = trained(after, first, shared, 2)
    assert all(np.array_equal(again[name], second[name]) for name in shared)
    # Norms are not shared here: the plant keeps its own, whatever the round's weights hold.
    name = next(name for name in sorted(first.norms) if name.endswith("running_mean"))
    after.take(first.weights, shared)
    assert not np.array_equal(after.network.state_dict()[name].numpy(), first.weights[name])
    assert after.train(first.weights, shared, number=3, rounds=4, steps=2, should_stop=lambda: True) is None
    # And a plant that is killed before the coordinator has the accuracy of its result.
    score, written = after.finish(first.weights, shared), (tmp_path / "killed" / "float.onnx").read_bytes()
    assert trainer(first, frames, tmp_path / "killed").finish(first.weights, shared) == score
    assert (tmp_path / "killed" / "float.onnx").read_bytes() == written
    (tmp_path / "killed" / "local.pt").unlink()
    with pytest.raises(InputError, match="holds a training run"):  # somebody else's
        trainer(first, frames, tmp_path / "killed")


def test_types_and_weights_that_do_not_fit_are_refused(first: FirstWeights, tmp_path: Path) -> None:
    other = write_frames(tmp_path / "other", label="dent")
    with pytest.raises(TrainingError, match="not among labels; expected stain, scratches, never seen; got dent"):
        trainer(first, other, tmp_path / "out")
    fitting = trainer(first, write_frames(tmp_path / "good"), tmp_path / "out")
    name = "cls_heads.0.2.bias"
    wrong = {**first.weights, name: np.zeros(5, np.float32)}
    with pytest.raises(TrainingError, match="another network"):
        fitting.train(wrong, first.shared, number=1, rounds=1, steps=1)


def test_a_plant_without_its_frames_does_not_wait_for_a_round(tmp_path: Path, frames: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no data folder"):
        DetectorTraining("plant-0", [frames, tmp_path / "mistyped"], tmp_path / "out", threads=1, on_progress=print)


def test_plants_with_the_same_frames_see_them_in_orders_of_their_own(
    first: FirstWeights, frames: Path, tmp_path: Path
) -> None:
    settings = FederationSettings(settings=first.settings, labels=first.labels, shared=first.shared, rounds=1, steps=2)
    content = TrainingRound(number=1, attempt=1, federation=settings, plants={}, files={})

    def change(plant: str, folder: str) -> Weights:
        training = DetectorTraining(plant, [frames], tmp_path / folder, threads=1, on_progress=print)
        update = training.train(content, first.weights, lambda: False)
        assert update is not None
        return update.change

    one, again, other = change("plant-0", "one"), change("plant-0", "again"), change("plant-1", "other")
    assert all(np.array_equal(one[name], again[name]) for name in first.shared)
    assert not all(np.array_equal(one[name], other[name]) for name in first.shared)


def test_the_command_that_a_plant_is_told_to_go_on_with_is_one(
    first: FirstWeights, frames: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    settings = FederationSettings(settings=first.settings, labels=first.labels, shared=first.shared, rounds=1, steps=1)
    result = TrainingRound(number=2, attempt=1, federation=settings, plants={}, files={})
    DetectorTraining("plant-0", [frames], tmp_path / "out", threads=1, on_progress=said.append).finish(
        result, first.weights
    )
    words = said[-1].partition("make a bundle: lineside ")[2].split()
    options = parser_of(words).parse_args(words)
    assert (options.training, options.data) == (tmp_path / "out" / "result", [frames])
    assert (options.training / "float.onnx").is_file()


@pytest.mark.parametrize(
    ("wrong", "name"), [({"outer_rate": 3.0}, "outer_rate"), ({"outer_momentum": 1.5}, "outer_momentum")]
)
def test_settings_that_nobody_could_read_again_make_no_folder(
    wrong: dict[str, float], name: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "first")
    with pytest.raises(ConfigError, match=rf"settings of the training: .*\$\.{name}"):
        begin_federation(run, tmp_path / "out", rounds=1, steps=1, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
