"""What ``lineside bundle add-variant`` does with the file that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.cli import main
from lineside.commands.bundle.add_variant import model_file, named_variant
from lineside_models import zoo
from lineside_runtime import registry
from lineside_runtime.backends.tflite_file import check_whole
from lineside_runtime.bundle import open_bundle


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


def test_a_variant_of_the_bundle_is_named_for_tensorrt_which_is_not_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if registry.missing("tensorrt") is None:
        pytest.skip("TensorRT is here, and compiles it")
    arguments = ["--engine", "tensorrt", "--device", "gpu", "--out", str(tmp_path / "new")]
    assert main(["bundle", "add-variant", "surface-12", "onnx-s8s8-mirrored", *arguments]) != 0
    said = capsys.readouterr().err
    assert "[1006]" in said and "keeps TensorRT's rules" in said and not (tmp_path / "new").exists()


def test_the_level_of_the_named_variant_is_that_of_the_new_one() -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    named = named_variant(bundle, Path("onnx-s8s8-mirrored"), "tensorrt")
    assert named is not None and named.level == 0
    assert named_variant(bundle, Path("onnx-s8s8-mirrored"), "hailo") is None
    assert named_variant(bundle, Path("litert-int8"), "tensorrt") is None
