"""What ``lineside bundle add-variant`` does with the file that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.cli import main
from lineside.commands.bundle.add_variant import model_file
from lineside_models import zoo
from lineside_runtime.backends.tflite_file import check_whole


def test_an_onnx_file_is_translated_for_litert_alone() -> None:
    pytest.importorskip("ai_edge_litert")
    source = zoo.path("surface-12") / "onnx-int8/model.onnx"
    with model_file(source, "litert") as file:
        check_whole(file.read_bytes(), str(file))
    assert not file.exists()
    with model_file(source, "openvino") as file:
        assert file == source


def test_a_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    missing = tmp_path / "none.onnx"
    arguments = ["bundle", "add-variant", "surface-12", str(missing), "--engine", "litert", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "new")]) != 0
    assert str(missing) in capsys.readouterr().err and not (tmp_path / "new").exists()
