"""``lineside train … --then optimize,push``: a trained model reaches its group, and one that fails doesn't."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside.cli import main
from lineside.commands.train.follow_up import add_then, go_on
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import UnsupportedModelError

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("short_gates")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Writes pictures of dark and of bright squares."""
    root, rows = tmp_path / "squares", ["image,class,fold"]
    for kind, grey in (("dark", 10), ("bright", 240)):
        (root / kind).mkdir(parents=True)
        for number in range(40):
            rng = np.random.default_rng(number)
            image = rng.integers(100, 130, (32, 32)).astype(np.uint8)
            x, y = rng.integers(0, 16, 2)
            image[y : y + 14, x : x + 14] = grey
            cv2.imwrite(str(root / kind / f"{number}.png"), image)
            rows.append(f"{kind}/{number}.png,{kind},train")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def words(data: Path, out: Path, hub: Path) -> list[str]:
    given = ["train", "classifier", "--data", str(data), "--out", str(out), "--epochs", "8", "--batch", "8"]
    given += ["--side", "32", "--width", "0.25", "--threads", "1", "--json", "--level", "0"]
    return [*given, "--then", "optimize,push", "--hub", str(hub), "--group", "canary"]


def test_a_trained_model_goes_on_to_the_canary_group_without_a_person(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub, out = tmp_path / "hub", tmp_path / "squares-model"
    assert main(["hub", "init", str(hub), "--site", "t0", "--group", "line", "--online-group", "canary"]) == 0
    capsys.readouterr()
    assert main(words(data, out, hub)) == 0
    found = json.loads(capsys.readouterr().out)
    bundle = open_bundle(out / "bundle")
    assert bundle.manifest.name == "squares-model"
    assert found["optimize"]["digest"] == bundle.digest
    assert found["push"]["ref"]["name"] == "squares-model" and found["push"]["gen"] >= 1


def test_a_model_that_cannot_be_optimised_ends_it_with_its_code_and_nothing_is_pushed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub, out = tmp_path / "hub", tmp_path / "squares-model"
    assert main(["hub", "init", str(hub), "--site", "t0", "--group", "line", "--online-group", "canary"]) == 0
    before = {path: path.stat().st_mtime_ns for path in hub.rglob("*") if path.is_file()}
    out.mkdir()
    (out / "float.onnx").write_bytes(b"no graph")
    (out / "training.json").write_text("{}")
    parser = argparse.ArgumentParser()
    add_then(parser)
    options = parser.parse_args(["--then", "optimize,push", "--hub", str(hub), "--group", "canary"])
    with pytest.raises(UnsupportedModelError) as caught:
        go_on(options, ClassifierConfig(data=(data,), out=out))
    assert caught.value.code == 2007
    assert {path: path.stat().st_mtime_ns for path in hub.rglob("*") if path.is_file()} == before
    assert not (out / "bundle").exists()


def test_a_drop_out_of_range_is_said_before_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert main([*words(data, out, tmp_path / "hub"), "--max-drop", "-0.5"]) != 0
    assert "max_drop" in capsys.readouterr().err and not out.exists()
