"""The last layer of the recognition network, apart from it: same probabilities, and an error for another network."""

import numpy as np
import onnx
import onnx.helper as build
import onnxruntime
import pytest

from lineside_models.nlp.ocr.character_head import cut_head
from lineside_runtime.errors import UnsupportedModelError

CHARACTERS = "a\nb\n中\n7"


def network(last: str = "Softmax") -> bytes:
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=(5, 6)).astype(np.float32), "b": rng.normal(size=6).astype(np.float32)}
    nodes = [
        build.make_node("Relu", ["x"], ["features"]),
        build.make_node("MatMul", ["features", "w"], ["product"]),
        build.make_node("Add", ["product", "b"], ["sum"]),
        build.make_node("Identity", ["sum"], ["same"]),
        build.make_node(last, ["same"], ["y"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = build.make_graph(
        nodes,
        "lines",
        [build.make_tensor_value_info("x", kind, ["N", "T", 5])],
        [build.make_tensor_value_info("y", kind, ["N", "T", 6])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = build.make_model(graph, opset_imports=[build.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "character", CHARACTERS
    return bytes(model.SerializeToString())


def test_characters_and_probabilities_are_those_of_the_whole_network() -> None:
    model = network()
    body, head = cut_head(model)
    places = 200
    x = np.random.default_rng(4).normal(size=(1, places, 5)).astype(np.float32) * 2
    (whole,) = onnxruntime.InferenceSession(model).run(None, {"x": x})
    (features,) = onnxruntime.InferenceSession(body).run(None, {"x": x})

    found = head.characters(features[0])

    names = ["", "a", "b", "中", "7", " "]
    read = whole[0].copy()
    read[:, 3] = 0  # not of a script that is read, but it counts in the others' probabilities
    best = read.argmax(axis=1)
    wanted = [at for at in range(places) if best[at] and (at == 0 or best[at] != best[at - 1])]
    assert [(name, at) for name, at, _ in found] == [(names[best[at]], at) for at in wanted]
    np.testing.assert_allclose([score for *_, score in found], [whole[0, at, best[at]] for at in wanted], atol=1e-6)
    assert len(wanted) > 40
    assert head.characters(features[0][:0]) == []


def test_another_network_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="text recognition"):
        cut_head(network(last="Sigmoid"))
    with pytest.raises(ValueError):
        cut_head(b"\x3a\xff\x01no model")
