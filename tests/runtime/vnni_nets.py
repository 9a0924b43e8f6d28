"""One convolution in the QDQ form whose sums are as large as they get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_runtime.system.vnni import WEIGHT_BITS_KEY

CHANNELS, FILTERS = 64, 16


def write_largest_sums(path: Path, bits: int) -> npt.NDArray[np.float32]:
    """Writes it, and returns what every filter gives in the middle of a picture of 255.

    Args:
        path: Of the ONNX file.
        bits: Of its weights.
    """
    largest = 2 ** (bits - 1) - 1
    signs = np.where(np.arange(FILTERS) % 2, -1, 1)
    weights = (signs[:, None, None, None] * largest * np.ones((FILTERS, CHANNELS, 3, 3))).astype(np.int8)
    top = float(255 * largest * CHANNELS * 9)
    scale = 2 * top / 255
    constants = {
        "w": weights,
        "one": np.array(1, np.float32),
        "u0": np.array(0, np.uint8),
        "i0": np.array(0, np.int8),
        "scale": np.array(scale, np.float32),
        "u128": np.array(128, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "u0"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "u0"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "one", "i0"], ["wf"]),
        helper.make_node("Conv", ["xf", "wf"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "scale", "u128"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "scale", "u128"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, FILTERS, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if bits == 7:
        model.metadata_props.add(key=WEIGHT_BITS_KEY, value="7")
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return (signs * top).astype(np.float32)


def write_shared_weights(path: Path, shared: str, *, bits: int = 8) -> None:
    """Writes two convolutions that share their weights, their zero points, or nothing.

    Args:
        shared: ``weights``, ``zero points`` or ``nothing``; the answers are the same.
        bits: Of the weights.
    """
    rng = np.random.default_rng(0)
    weights = rng.integers(1 - 2 ** (bits - 1), 2 ** (bits - 1), (8, 8, 3, 3)).astype(np.int8)
    constants = {
        "one": np.array(1, np.float32),
        "u0": np.array(0, np.uint8),
        "scales": np.full(8, 1e-3, np.float32),
        **{f"w{number}": weights for number in range(2)},
        **{f"z{number}": np.zeros(8, np.int8) for number in range(2)},
    }
    names = [("w0", "z0"), {"weights": ("w0", "z0"), "zero points": ("w1", "z0"), "nothing": ("w1", "z1")}[shared]]
    nodes, value = [], "x"
    for number, (weight, zero) in enumerate(names):
        nodes += [
            helper.make_node("QuantizeLinear", [value, "one", "u0"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "one", "u0"], [f"d{number}"]),
            helper.make_node("DequantizeLinear", [weight, "scales", zero], [f"f{number}"], axis=0),
            helper.make_node("Conv", [f"d{number}", f"f{number}"], [f"c{number}"], pads=[1, 1, 1, 1]),
        ]
        value = f"c{number}"
    nodes += [
        helper.make_node("QuantizeLinear", [value, "one", "u0"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "u0"], ["y"]),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if bits == 7:
        model.metadata_props.add(key=WEIGHT_BITS_KEY, value="7")
    onnx.checker.check_model(model)
    onnx.save(model, path)
