"""What is made for a target: its engines' forms, each with what the manifest must say of it, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_converters.convert import MAKERS, Order, makers_for
from lineside_converters.optimizer import Optimizer
from lineside_converters.targets import find_target
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.errors import ConfigError, GraphError
from lineside_runtime.vnni import cuts_sums
from tests.converters import nets

HERE = "u8s7" if cuts_sums() else "u8s8"
FRAMES = [Frame(image=render("steel", seed).image, sequence=seed) for seed in range(3)]


def test_every_maker_is_for_an_engine_of_ours_and_a_format_that_it_reads() -> None:
    for maker in MAKERS:
        assert any(registry.may_read(maker.engine, maker.format, kind) for kind in ("cpu", "gpu", "npu"))
        assert bool(maker.needs) == bool(maker.install)
    assert makers_for("hailo") == ()


@pytest.mark.parametrize(
    ("name", "kind", "activation"),
    [
        ("cpu", "cpu", HERE),
        ("x86", "cpu", HERE),
        ("cuda:0", "gpu", "s8s8"),
        ("rocm", "gpu", "s8s8"),
        ("rpi5", "cpu", "s8s8"),
        ("jetson-orin-nano", "gpu", "s8s8"),
        ("rpi5-hailo", "npu", "s8s8"),
    ],
)
def test_targets_are_read_from_their_profiles(name: str, kind: str, activation: str) -> None:
    target = find_target(name)
    assert (target.name, target.kind) == (name, kind)
    assert target.activation == activation
    assert target.source
    assert target.engines


@pytest.mark.parametrize("name", ["toaster", "", None, 3])
def test_an_unknown_target_names_those_there_are(name: object) -> None:
    with pytest.raises(ConfigError, match="rpi5"):
        find_target(name)


def test_a_target_elsewhere_keeps_int8_and_float_for_the_device_to_choose(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    result = Optimizer(tmp_path / "net.onnx", "rpi5-hailo", 1, out=tmp_path / "out", frames=FRAMES, max_drop=1.0).run()
    manifest = result.bundle.manifest
    assert [variant.precision for variant in manifest.variants] == ["int8", "fp32"]
    assert manifest.speed == "unproven"
    assert any("speed unproven" in note for note in result.report.notes)
    hailo = [one for one in result.report.variants if one.engine == "hailo"]
    assert hailo == [] or ("add-variant" in hailo[0].why and not hailo[0].kept)


def test_openvinos_files_compute_what_the_int8_graph_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from lineside_converters.compress.cleanup import clean_graph
    from lineside_converters.compress.quantize import quantize
    from lineside_converters.convert.openvino_ir import make

    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    feeds = nets.feeds(nets.noise(3))
    quantize(tmp_path / "clean.onnx", tmp_path / "int8.onnx", feeds=feeds)
    (tmp_path / "ir").mkdir()
    order = Order(
        clean=tmp_path / "clean.onnx",
        int8=tmp_path / "int8.onnx",
        manifest=nets.manifest(),
        feeds=feeds,
        folder=tmp_path / "ir",
    )
    file = make(order)
    core = openvino.Core()
    one, two = (core.compile_model(str(path), "CPU") for path in (tmp_path / "int8.onnx", file))
    for name in ("cls_8", "box_8"):
        wanted, found = one(feeds[0])[name], two(feeds[0])[name]
        assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999


def test_ncnns_files_compute_what_the_float_graph_does(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    maker = makers_for("ncnn")[0]
    if maker.missing():
        pytest.skip(maker.missing())
    from lineside_converters.compress.cleanup import clean_graph
    from lineside_converters.running import loaded, place_for

    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    feeds = nets.feeds(nets.noise(2))
    (tmp_path / "out").mkdir()
    manifest = nets.manifest()
    order = Order(clean=tmp_path / "clean.onnx", int8=None, manifest=manifest, feeds=feeds, folder=tmp_path / "out")
    file = maker.make(order)
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.bin", "model.param"]
    with (
        loaded(file, place_for("ncnn", "cpu"), manifest, precision="fp16", threads=1) as made,
        loaded(tmp_path / "clean.onnx", place_for("ort", "cpu"), manifest, precision="fp32", threads=1) as source,
    ):
        found, wanted = made(feeds[1]), source(feeds[1])
    for name, array in wanted.items():
        assert np.corrcoef(array.ravel(), found[name].ravel())[0, 1] > 0.999


def test_forms_that_need_one_shape_refuse_several(tmp_path: Path) -> None:
    from lineside_converters.convert.ncnn import make

    feeds = nets.feeds([*nets.noise(1), *nets.noise(1, side=160)])
    order = Order(clean=tmp_path / "clean.onnx", int8=None, manifest=nets.manifest(), feeds=feeds, folder=tmp_path)
    with pytest.raises(GraphError, match="one shape"):
        make(order)
