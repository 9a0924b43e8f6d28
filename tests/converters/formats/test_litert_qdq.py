"""A QDQ graph translated to LiteRT computes what ONNX Runtime computes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.formats import ConversionRequest, makers_for
from lineside_converters.levels import Activation
from lineside_converters.quantization.static import quantize
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.simulator import Kind, render
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import GraphError
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

pytest.importorskip("ai_edge_litert")

from lineside_converters.formats.litert_qdq import translate_file
from tests.runtime.onnx_models import exact_session

STEPS_APART = 3
"""Largest distance to ONNX Runtime on the small network, in steps of the output's scale: each of its eight layers may
round a half to the other side."""

SIZES = ((64, 64), (96, 32))


def network() -> onnx.ModelProto:
    """Returns strided, plain, depthwise and 1x1 convolutions with limits, a sum, and an enlarged map; two outputs."""
    rng = np.random.default_rng(0)
    nodes, constants = [], [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice")]
    constants += [numpy_helper.from_array(np.array(limit, np.float32), f"limit{limit}") for limit in (0, 6)]

    def conv(name: str, source: str, inner: int, out: int, side: int, **facts: object) -> str:
        weights = rng.normal(0, (2 / (inner * side * side)) ** 0.5, (out, inner, side, side)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"{name}_w"))
        constants.append(numpy_helper.from_array(rng.normal(0, 0.1, out).astype(np.float32), f"{name}_b"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [name], name, **facts))
        return name

    def other(kind: str, name: str, *sources: str, **facts: object) -> str:
        nodes.append(helper.make_node(kind, sources, [name], name, **facts))
        return name

    stem = other("Clip", "stem6", conv("stem", "image", 1, 16, 3, strides=[2, 2], pads=[1] * 4), "limit0", "limit6")
    wide = other("Relu", "wide0", conv("wide", stem, 1, 16, 5, group=16, pads=[2] * 4))
    same = other("Add", "sum", conv("point", wide, 16, 16, 1), stem)
    low = other("Relu", "low0", conv("low", same, 16, 24, 3, strides=[2, 2], pads=[1] * 4))
    back = conv("back", low, 24, 16, 1)
    high = other("Resize", "high", back, "", "twice", mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")  # fmt: skip
    conv("fine", other("Add", "joined", high, same), 16, 6, 3, pads=[1] * 4)
    conv("coarse", low, 24, 6, 1)
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6, None, None]) for name in ("fine", "coarse")]
    graph = helper.make_graph(nodes, "small", [given], made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(seed: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.normal(0, 1, (1, 1, *size)).astype(np.float32)} for size in SIZES for _ in range(4)]


@pytest.fixture(params=["u8s8", "s8s8"])
def int8(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    activation: Activation = request.param
    onnx.save(network(), tmp_path / "float.onnx")
    quantize(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", feeds=pictures(0), activation=activation, exclude=["stem"]
    )
    return tmp_path / "int8.onnx"


def scales(model: onnx.ModelProto) -> dict[str, float]:
    """Returns the step of each of the graph's outputs."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    last = {name: node for node in model.graph.node for name in node.output}
    return {each.name: float(constants[last[each.name].input[1]]) for each in model.graph.output}


def test_outputs_are_those_of_the_onnx_form_at_every_size(int8: Path, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(translate_file(int8, tmp_path / "model.tflite"))).get_signature_runner("serving_default")
    reference = exact_session(int8)
    steps = scales(onnx.load(int8))
    for feed in pictures(1):
        wanted = dict(zip(("fine", "coarse"), reference.run(["fine", "coarse"], feed), strict=True))
        for name, found in run(**feed).items():
            assert found.shape == wanted[name].shape
            assert np.abs(found - wanted[name]).max() <= STEPS_APART * steps[name] * 1.001


def test_what_it_does_not_know_and_a_float_graph_are_graph_errors(int8: Path, tmp_path: Path) -> None:
    model = onnx.load(int8)
    model.graph.node.append(helper.make_node("Sigmoid", ["fine"], ["score"], "score"))
    onnx.save(model, int8)
    with pytest.raises(GraphError, match="Sigmoid"):
        translate_file(int8, tmp_path / "model.tflite")
    manifest = open_bundle(zoo.path("surface-12"), verify=False).manifest
    request = ConversionRequest(clean=tmp_path / "x", int8=None, manifest=manifest, feeds=[], folder=tmp_path)
    with pytest.raises(GraphError, match="quantized"):
        makers_for("litert")[1].make(request)


def test_the_optimizer_has_it_beside_the_maker_that_needs_jax() -> None:
    names = [maker.name for maker in makers_for("litert")]
    assert names == ["litert", "litert-qdq"] and not makers_for("litert")[1].missing()


def test_the_shipped_form_is_the_translation_and_judges_as_the_onnx_form_does(tmp_path: Path) -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    shipped = bundle.file("litert-int8/model.tflite").read_bytes()
    assert translate_file(bundle.file("onnx-int8/model.onnx"), tmp_path / "model.tflite").read_bytes() == shipped
    config = {name: Config(variant=name, threads=1, engines=(engine,)) for name, engine in FORMS.items()}
    verdicts = {name: judged(bundle, each) for name, each in config.items()}
    assert verdicts["litert-int8"] == verdicts["onnx-int8"]


KINDS: tuple[Kind, ...] = ("steel", "pcb")
FORMS = {"onnx-int8": "ort", "litert-int8": "litert"}


def judged(bundle: Bundle, config: Config) -> list[object]:
    with Session(bundle, config) as session:
        assert session.variant == config.variant
        inspector = Inspector(session)
        images = [render(kind, seed).image for kind in KINDS for seed in range(4)]
        found = inspector.inspect_batch([Frame(image=image, sequence=number) for number, image in enumerate(images)])
        return [(one.verdict, sorted({each.type for each in one.detections})) for one in found]
