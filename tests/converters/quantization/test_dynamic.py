"""Counting multiplications, choosing dynamic INT8 by them, and what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.macs import count_macs
from lineside_converters.optimizer import Optimizer
from lineside_converters.quantization.dynamic import is_dominated, matrix_share, quantize_products
from lineside_runtime.errors import CalibrationError, GraphError
from tests.converters import nets
from tests.runtime.onnx_models import exact_session

WIDTH, WORDS = 64, 500


def _weights(rng: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32), name)


def encoder(*, seed: int = 0) -> bytes:
    """Words in, one vector out: a table, attention's product of activations, an LSTM, a Gemm; lengths are free."""
    rng = np.random.default_rng(seed)
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "words"], ["x"], name="look_up"),
        node("MatMul", ["x", "first"], ["h"], name="first_layer"),
        node("Transpose", ["h"], ["ht"], name="turn", perm=[0, 2, 1]),
        node("MatMul", ["h", "ht"], ["scores"], name="attention"),
        node("Softmax", ["scores"], ["shares"], name="shares"),
        node("MatMul", ["shares", "h"], ["mixed"], name="mix"),
        node("Transpose", ["mixed"], ["steps"], name="by_step", perm=[1, 0, 2]),
        node("LSTM", ["steps", "lw", "lr"], ["", "last"], name="memory", hidden_size=WIDTH),
        node("Squeeze", ["last", "zero"], ["flat"], name="flat"),
        node("Gemm", ["flat", "out_w"], ["vector"], name="head", transB=1),
    ]
    weights = [
        _weights(rng, "table", WORDS, WIDTH),
        _weights(rng, "first", WIDTH, WIDTH),
        numpy_helper.from_array(rng.normal(0, 0.1, (1, 4 * WIDTH, WIDTH)).astype(np.float32), "lw"),
        numpy_helper.from_array(rng.normal(0, 0.1, (1, 4 * WIDTH, WIDTH)).astype(np.float32), "lr"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        _weights(rng, "out_w", 32, WIDTH),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "encoder",
        [value("words", TensorProto.INT64, ["n", "length"])],
        [value("vector", TensorProto.FLOAT, ["n", 32])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "model.onnx").write_bytes(encoder())
    clean_graph(folder / "model.onnx", folder / "clean.onnx")
    return folder / "clean.onnx"


def _words(length: int = 20, seed: int = 1) -> dict[str, np.ndarray]:
    return {"words": np.random.default_rng(seed).integers(0, WORDS, (2, length))}


def _vector(model: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    return exact_session(model).run(None, feed)[0]


def test_multiplications_are_those_of_the_textbook(clean: Path) -> None:
    counted = {node.name: node for node in count_macs(onnx.load(clean), _words(20))}
    assert {name: node.macs for name, node in counted.items()} == {
        "first_layer": 2 * 20 * WIDTH * WIDTH,
        "attention": 2 * 20 * 20 * WIDTH,
        "mix": 2 * 20 * 20 * WIDTH,
        "memory": 2 * 20 * 4 * WIDTH * (WIDTH + WIDTH),
        "head": 2 * 32 * WIDTH,
    }
    assert {name for name, node in counted.items() if not node.weights} == {"attention", "mix"}


def test_multiplications_of_convolutions_are_those_of_the_textbook(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="grouped", strides=[2, 2], group=2, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "t"], ["y"], name="up", strides=[2, 2]),
    ]
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "convs",
        [value("image", TensorProto.FLOAT, [1, 4, "h", "w"])],
        [value("y", TensorProto.FLOAT, None)],
        [_weights(rng, "w", 8, 2, 3, 3), _weights(rng, "t", 8, 5, 2, 2)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    counted = {node.name: node.macs for node in count_macs(model, {"image": np.zeros((1, 4, 16, 16), np.float32)})}
    assert counted == {"grouped": 8 * 8 * 8 * 2 * 9, "up": 8 * 8 * 8 * 5 * 4}


def test_a_text_encoder_is_one_of_matrix_products_and_a_convolutional_net_is_not(clean: Path, tmp_path: Path) -> None:
    assert is_dominated(count_macs(onnx.load(clean), _words()))
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    counted = count_macs(onnx.load(tmp_path / "clean.onnx"), {"image": np.zeros((1, 1, 96, 96), np.float32)})
    assert matrix_share(counted) == 0


def test_dynamic_int8_answers_as_the_float_model_and_is_a_third_of_its_size(clean: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    quantize_products(clean, target)
    assert target.stat().st_size < 0.34 * clean.stat().st_size
    for length in (3, 20, 50):
        wanted, found = (_vector(model, _words(length)).ravel() for model in (clean, target))
        cosine = wanted @ found / np.linalg.norm(wanted) / np.linalg.norm(found)
        assert 0.99 < cosine < 1 - 1e-7
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLSTM"} <= kinds


def test_a_named_layer_stays_in_float_and_equal_models_give_equal_files(clean: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize_products(clean, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    quantize_products(clean, tmp_path / "some.onnx", exclude=["first_layer", "memory"])
    some = onnx.load(tmp_path / "some.onnx").graph
    kinds = [node.op_type for node in some.node]
    assert "LSTM" in kinds and kinds.count("MatMulInteger") == 1
    assert "first" in {tensor.name for tensor in some.initializer}
    with pytest.raises(GraphError, match="quantised already"):
        quantize_products(tmp_path / "one", tmp_path / "twice.onnx")


def test_a_model_without_matrix_products_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(nets.convnet())
    clean_graph(tmp_path / "net.onnx", tmp_path / "clean.onnx")
    with pytest.raises(GraphError, match="no node") as caught:
        quantize_products(tmp_path / "clean.onnx", tmp_path / "int8.onnx")
    assert "MatMul" in str(caught.value.expected)


def test_an_input_that_the_model_does_not_take_is_said(clean: Path) -> None:
    with pytest.raises(CalibrationError, match="does not run"):
        count_macs(onnx.load(clean), {"words": np.zeros((2, 2, 2), np.int64)})
    with pytest.raises(CalibrationError, match="does not run"):
        count_macs(onnx.load(clean), {})


def test_an_old_opset_is_raised_to_one_with_scales_by_channel_and_answers_as_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="layer"),
        helper.make_node("ReduceSum", ["a"], ["y"], axes=[1], keepdims=1, name="sum"),  # an input from 13 on
    ]
    shape = [value("x", TensorProto.FLOAT, ["n", WIDTH])], [value("y", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "old", *shape, [_weights(rng, "w", WIDTH, WIDTH)])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    old.metadata_props.add(key="author", value="somebody")
    (tmp_path / "old.onnx").write_bytes(old.SerializeToString())
    clean_graph(tmp_path / "old.onnx", tmp_path / "clean.onnx")
    made = onnx.load(tmp_path / "clean.onnx")
    assert next(one.version for one in made.opset_import if one.domain == "") == 13
    assert [one.value for one in made.metadata_props if one.key == "author"] == ["somebody"]
    feed = {"x": rng.normal(size=(3, WIDTH)).astype(np.float32)}
    assert np.allclose(_vector(tmp_path / "old.onnx", feed), _vector(tmp_path / "clean.onnx", feed), atol=1e-5)


def test_a_product_that_int8_spoils_stays_in_float(tmp_path: Path) -> None:
    """The first layer takes a value 10,000 times as large as the others, whose range leaves them one step."""
    rng = np.random.default_rng(3)
    first = rng.normal(0, 1, (WIDTH, WIDTH)).astype(np.float32)
    first[0] = 1e-6
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("MatMul", ["x", "first"], ["h"], name="spoilt"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "second"], ["out"], name="sound"),
    ]
    weights = [numpy_helper.from_array(first, "first"), _weights(rng, "second", WIDTH, 2 * WIDTH)]
    graph = helper.make_graph(
        nodes,
        "outlier",
        [value("x", TensorProto.FLOAT, ["n", WIDTH])],
        [value("out", TensorProto.FLOAT, ["n", 2 * WIDTH])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "outlier.onnx")
    inputs = rng.normal(0, 1, (8, 4, WIDTH)).astype(np.float32)
    inputs[:, :, 0] = 1e4
    told: list[str] = []
    options = {"frames": list(inputs), "out": tmp_path / "bundle", "min_speedup": 1.0}
    result = Optimizer(tmp_path / "outlier.onnx", "rpi5", 1, on_progress=told.append, **options).run()  # type: ignore[arg-type]
    assert any(line.startswith("1 layers in float") for line in told)
    assert {one.name for one in result.report.layers if one.precision != "int8"} >= {"spoilt"}
