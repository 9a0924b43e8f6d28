from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lineside.cli import main
from tests.worlds import annotated_sets


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotated_sets.write_strips(
        tmp_path_factory.mktemp("steel") / "data", {"train": 3, "val": 4}, first_seed=100, defects=None
    )


def test_json_on_stdout_and_the_rest_in_files(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "surface-12", "--data", str(data), "--fold", "val", "--json", "--clean-simulated", "2"]
    files = tmp_path / "out" / "page.html", tmp_path / "out" / "finds.json"
    assert main([*command, "--html", str(files[0]), "--predictions", str(files[1])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"map50", "map50_interval", "f1", "good_or_bad", "curves", "confusion", "worst_frames"} <= set(told)
    assert told["frames"] == 4
    assert "</html>" in files[0].read_text()
    assert all({"image_id", "category_id", "bbox", "score"} <= set(one) for one in json.loads(files[1].read_text()))


def test_a_table_for_people(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "surface-12", "--data", str(data), "--max-frames", "3"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "3 frames" in lines[0]
    assert re.fullmatch(r"escapes: \d of \d bad parts pass, [\d.]+ % \[[\d.]+, [\d.]+\]", lines[1])
    assert lines[2].startswith("false rejects")
    assert "mAP@0.5" in out
    assert "scratches" in out


def test_the_variant_that_is_named_is_judged(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "surface-12", "--data", str(data), "--max-frames", "2", "--json"]
    told = {}
    for name, extra in (("", []), ("onnx-int8", ["--variant", "onnx-int8", "--html", str(tmp_path / "page.html")])):
        assert main([*command, *extra]) == 0
        told[name] = json.loads(capsys.readouterr().out)["variant"]
    assert told == {"": "onnx-int8-mirrored", "onnx-int8": "onnx-int8"}
    assert main([*command, "--variant", "onnx-fp64"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["expected"]) == (
        2001,
        "one of onnx-int8-mirrored, onnx-s8s8-mirrored, onnx-int8, ncnn-int8, litert-int8",
    )


def test_frames_that_the_bundle_was_trained_on_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = annotated_sets.write_strips(tmp_path / "neu-det", {"train": 2, "val": 2}, first_seed=200, defects=None)
    for fold, noted in (("train", True), ("val", False)):
        assert main(["evaluate", "surface-12", "--data", str(root), "--fold", fold]) == 0
        assert ("was trained on frames of neu-det" in capsys.readouterr().err) == noted


def test_a_page_that_cannot_be_written_is_said_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    page = tmp_path / "file" / "page.html"
    assert main(["evaluate", "surface-12", "--data", str(data), "--html", str(page)]) == 1
    assert "[2001]" in capsys.readouterr().err
