from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside_converters.thresholds.frames import FrameRequest
from lineside_converters.thresholds.recalibration import refit
from lineside_models import zoo
from lineside_models.postprocess import decode, select
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Session
from tests.worlds.annotated_sets import write_strips

FRAMES = 12


@pytest.fixture(scope="module")
def strip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_strips(tmp_path_factory.mktemp("refit") / "strip", {"train": FRAMES})


def image_f1(bundle: Bundle, folder: Path) -> float:
    """Counts, frame by frame, which types were said and which are there."""
    right = said = there = 0
    with Session(bundle, Config(threads=1)) as session:
        how, labels = session.manifest.postprocess, session.manifest.labels
        for number in range(FRAMES):
            tensor, letterbox = prepare(
                np.asarray(cv2.imread(str(folder / "images" / f"s{number}.png")), np.uint8),
                session.manifest.preprocess,
            )
            (found,) = decode(session.predict(tensor), how, [letterbox])
            types = {each.type for each in select(found, how, labels)}
            truly = {labels[label] for label in render("steel", number, defects=2).labels.tolist()}
            right, said, there = right + len(types & truly), said + len(types), there + len(truly)
    return 2 * right / (said + there)


def test_thresholds_are_better_on_the_frames_that_they_are_fitted_on(strip: Path, tmp_path: Path) -> None:
    old = open_bundle(zoo.path("surface-12"))
    request = FrameRequest(data=[strip], fold="train", take="all")
    done = refit(old, request, tmp_path / "new", changes={"nms_iou": 0.5}, version="9.0.0")
    new = done.bundle.manifest
    assert new.version == "9.0.0"
    assert new.postprocess.params["nms_iou"] == 0.5
    assert new.postprocess.params["strides"] == old.manifest.postprocess.params["strides"]
    assert new.files[new.variants[0].file] == old.manifest.files[new.variants[0].file]
    assert done.f1 >= done.f1_before
    assert image_f1(old, strip) == pytest.approx(done.f1_before, abs=1e-9)
    assert image_f1(done.bundle, strip) == pytest.approx(done.f1, abs=1e-9)
    assert "nms_iou = 0.5" in (tmp_path / "new" / "model_card.md").read_text()


def test_thresholds_that_move_with_the_scores_change_no_verdict(strip: Path, tmp_path: Path) -> None:
    old = open_bundle(zoo.path("surface-12"))
    request = FrameRequest(data=[strip], fold="train", take="all")
    done = refit(old, request, tmp_path / "new", keep_thresholds=True)
    assert done.calibration != tuple(map(tuple, old.manifest.postprocess.params["calibration"]))
    assert done.f1 == done.f1_before
    assert image_f1(done.bundle, strip) == pytest.approx(done.f1_before, abs=1e-9)


def test_a_command_says_what_it_fitted_and_refuses_what_it_cannot(
    strip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    call = ["bundle", "refit", "surface-12", str(out), "--data", str(strip), "--take", "all", "--json"]
    assert main([*call, "--set", "vote_iou=1", "--simulated", "2"]) == 0
    said = json.loads(capsys.readouterr().out)
    params = open_bundle(out).manifest.postprocess.params
    assert params["vote_iou"] == 1
    assert list(said["thresholds"].values()) == params["thresholds"]
    with pytest.raises(ConfigError):
        refit(
            open_bundle(zoo.path("surface-12")),
            FrameRequest(data=[strip], fold="train", take="all"),
            tmp_path / "other",
            changes={"no_such": 1},
        )
    assert not (tmp_path / "other").exists()
    with pytest.raises(ConfigError):
        refit(open_bundle(zoo.path("patch-features")), FrameRequest(data=[strip], fold="train"), tmp_path / "other")
