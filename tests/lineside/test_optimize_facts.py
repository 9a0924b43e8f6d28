"""``lineside optimize`` of a bare model: what it doesn't say of itself is said by options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_models.labels import LABELS
from lineside_runtime.bundle import open_bundle
from tests.converters import nets


def test_labels_and_input_are_said_by_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, names = tmp_path / "cells.onnx", tmp_path / "names.txt"
    model.write_bytes(nets.cell_detector(facts=None))
    names.write_text("\n".join(LABELS) + "\n")
    words = ["optimize", str(model), "--level", "0", "--no-memory", "--json", "--out", str(tmp_path / "bundle")]
    assert main(words) == 1
    assert "--labels, --colour" in capsys.readouterr().err
    said = ["--labels", str(names), "--colour", "grey", "--size", "128x96", "--mean", "127", "--std", "128"]
    assert main([*words, *said]) == 0
    found = open_bundle(tmp_path / "bundle").manifest
    assert found.labels == LABELS and found.postprocess.name == "dfl_anchor_free"
    how = found.preprocess
    assert (how.input, how.colour, how.size, how.mean, how.std) == ("image", "grey", (128, 96), (127.0,), (128.0,))


def test_labels_are_a_list_too_and_a_size_needs_a_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cells.onnx").write_bytes(nets.cell_detector(facts=None))
    words = ["optimize", str(tmp_path / "cells.onnx"), "--level", "0", "--out", str(tmp_path / "bundle")]
    assert main([*words, "--labels", "a,b", "--size", "96x96"]) == 1
    assert "--size without --colour" in capsys.readouterr().err
    assert main([*words, "--labels", "a,b", "--colour", "grey"]) == 1
    assert "expected 12" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--labels", "names.txt"])
    assert "argument --labels: no file names.txt" in capsys.readouterr().err
    for name, content, problem in (
        ("twice.txt", b"a\nb\na\n", "got 'a' 2 times"),
        ("blank.txt", b"a\n\nb\n\n", "got an empty one, number 2"),
    ):
        (tmp_path / name).write_bytes(content)
        assert main([*words, "--labels", str(tmp_path / name)]) == 1
        assert problem in capsys.readouterr().err
    for name, content, problem in (
        ("none.txt", b"\n", "no label in"),
        ("binary.txt", b"\xff\xfe\x00", "no text in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit):
            main([*words, "--labels", str(tmp_path / name)])
        assert problem in capsys.readouterr().err


def test_of_classes_that_all_sound_good_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nets.doubtful_classifier(tmp_path / "parts.onnx", facts=None)
    words = ["optimize", str(model), "--level", "0", "--no-memory", "--labels", "ok,pass,good", "--colour", "grey"]
    assert main([*words, "--out", str(tmp_path / "refused")]) == 1
    assert "--no-good-class" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "bundle"), "--good-class", "ok", "--good-class", "good"]) == 0
    assert open_bundle(tmp_path / "bundle").manifest.postprocess.params["good"] == [0, 2]
    assert main([*words, "--out", str(tmp_path / "defects"), "--no-good-class"]) == 0
    assert open_bundle(tmp_path / "defects").manifest.postprocess.params["good"] == []


def test_the_schema_of_a_sidecar_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "model"]) == 0
    facts = json.loads(capsys.readouterr().out)["$defs"]["ModelFacts"]
    assert set(facts["properties"]) == {"labels", "preprocess", "postprocess"} and not facts["additionalProperties"]
