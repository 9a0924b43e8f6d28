"""A model that has learnt nothing becomes no bundle and is not pushed, unless it is let through in writing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tomli_w

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside.cli import main
from lineside.commands.push import override_of
from lineside_converters.training.classification.data import ClassifierInput
from lineside_converters.training.classification.trainer import export_classifier
from lineside_hub.results.database import Database
from lineside_models.networks.classifier import resnet18
from lineside_runtime.bundle import open_bundle, write_manifest
from lineside_runtime.errors import AccuracyGateError

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("short_gates")]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that makes a bundle of a classifier with random weights."""
    folder = tmp_path_factory.mktemp("random")
    for number in range(40):
        name = ("dent", "hole")[number % 2]
        (folder / "parts" / name).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 255, (32, 32)).astype(np.uint8)
        cv2.imwrite(str(folder / "parts" / name / f"{number}.png"), image)
    net = resnet18(2, width=0.125, seed=3)
    export_classifier(net, folder / "random.onnx", labels=("dent", "hole"), look=ClassifierInput(32))
    words = ["optimize", str(folder / "random.onnx"), "--level", "0", "--no-memory"]
    return [*words, "--data", str(folder / "parts")]


@pytest.fixture(scope="module")
def let_through(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the random weights, with the baseline gate overridden."""
    out = tmp_path_factory.mktemp("let-through") / "b"
    assert main([*given, "--out", str(out), "--min-metric", "0"]) == 0
    return out


def check_push(bundle: Path, hub: Path, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks that a push is refused for a reason, and goes through with an override, which is recorded."""
    assert main(["hub", "init", str(hub), "--site", "t0", "--group", "line", "--online-group", "canary"]) == 0
    push = ["push", str(bundle), "--hub", str(hub), "--group", "canary"]
    capsys.readouterr()
    assert main(push) != 0
    said = capsys.readouterr().err
    assert reason in said and "--below-baseline" in said
    with Database.open(hub) as database:
        assert database.events(kind="pushed") == []
    assert main([*push, "--below-baseline"]) == 0
    with Database.open(hub) as database:
        (event,) = database.events(kind="override")
    assert event.bundle == "random@1" and reason in event.detail


def test_random_weights_become_no_bundle(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--out", str(tmp_path / "b")]) != 0
    assert "[6003] the model is hardly better than one that always gives the same answer" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_least_metric_of_zero_lets_them_through_and_is_written_down_up_to_the_hub(
    let_through: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = let_through
    gates = {gate["name"]: gate for gate in json.loads((bundle / "report.json").read_bytes())["gates"]}
    assert gates["baseline"]["status"] == "overridden"
    assert "- baseline overridden: mean recall of 2 classes" in (bundle / "model_card.md").read_text()
    assert "baseline overridden" in (bundle / "report.html").read_text()
    assert open_bundle(bundle).manifest.speed == "measured"
    check_push(bundle, tmp_path / "hub", "mean recall of 2 classes", capsys)
    models = [{"name": "known", "bundle": "surface-12"}, {"name": "random", "bundle": str(bundle)}]
    (tmp_path / "both.toml").write_text(tomli_w.dumps({"name": "both", "model": models}))
    assert main(["bundle", "combine", str(tmp_path / "both.toml"), str(tmp_path / "both")]) == 0
    with pytest.raises(AccuracyGateError, match="mean recall of 2 classes"):
        override_of(tmp_path / "both", allowed=False)


def test_a_model_that_was_judged_on_nothing_is_pushed_only_with_a_recorded_override(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "b"
    assert main([*given[: given.index("--data")], "--out", str(bundle)]) == 0
    gates = {gate["name"]: gate for gate in json.loads((bundle / "report.json").read_bytes())["gates"]}
    assert gates["baseline"]["status"] == "unproven"
    check_push(bundle, tmp_path / "hub", "no annotated frames of the line", capsys)


def test_a_bundle_from_before_the_gate_is_judged_by_its_report_when_it_is_pushed(
    let_through: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, hub = Path(shutil.copytree(let_through, tmp_path / "old")), tmp_path / "hub"
    report = json.loads((old / "report.json").read_bytes())
    report["gates"] = [gate for gate in report["gates"] if gate["name"] != "baseline"]
    (old / "report.json").write_text(json.dumps({**report, "schema": 2}))
    write_manifest(old, open_bundle(old, verify=False).manifest)
    assert main(["hub", "init", str(hub), "--site", "t0", "--group", "line", "--online-group", "canary"]) == 0
    assert main(["push", str(old), "--hub", str(hub), "--group", "canary"]) != 0
    assert "mean recall of 2 classes" in capsys.readouterr().err
