"""The last operators of graphs that the ``onnx`` package writes, read without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.backends.ort.graph_tails import read_tails


def graph(*, kernel: int = 3, decoded: bool = True) -> bytes:
    """Returns an image, a convolution, a sigmoid, another convolution, and an exponent or nothing behind it."""
    sizes = {"kernel_shape": [kernel] * 2, "strides": [kernel] * 2}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], **sizes),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Exp", ["c"], ["d"]),
        helper.make_node("Concat", ["d" if decoded else "c", "c"], ["out"], axis=1),
        helper.make_node("Flatten", ["b"], ["flat"]),
    ]
    weights = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("w", (2, 3, kernel, kernel)), ("v", (2, 2, 1, 1)))
    ]
    value = helper.make_tensor_value_info
    outputs = [value("out", TensorProto.FLOAT, [1, 4, None, None]), value("flat", TensorProto.FLOAT, [1, None])]
    built = helper.make_graph(nodes, "g", [value("image", TensorProto.FLOAT, [1, 3, 64, 64])], outputs, weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def test_a_tail_ends_at_the_layers_before_the_output() -> None:
    found = read_tails(graph())
    assert found.tails == {"out": {"Concat", "Exp"}, "flat": {"Flatten", "Sigmoid"}}
    assert read_tails(graph(decoded=False)).tails["out"] == {"Concat"}


def test_the_arithmetic_of_a_shape_makes_no_value_of_the_output() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Mul", ["shape", "factors"], ["new"]),
        helper.make_node("Reshape", ["a", "new"], ["out"]),
    ]
    weights = [
        numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.ones(4, np.int64), "factors"),
    ]
    value = helper.make_tensor_value_info
    ends = value("image", TensorProto.FLOAT, [1, 3, 8, 8]), value("out", TensorProto.FLOAT, [1, 2, 8, 8])
    built = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], weights)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    assert read_tails(model.SerializeToString()).tails["out"] == {"Reshape"}


@pytest.mark.parametrize(("kernel", "patch"), [(3, 0), (16, 16)])
def test_a_kernel_as_wide_as_its_stride_cuts_patches(kernel: int, patch: int) -> None:
    assert read_tails(graph(kernel=kernel)).patch_size == patch


def test_the_facts_of_a_file_have_its_tails(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(graph(kernel=16))
    facts = read_onnx(tmp_path / "m.onnx")
    assert facts.tails["out"] == {"Concat", "Exp"}
    assert facts.patch_size == 16


@pytest.mark.parametrize("missing", [1, 9, 100])
def test_a_file_that_is_cut_off_is_refused(missing: int) -> None:
    with pytest.raises(ValueError, match="cut off"):
        read_tails(graph()[:-missing])
