"""What ``lineside bundle show`` says of the boards that can run a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from lineside.cli import main
from lineside.commands.bundle.command import HOW_TO_MAKE, variants_by_board
from lineside_boards import profile
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, Variant, open_bundle

NCNN = Variant(name="ncnn-int8", format="ncnn", file="ncnn-int8/model.param", level=1, precision="int8")


def test_each_board_is_listed_with_what_its_engines_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", "surface-12"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("on       ")]
    (line,) = (line for line in lines if "rpi5-hailo," in line)
    assert "hailo: nothing in this bundle" in line and "litert: litert-int8" in line
    assert "ort: onnx-int8-mirrored, onnx-s8s8-mirrored, onnx-int8" in line
    assert main(["bundle", "show", "surface-12", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    boards = facts["boards"]
    onnx = ["onnx-int8-mirrored", "onnx-s8s8-mirrored", "onnx-int8"]
    assert boards["jetson-orin-nano"] == {"tensorrt": [], "ort": onnx}
    assert boards["rpi5"] == {"ort": onnx, "litert": ["litert-int8"], "ncnn": ["ncnn-int8"]}
    assert set(facts["no_form_for"]) == {"hailo", "rknn", "tensorrt"}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_shipped_bundle_can_be_shown_and_states_its_terms(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", name]) == 0
    shown = capsys.readouterr().out
    assert "licence  Apache-2.0" in shown and "data     not stated" not in shown


def test_the_variant_that_tensorrt_can_compile_is_named_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", "surface-12", "--json"]) == 0
    sources = json.loads(capsys.readouterr().out)["tensorrt_sources"]
    assert {name for name, source in sources.items() if source["suits"]} == {"onnx-s8s8-mirrored"}
    assert "zero points that are not 0" in sources["onnx-int8"]["why"]
    assert main(["bundle", "show", "surface-12"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (board,) = (line for line in lines if line.startswith("on       jetson-orin-nano"))
    assert "tensorrt: compiled there of onnx-s8s8-mirrored" in board
    (way,) = (line for line in lines if line.startswith("no form  for tensorrt"))
    assert "add-variant BUNDLE onnx-s8s8-mirrored --engine tensorrt" in way and "untested on hardware" in way


def test_an_engine_without_a_form_is_listed_with_the_command_that_makes_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", "patch-features"]) == 0
    lines = [line.removeprefix("no form  for ") for line in capsys.readouterr().out.splitlines()]
    made = {line.partition(":")[0]: line for line in lines if ": " in line and "`lineside" in line}
    assert made.keys() >= {"hailo", "litert", "ncnn", "rknn", "tensorrt"}
    assert "--engine hailo --device npu" in made["hailo"] and "lineside optimize" in made["tensorrt"]


def test_every_engine_of_a_board_has_a_way_to_its_form() -> None:
    engines = {engine for board in profile.names() for engine in profile.load(board).engines.order}
    assert engines - {"torch"} <= HOW_TO_MAKE.keys(), "torch reads what ort reads"


def test_a_variant_is_listed_for_the_engine_that_reads_it() -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    variants = (bundle.manifest.variants[0], NCNN)
    wider = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, variants=variants), bundle.digest)
    assert variants_by_board(wider)["rpi5"]["ncnn"] == ["ncnn-int8"]
    assert "ncnn" not in variants_by_board(wider)["rpi4"]


def test_boards_run_the_models_of_a_combination(tmp_path: Path) -> None:
    tables = "".join(f'[[model]]\nname = "{name}"\nbundle = "surface-12"\n' for name in ("first", "second"))
    (tmp_path / "both.toml").write_text('name = "both"\nversion = "1.0.0"\n' + tables)
    assert main(["bundle", "combine", str(tmp_path / "both.toml"), str(tmp_path / "both")]) == 0
    variants = variants_by_board(open_bundle(tmp_path / "both"))["rpi5"]
    assert variants["ncnn"] == ["first/ncnn-int8", "second/ncnn-int8"]
