"""What is made for a target: its engines' forms, each with what the manifest must say of it, or the reason why not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from lineside_agent.inspection.variant_selection import SUFFIX, fastest_first
from lineside_converters.formats import MAKERS, ConversionRequest, makers_for
from lineside_converters.formats.onnx_half import make as make_half
from lineside_converters.optimizer import Optimizer
from lineside_converters.targets import find_target
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_runtime import registry
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, GraphError
from lineside_runtime.system.vnni import saturates
from tests.converters import nets

HERE = "u8s7" if saturates() else "u8s8"
FRAMES = [Frame(image=render("steel", seed).image, sequence=seed) for seed in range(3)]


def test_every_maker_is_for_an_engine_of_ours_and_a_format_that_it_reads() -> None:
    for maker in MAKERS:
        assert any(registry.may_read(maker.engine, maker.file.format, kind) for kind in ("cpu", "gpu", "npu"))
        assert bool(maker.needs) == bool(maker.install)
    assert makers_for("hailo") == ()


@pytest.mark.parametrize(
    ("kind", "activation", "names"),
    [
        ("cpu", HERE, "cpu x86"),
        ("cpu", "s8s8", "rpi5 rpi5-imx500"),
        ("gpu", "s8s8", "cuda:0 rocm jetson-orin-nano jetson-orin-nx jetson-thor"),
        ("npu", "s8s8", "rpi5-hailo rpi5-hailo8l rpi5-hailo10h rk3576"),
        ("npu", "u8s8", "qcs6490 x86-npu"),
    ],
)
def test_targets_are_read_from_their_profiles(kind: str, activation: str, names: str) -> None:
    for name in names.split():
        target = find_target(name)
        assert (target.name, target.kind, target.activation) == (name, kind, activation)
        assert target.source and target.engines
    wrong: tuple[Any, ...] = ("toaster", "", None, 3)
    for name in wrong:
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


def test_a_gpu_gets_fp16_beside_int8_and_times_both_itself_and_none_at_level_0(tmp_path: Path) -> None:
    net = tmp_path / "net.onnx"
    net.write_bytes(nets.convnet())
    made = Optimizer(net, "rocm", 0, out=tmp_path / "float", frames=FRAMES, max_drop=1.0).run()
    assert [variant.precision for variant in made.bundle.manifest.variants] == ["fp32"]
    result = Optimizer(net, "cuda:0", 1, out=tmp_path / "out", frames=FRAMES, max_drop=1.0).run()
    manifest = result.bundle.manifest
    assert sorted(variant.name for variant in manifest.variants) == ["onnx-fp16", "onnx-fp32", "onnx-int8"]
    assert manifest.speed == "unproven"
    half = result.bundle.file("onnx-fp16/model.onnx")
    kinds = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in onnx.load(half).graph.initializer}
    assert "FLOAT16" in kinds
    assert half.stat().st_size < 0.6 * result.bundle.file("onnx-fp32/model.onnx").stat().st_size
    ordered = [variant.name for variant in fastest_first(result.bundle, Config())[0].manifest.variants]
    timed = json.loads(result.bundle.path.with_name(result.bundle.path.name + SUFFIX).read_text())["timed"]
    assert {one["variant"] for one in timed} == set(ordered)
    assert ordered == [one["variant"] for one in sorted(timed, key=lambda one: one["ms"])]


def test_what_fp16_cannot_hold_stays_in_float32(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = onnx.load_from_string(nets.convnet())
    place, conv = next((at, node) for at, node in enumerate(graph.graph.node) if node.op_type == "Conv")
    (out,) = conv.output
    conv.output[0] = "raw"
    for name, factor in (("grown", 1e7), ("shrunk", 1e-7)):  # beyond 65504, and back
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, np.float32), name))
    graph.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["raw", "grown"], ["far"], name="grow"))
    graph.graph.node.insert(place + 2, onnx.helper.make_node("Mul", ["far", "shrunk"], [out], name="shrink"))
    onnx.save(graph, tmp_path / "net.onnx")
    feeds = nets.feeds(nets.noise(1))
    request = ConversionRequest(
        clean=tmp_path / "net.onnx", int8=None, manifest=nets.manifest(), feeds=feeds, folder=tmp_path
    )
    half = make_half(request)
    assert "2 nodes stay in float32" in caplog.text and "grow" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "net.onnx"]
    # ONNX's reference computes what a file says: ONNX Runtime on a CPU would compute FP16 in float32.
    wanted = ReferenceEvaluator(str(tmp_path / "net.onnx")).run(None, feeds[0])
    found = ReferenceEvaluator(str(half)).run(None, feeds[0])
    for one, two in zip(wanted, found, strict=True):
        assert two.dtype == np.float32
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.999


def test_openvinos_files_compute_what_the_int8_graph_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from lineside_converters.formats.openvino_ir import make
    from lineside_converters.graph.cleanup import clean_graph
    from lineside_converters.quantization.static import quantize

    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    feeds = nets.feeds(nets.noise(3))
    quantize(tmp_path / "clean.onnx", tmp_path / "int8.onnx", feeds=feeds)
    (tmp_path / "ir").mkdir()
    request = ConversionRequest(
        clean=tmp_path / "clean.onnx",
        int8=tmp_path / "int8.onnx",
        manifest=nets.manifest(),
        feeds=feeds,
        folder=tmp_path / "ir",
    )
    file = make(request)
    core = openvino.Core()
    one, two = (core.compile_model(str(path), "CPU") for path in (tmp_path / "int8.onnx", file))
    for name in ("cls_8", "box_8"):
        wanted, found = one(feeds[0])[name], two(feeds[0])[name]
        assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(("activation", "most"), [("u8s8", 127), ("u8s7", 64)])
def test_nncf_gives_weights_7_bits_where_the_target_has_no_vnni(tmp_path: Path, activation: Any, most: int) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from lineside_converters.formats.openvino_ir import make_nncf

    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    (tmp_path / "ir").mkdir()
    request = ConversionRequest(
        clean=tmp_path / "net.onnx",
        int8=tmp_path / "net.onnx",
        manifest=nets.manifest(),
        feeds=nets.feeds(nets.noise(3)),
        activation=activation,
        folder=tmp_path / "ir",
    )
    operators = openvino.Core().read_model(make_nncf(request)).get_ops()
    weights = [each.data for each in operators if each.get_type_name() == "Constant" and each.data.dtype == np.int8]
    assert max(int(np.abs(each.astype(int)).max()) for each in weights) == most


@pytest.fixture
def sized(tmp_path: Path) -> ConversionRequest:
    """A network with free height and width, calibrated on two sizes."""
    from lineside_converters.graph.cleanup import clean_graph

    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    (tmp_path / "out").mkdir()
    feeds = nets.feeds([*nets.noise(3), *nets.noise(3, side=160)])
    return ConversionRequest(
        clean=tmp_path / "clean.onnx", int8=None, manifest=nets.manifest(), feeds=feeds, folder=tmp_path / "out"
    )


def needs(engine: str) -> None:
    if makers_for(engine)[0].missing():
        pytest.skip(makers_for(engine)[0].missing())


def least_correlation(request: ConversionRequest, file: Path, precision: Any, engine: str = "ncnn") -> float:
    """Returns that of all outputs with ONNX Runtime's, on inputs of both sizes that it was not calibrated on."""
    from lineside_converters.gates.loaded_models import execution_place, open_model

    fresh = nets.feeds([*nets.noise(1, seed=9), *nets.noise(1, side=160, seed=9)])
    with (
        open_model(file, execution_place(engine, "cpu"), request.manifest, precision=precision, threads=1) as made,
        open_model(
            request.clean, execution_place("ort", "cpu"), request.manifest, precision="fp32", threads=1
        ) as source,
    ):
        pairs = [(wanted, made(feed)[name]) for feed in fresh for name, wanted in source(feed).items()]
    assert all(one.shape == other.shape for one, other in pairs)
    return float(min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs))


@pytest.mark.parametrize(
    ("engine", "precision", "least", "most_bytes"),
    [
        ("ncnn", "fp16", 0.999, 0.6),
        ("ncnn", "int8", 0.99, 0.35),
        ("mnn", "fp32", 0.99999, 1.1),
        ("mnn", "int8", 0.99, 0.35),
    ],
)
def test_files_of_ncnn_and_mnn_compute_what_the_float_graph_does_at_any_size(
    sized: ConversionRequest, engine: str, precision: str, least: float, most_bytes: float
) -> None:
    needs(engine)
    (maker,) = (maker for maker in makers_for(engine) if maker.precision == precision)
    file = maker.make(sized)
    names = {"ncnn": ["model.bin", "model.param"], "mnn": ["model.mnn"]}[engine]
    assert sorted(path.name for path in file.parent.iterdir()) == names
    assert (file.parent / names[0]).stat().st_size < most_bytes * sized.clean.stat().st_size
    assert list(sized.clean.parent.glob("*.pnnxsim.onnx")) == []
    assert least_correlation(sized, file, precision, engine) > least
    if engine == "mnn":
        before = file.read_bytes()
        assert maker.make(sized).read_bytes() == before


def test_nodes_that_the_plan_keeps_in_float_stay_so_in_ncnn(sized: ConversionRequest) -> None:
    from lineside_converters.formats.ncnn import make_int8

    needs("ncnn")
    convs = [node.name for node in onnx.load(sized.clean).graph.node if node.op_type == "Conv"]
    kept = dataclasses.replace(sized, float_nodes=frozenset(convs[:3]))
    lines = make_int8(kept).read_text().splitlines()
    layers = [line.split() for line in lines if line.startswith("Convolution ")]
    assert sum("8=2" in layer for layer in layers) == len(convs) - 3
    assert least_correlation(kept, kept.folder / "model.param", "int8") > 0.99


def test_weights_in_other_layers_are_no_int8_in_ncnn(sized: ConversionRequest, tmp_path: Path) -> None:
    from lineside_converters.formats.ncnn import make_int8

    needs("ncnn")
    graph = onnx.load(sized.clean)
    slopes = onnx.numpy_helper.from_array(np.full((32, 1, 1), 0.1, np.float32), "slopes")
    graph.graph.initializer.append(slopes)
    relu = next(node for node in graph.graph.node if node.op_type == "Relu")
    relu.op_type = "PRelu"
    relu.input.append("slopes")
    onnx.save(graph, tmp_path / "prelu.onnx")
    with pytest.raises(GraphError, match="other layers"):
        make_int8(dataclasses.replace(sized, clean=tmp_path / "prelu.onnx"))


def test_nodes_that_the_plan_keeps_in_float_stay_so_in_mnn_and_no_graph_is_an_error(sized: ConversionRequest) -> None:
    from lineside_converters.formats.mnn import make_int8

    needs("mnn")
    convs = [node.name for node in onnx.load(sized.clean).graph.node if node.op_type == "Conv"]
    small = make_int8(sized).stat().st_size
    kept = dataclasses.replace(sized, float_nodes=frozenset(convs))
    assert make_int8(kept).stat().st_size > 2 * small
    sized.clean.write_bytes(b"no graph")
    with pytest.raises(GraphError, match="mnnconvert"):
        makers_for("mnn")[0].make(sized)


def test_the_pi_gets_int8_of_every_engine_that_can_be_written_here(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    report = Optimizer(tmp_path / "net.onnx", "rpi5", 1, out=tmp_path / "out", frames=FRAMES, max_drop=1.0).run()
    forms = {one.name: one for one in report.report.variants}
    assert {"onnx-int8", "litert-int8", "litert-qdq-int8", "ncnn-int8", "ncnn-fp16"} <= forms.keys()
    assert forms["onnx-int8"].kept
    made = {variant.precision for variant in report.bundle.manifest.variants if variant.format == "onnx"}
    assert "fp16" not in made, "a processor computes it in float32"
    for name, engine in (("litert-int8", "litert"), ("ncnn-int8", "ncnn")):
        missing = next(maker for maker in makers_for(engine) if maker.precision == "int8").missing()
        assert forms[name].kept or (missing and missing in forms[name].why), forms[name].why
    weights = {
        onnx.TensorProto.DataType.Name(tensor.data_type)
        for tensor in onnx.load(report.bundle.file("onnx-int8/model.onnx")).graph.initializer
    }
    assert "INT8" in weights and "UINT8" not in weights  # signed weights and activations
