"""What ``lineside bundle show`` says of the boards that can run a bundle."""

from __future__ import annotations

import json

import msgspec
import pytest

from lineside.cli import main
from lineside.commands.bundle.command import variants_by_board
from lineside_models import zoo
from lineside_runtime.bundle import Variant, open_bundle

NCNN = Variant(name="ncnn-int8", format="ncnn", file="ncnn-int8/model.param", level=1, precision="int8")


def test_each_board_is_listed_with_what_its_engines_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", "surface-12"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("on       ")]
    (line,) = (line for line in lines if "rpi5-hailo," in line)
    assert "hailo, litert: nothing" in line and "ort: onnx-int8-mirrored, onnx-s8s8-mirrored, onnx-int8" in line
    assert main(["bundle", "show", "surface-12", "--json"]) == 0
    boards = json.loads(capsys.readouterr().out)["boards"]
    onnx = ["onnx-int8-mirrored", "onnx-s8s8-mirrored", "onnx-int8"]
    assert boards["jetson-orin-nano"] == {"tensorrt": [], "ort": onnx}
    assert boards["rpi5"] == {"ort": onnx, "litert": [], "ncnn": ["ncnn-int8"]}


def test_a_variant_is_listed_for_the_engine_that_reads_it() -> None:
    manifest = open_bundle(zoo.path("surface-12")).manifest
    wider = msgspec.structs.replace(manifest, variants=(manifest.variants[0], NCNN))
    assert variants_by_board(wider)["rpi5"]["ncnn"] == ["ncnn-int8"]
    assert "ncnn" not in variants_by_board(wider)["rpi4"]
