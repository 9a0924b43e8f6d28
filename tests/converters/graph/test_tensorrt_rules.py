"""TensorRT's rules on the shipped bundle's own graphs, and on small graphs that break one rule each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.formats import makers_for
from lineside_converters.graph.tensorrt_rules import RULES, conforming, describe, violations, write_conforming
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import GraphError
from lineside_runtime.tensors import Array
from tests.runtime.onnx_models import exact_session

SIGNED = "onnx-s8s8-mirrored"
MEAN_ERROR_MAX = 0.08
"""As between two levels of optimization of ONNX Runtime on one machine (`tests.boards.arm64`)."""


def shipped(name: str) -> Path:
    return open_bundle(zoo.path("surface-12")).file(f"{name}/model.onnx")


def run(model: onnx.ModelProto, x: Array) -> dict[str, Array]:
    session = exact_session(model.SerializeToString())
    return dict(zip((out.name for out in session.get_outputs()), session.run(None, {"image": x}), strict=True))


def test_the_signed_variant_of_the_shipped_bundle_keeps_the_rules_once_prepared() -> None:
    source = onnx.load(shipped(SIGNED))
    assert {one.rule for one in violations(source)} == {"bias", "output"}
    ready = conforming(source)
    assert violations(ready) == ()
    quantizers = {"QuantizeLinear", "DequantizeLinear"}
    kept = [[node.op_type for node in model.graph.node if node.op_type not in quantizers] for model in (source, ready)]
    assert kept[0] == kept[1], "nothing but quantizers is changed"
    weights = [one.name for one in source.graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) > 1]
    assert {one.name for one in ready.graph.initializer} >= set(weights), "no layer is turned back into floats"


def test_its_prepared_form_computes_what_the_variant_computes_up_to_rounding() -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    tensor, _ = prepare(render("steel", 7).image, bundle.manifest.preprocess)
    source = onnx.load(shipped(SIGNED))
    wanted, found = run(source, tensor), run(conforming(source), tensor)
    for name, array in wanted.items():
        assert np.abs(found[name] - array).mean() / np.abs(array).mean() < MEAN_ERROR_MAX, name


@pytest.mark.parametrize("name", ["onnx-int8-mirrored", "onnx-int8"])
def test_unsigned_variants_are_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(GraphError, match="zero points that are not 0") as caught:
        write_conforming(shipped(name), tmp_path / "model.onnx")
    assert RULES["type"] in str(caught.value)
    (maker,) = makers_for("tensorrt")
    refused, taken = maker.check_source(shipped(name)), maker.check_source(shipped(SIGNED))
    assert refused is not None and not refused.suits and "zero points that are not 0" in refused.why
    assert (
        taken is not None
        and taken.suits
        and "mended when it is compiled: 99 biases in INT32, 86 Q/DQ pairs" in taken.why
    )


def small(
    *, zero: int = 0, scale: float = 0.1, axis: int = 0, given: bool = True, residual: bool = True
) -> onnx.ModelProto:
    """Returns a quantized convolution whose output is added to the input and rounded."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-127, 127, (4, 4, 1, 1)).astype(np.int8),
        "w_scale": np.full(4, 0.01, np.float32),
        "w_zero": np.zeros(4, np.int8),
        "b": np.arange(4, dtype=np.int32),
        "b_scale": np.full(4, 0.001, np.float32),
        "b_zero": np.zeros(4, np.int32),
        "scale": np.array(scale, np.float32),
        "zero": np.array(zero, np.int8),
    }
    quantizer = ("scale", "zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["image", *quantizer], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *quantizer], ["x"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["weights"], "weights", axis=axis),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bias"], "bias", axis=0),
        helper.make_node("Conv", ["x" if given else "image", "weights", "bias"], ["conv"], "conv"),
        helper.make_node("QuantizeLinear", ["conv", *quantizer], ["conv_q"], "conv_q"),
        helper.make_node("DequantizeLinear", ["conv_q", *quantizer], ["conv_dq"], "conv_dq"),
        helper.make_node("Add", ["conv_dq", "x" if residual else "image"], ["sum"], "sum"),
        helper.make_node("QuantizeLinear", ["sum", *quantizer], ["sum_q"], "sum_q"),
        helper.make_node("DequantizeLinear", ["sum_q", *quantizer], ["out"], "sum_dq"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, "h", "w"]) for name in ("image", "out")]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, {"bias": 1, "output": 1}),
        ({"zero": 3}, {"zero point": 6, "bias": 1, "output": 1}),
        ({"scale": 0.0}, {"scale": 6, "bias": 1, "output": 1}),
        ({"axis": 1}, {"scale": 1, "bias": 1, "output": 1}),
        ({"given": False}, {"partly quantized": 1, "bias": 1, "output": 1}),
        ({"residual": False}, {"residual": 1, "bias": 1}),
    ],
)
def test_each_rule_is_found_broken_and_two_of_them_are_mended(
    changes: dict[str, object], broken: dict[str, int]
) -> None:
    model = small(**changes)  # type: ignore[arg-type]  # one of its settings
    assert Counter(one.rule for one in violations(model)) == broken
    assert {one.rule for one in violations(conforming(model))} == broken.keys() - {"bias", "output"}
    assert describe(violations(small())) == "1 biases in INT32, 1 Q/DQ pairs between a convolution and its limit or sum"


def test_a_bias_becomes_the_number_that_its_integers_stand_for() -> None:
    ready = conforming(small())
    (conv,) = (node for node in ready.graph.node if node.op_type == "Conv")
    (bias,) = (numpy_helper.to_array(one) for one in ready.graph.initializer if one.name == conv.input[2])
    np.testing.assert_array_equal(bias, np.arange(4, dtype=np.float32) * np.float32(0.001))
    assert "b" not in {one.name for one in ready.graph.initializer}
