"""How the shipped networks for text are made: the cut of the last layer, GELU as one node, what stays in float."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.helper as build
import onnxruntime
import pytest

from lineside_converters.bundles.page_text import (
    CHARACTERS,
    FLOAT_FIRST,
    FLOAT_LAST,
    INT8,
    NETWORKS,
    cut_head,
    network_file,
)
from lineside_converters.graph.gelu import OPSET, with_gelu
from lineside_models import zoo
from lineside_models.nlp.ocr.character_head import read_head
from lineside_models.nlp.ocr.networks import HEAD_FILE
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import UnsupportedModelError


def network(last: str = "Softmax", half: float = 0.5) -> onnx.ModelProto:
    """Returns a network with a GELU, and a last layer for four characters and a blank."""
    rng = np.random.default_rng(3)
    numbers = {
        "w": rng.normal(size=(5, 6)).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32),
        "root": np.float32(math.sqrt(2)).reshape(1),
        "one": np.ones(1, np.float32),
        "half": np.float32(half).reshape(1),
    }
    steps = [
        ("Relu", ["x"], "r"),
        ("Div", ["r", "root"], "scaled"),
        ("Erf", ["scaled"], "erf"),
        ("Add", ["erf", "one"], "sum1"),
        ("Mul", ["r", "sum1"], "twice"),
        ("Mul", ["twice", "half"], "features"),
        ("MatMul", ["features", "w"], "product"),
        ("Add", ["product", "b"], "sum"),
        ("Identity", ["sum"], "same"),
        (last, ["same"], "y"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = build.make_graph(
        [build.make_node(operator, inputs, [output]) for operator, inputs, output in steps],
        "lines",
        [build.make_tensor_value_info("x", kind, ["N", "T", 5])],
        [build.make_tensor_value_info("y", kind, ["N", "T", 6])],
        [onnx.numpy_helper.from_array(array, name) for name, array in numbers.items()],
    )
    model = build.make_model(graph, opset_imports=[build.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = CHARACTERS, "a\nb\nc\n7"
    return model


def test_the_last_layer_is_cut_off_and_gelu_is_one_node() -> None:
    model = network()
    x = np.random.default_rng(4).normal(size=(1, 200, 5)).astype(np.float32) * 2
    (whole,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    body, content = cut_head(model)
    fused = with_gelu(body)
    assert [node.op_type for node in fused.graph.node] == ["Relu", "Gelu"]
    assert next(one.version for one in fused.opset_import if not one.domain) == OPSET
    assert not fused.graph.initializer
    (features,) = onnxruntime.InferenceSession(fused.SerializeToString()).run(None, {"x": x})

    found = read_head(content).characters(features[0])

    best = whole[0].argmax(axis=1)
    begins = [at for at in range(200) if best[at] and (at == 0 or best[at] != best[at - 1])]
    agree = {at for _, at, _ in found} & set(begins)
    assert len(agree) > 0.95 * len(begins) > 40  # 8 bits a weight
    np.testing.assert_allclose(
        [score for _, at, score in found if at in agree],
        [whole[0, at, best[at]] for at in begins if at in agree],
        atol=0.05,
    )


def test_other_networks() -> None:
    with pytest.raises(UnsupportedModelError, match="text recognition"):
        cut_head(network(last="Sigmoid"))
    assert "Erf" in {node.op_type for node in with_gelu(network(half=0.6)).graph.node}


def test_the_shipped_bundles_are_those_networks_in_int8() -> None:
    for name, entry in NETWORKS.items():
        bundle = open_bundle(zoo.path(name))
        (variant,) = bundle.manifest.variants
        if variant != INT8:
            assert bundle.file(variant.file).read_bytes() == network_file(entry.role).read_bytes()
            continue
        made = onnx.load(bundle.file(variant.file))
        makers = {name: node.op_type for node in made.graph.node for name in node.output}
        convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
        assert "Erf" not in makers.values()
        quantized = [node.name for node in convolutions if makers.get(node.input[1]) == "DequantizeLinear"]
        assert 25 < len(quantized) < len(convolutions) - FLOAT_FIRST - FLOAT_LAST
    body, head = cut_head(onnx.load(network_file("rec")))
    assert [one.name for one in body.graph.input] == [one.name for one in bundle.manifest.inputs]
    assert bundle.file(HEAD_FILE).read_bytes() == head
