"""Biases are corrected until an INT8 graph has the float graph's means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.levels import Activation
from lineside_converters.quantization.bias_correction import _means, correct_biases
from lineside_converters.quantization.static import quantize
from lineside_runtime.errors import CalibrationError, GraphError

SIDE, DEPTH = 12, 4


def network(folder: Path, *, biases: bool = True) -> Path:
    """Writes a few convolutions whose weights round badly: one in each channel is twenty times the others."""
    rng = np.random.default_rng(11)
    nodes, at, width = [], "image", 3
    weights: dict[str, np.ndarray] = {}
    for number in range(DEPTH):
        values = rng.uniform(0, 0.05, (8, width, 3, 3))
        values[:, 0, 0, 0] = 1.0
        weights |= {f"w{number}": values, f"b{number}": rng.normal(0, 0.5, 8)}
        inputs = [at, f"w{number}", *([f"b{number}"] if biases else [])]
        nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], name=f"conv{number}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        at, width = f"r{number}", 8
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [value(at, TensorProto.FLOAT, [1, 8, SIDE, SIDE])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    clean_graph(folder / "net.onnx", folder / "clean.onnx")
    return folder / "clean.onnx"


def feeds(seed: int, count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.uniform(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def mean_error(clean: Path, made: Path, inputs: list[dict[str, np.ndarray]]) -> float:
    """Returns how far the means of the output's channels lie apart, on other inputs than were corrected on."""
    one, two = (ort.InferenceSession(path) for path in (clean, made))
    pairs = [(one.run(None, feed)[0], two.run(None, feed)[0]) for feed in inputs]
    wanted, found = (np.mean([pair[k].mean((0, 2, 3)) for pair in pairs], axis=0) for k in (0, 1))
    return float(np.abs(wanted - found).mean() / np.abs(wanted).mean())


@pytest.mark.parametrize("activation", ["u8s8", "u8s7", "s8s8"])
def test_means_come_back_on_inputs_that_were_not_corrected_on(tmp_path: Path, activation: Activation) -> None:
    clean, plain, corrected = network(tmp_path), tmp_path / "plain.onnx", tmp_path / "corrected.onnx"
    quantize(clean, plain, feeds=feeds(1), activation=activation)
    assert correct_biases(clean, plain, corrected, feeds=feeds(1)) == DEPTH
    assert mean_error(clean, corrected, feeds(2, 40)) < 0.4 * mean_error(clean, plain, feeds(2, 40))
    one, two = onnx.load(plain), onnx.load(corrected)
    changed = [
        a.name
        for a, b in zip(one.graph.initializer, two.graph.initializer, strict=True)
        if a.SerializeToString() != b.SerializeToString()
    ]
    kinds = {entry.name: entry.data_type for entry in two.graph.initializer}
    assert changed and {kinds[name] for name in changed} == {TensorProto.INT32}  # the biases, and nothing else
    assert one.graph.node == two.graph.node and one.metadata_props == two.metadata_props


def test_the_same_inputs_give_the_same_file_and_without_biases_or_fitting_inputs_there_is_none(tmp_path: Path) -> None:
    clean, plain = network(tmp_path), tmp_path / "plain.onnx"
    quantize(clean, plain, feeds=feeds(1))
    for name in ("a", "b"):
        correct_biases(clean, plain, tmp_path / f"{name}.onnx", feeds=feeds(1))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    wrong = [{"image": np.zeros((1, 3, SIDE + 1, SIDE), np.float32)}]
    with pytest.raises(CalibrationError):
        correct_biases(clean, plain, tmp_path / "corrected.onnx", feeds=wrong)
    clean = network(tmp_path, biases=False)
    quantize(clean, plain, feeds=feeds(1))
    with pytest.raises(GraphError, match="bias"):
        correct_biases(clean, plain, tmp_path / "corrected.onnx", feeds=feeds(1))
    assert not (tmp_path / "corrected.onnx").exists()


def test_a_branch_of_an_if_has_what_it_takes_from_outside() -> None:
    def branch(name: str, factor: float) -> onnx.GraphProto:
        by = helper.make_node("Constant", [], [f"by_{name}"], value_float=factor)
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([by, helper.make_node("Mul", ["inner", f"by_{name}"], [name])], name, [], [out])

    nodes = [
        helper.make_node("Relu", ["x"], ["inner"]),  # read by the branches alone
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch("twice", 2.0), else_branch=branch("once", 1.0)),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[opset], ir_version=9)
    found = _means(model, ["y"], [{"x": np.array([[1.0, -1.0, 3.0]], np.float32)}])
    assert found["y"].tolist() == [2.0, 0.0, 6.0]
