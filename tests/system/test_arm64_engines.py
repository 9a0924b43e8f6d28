"""T1: what the wheels of a board's payload compute on its processor's instructions, under qemu's user emulation.

ONNX variants, ncnn's and LiteRT's INT8, and a board's timing of variants. It says nothing of a board's speed.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lineside_converters.bundles.packaging import golden_frame
from lineside_converters.formats import ConversionRequest, makers_for
from lineside_converters.graph.cleanup import clean_graph
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle, Variant, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from tests.agent.inspection.test_variant_selection import two_forms
from tests.boards import arm64
from tests.converters import nets
from tests.system import variants_on_arm64

PACKAGES = {"litert": "ai-edge-litert", "ncnn": "ncnn"}
"""Packages of the engines, which no payload of `arm64` holds."""

LITERT_ERROR_MAX = 1e-3
"""Largest difference of an output from the one on x86, as for the unsigned ONNX variants: XNNPACK's signed INT8 sums
are exact on both, and it rounds them alike."""

INSTALLED_BYTES_MAX, CARRIED_BYTES_MAX = 300e6, 110e6
"""Of the agent with its shipped bundles; 11 MB of them read printed text."""


def test_every_variant_gives_the_same_outputs_on_the_boards_instructions(tmp_path: Path) -> None:
    payload, tree = arm64.agent()
    words = [str(Path(variants_on_arm64.__file__)), str(tmp_path / "input.npy")]
    tensor, _ = prepare(golden_frame().image, open_bundle(zoo.path("surface-12")).manifest.preprocess)
    np.save(words[1], tensor)
    here = variants_on_arm64.figures(words[1])
    there = json.loads(arm64.run_there(tree, *words))
    assert (there["machine"], there["python"]) == ("aarch64", arm64.PYTHON)
    assert there["jpeg_mean"] == pytest.approx(here["jpeg_mean"], abs=0.1)
    assert there["input_mean"] == pytest.approx(here["input_mean"], abs=0.01), "OpenCV rounds a pixel otherwise"
    assert len(here["outputs"]) == 3 + 2
    for variant, outputs in here["outputs"].items():
        for name, values in outputs.items():
            found = there["outputs"][variant][name]
            assert arm64.mean_error(found, values) < arm64.MEAN_ERROR_MAX, (variant, name)
            if "s8s8" not in variant:
                np.testing.assert_allclose(found, values, atol=1e-3, err_msg=f"{variant} {name}")
    installed = sum(path.lstat().st_size for path in tree.rglob("*"))
    assert installed < INSTALLED_BYTES_MAX
    assert payload.manifest.size_bytes < CARRIED_BYTES_MAX
    shipped = sorted(folder.name for folder in (arm64.site_packages(tree) / "lineside_models/zoo").iterdir())
    assert [name for name in zoo.NAMES if name not in shipped] == list(zoo.HOST_ONLY)


def test_the_optimizers_trial_is_timed_on_the_boards_instructions(tmp_path: Path) -> None:
    _, tree = arm64.agent()
    bundle = two_forms(tmp_path / "bundle")
    deep, shallow = json.loads(
        arm64.run_there(tree, "-m", "lineside_agent.inspection.variant_timing", str(bundle.path), "3", "[]", "{}")
    )
    assert (deep["device"], shallow["device"]) == ("ort/cpu:0", "ort/cpu:0")
    assert len(deep["rounds_ms"]) == len(shallow["rounds_ms"]) == 3
    assert min(deep["rounds_ms"]) > min(shallow["rounds_ms"]) > [0]  # 40 layers and one, each undisturbed once


def test_ncnns_int8_is_as_near_to_the_float_model_on_the_boards_instructions_as_here(tmp_path: Path) -> None:
    made = makers_for("ncnn")[1]
    if made.missing():
        pytest.skip(made.missing())
    _, tree = arm64.agent()
    source = nets.bundle(tmp_path / "float", nets.convnet(depth=4))
    clean_graph(source.file("onnx-fp32/model.onnx"), tmp_path / "clean.onnx")
    folder = tmp_path / "bundle"
    (folder / "ncnn-int8").mkdir(parents=True)
    made.make(
        ConversionRequest(
            clean=tmp_path / "clean.onnx",
            int8=None,
            manifest=source.manifest,
            feeds=nets.feeds(nets.noise(4)),
            folder=folder / "ncnn-int8",
        )
    )
    variant = Variant(name="ncnn-int8", format="ncnn", file="ncnn-int8/model.param", level=1, precision="int8")
    bundle = write_manifest(folder, msgspec.structs.replace(source.manifest, variants=(variant,)))
    (x,) = nets.noise(1, seed=9)
    shipped = open_bundle(zoo.path("surface-12"))
    tensor, _ = prepare(golden_frame().image, shipped.manifest.preprocess)
    there, shipped_there = run_there("ncnn", tree, [(bundle, x), (shipped, tensor)], tmp_path)
    with Session(source, Config(engines=("ort",))) as floats, Session(bundle, Config(engines=("ncnn",))) as here:
        wanted, found = floats.predict(x), here.predict(x)
    for name, array in wanted.items():
        on_board, on_x86 = (np.corrcoef(array.ravel(), each[name].ravel())[0, 1] for each in (there, found))
        assert on_board > 0.99, name
        assert on_board == pytest.approx(on_x86, abs=0.002), name
    with Session(shipped, Config(engines=("ncnn",))) as here:
        for name, array in here.predict(tensor).items():
            assert arm64.mean_error(shipped_there[name], array) < arm64.MEAN_ERROR_MAX, name


def test_litert_computes_the_shipped_variant_on_the_boards_instructions_as_here(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    _, tree = arm64.agent()
    shipped = open_bundle(zoo.path("surface-12"))
    golden, _ = prepare(golden_frame().image, shipped.manifest.preprocess)
    board, _ = prepare(render("pcb", 7).image, shipped.manifest.preprocess)
    found = run_there("litert", tree, [(shipped, golden), (shipped, board)], tmp_path)
    with Session(shipped, Config(engines=("litert",), threads=1)) as here:
        for tensor, there in zip((golden, board), found, strict=True):
            for name, array in here.predict(tensor).items():
                np.testing.assert_allclose(there[name], array, atol=LITERT_ERROR_MAX, err_msg=f"{tensor.shape} {name}")


def run_there(engine: str, tree: Path, bundles: list[tuple[Bundle, Array]], folder: Path) -> list[dict[str, Array]]:
    """Runs bundles on an engine, on the board's instructions, each on its input; returns their outputs."""
    words = [str(Path(__file__).with_name("engine_on_arm64.py")), engine]
    for number, (bundle, tensor) in enumerate(bundles):
        np.save(folder / f"x{number}.npy", tensor)
        words += [str(bundle.path), str(folder / f"x{number}.npy"), str(folder / f"there{number}.npz")]
    name = PACKAGES[engine]
    used = arm64.run_there(tree, *words, more=arm64.package(name, version(name)))
    assert used.split() == [f"{engine}/cpu:0"] * len(bundles)
    found = []
    for number in range(len(bundles)):
        with np.load(folder / f"there{number}.npz") as outputs:
            found.append(dict(outputs))
    return found
