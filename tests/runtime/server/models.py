"""Bundles for the server's tests, made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lineside_runtime.bundle import Bundle
from lineside_runtime.tensors import DType, TensorSpec
from tests.runtime.onnx_models import FLOAT, INT64, graph, make_bundle

_ONNX: dict[DType, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "float64": TensorProto.DOUBLE,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
}
DTYPES = tuple(_ONNX)
SIDE = 256


def echo(folder: Path) -> Bundle:
    """One input and one output (N, 3) of every type: ``in_uint8`` comes back as ``out_uint8``."""
    nodes = [helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]) for dtype in DTYPES]
    model = graph(
        nodes,
        [(f"in_{dtype}", _ONNX[dtype], ["n", 3]) for dtype in DTYPES],
        [(f"out_{dtype}", _ONNX[dtype], ["n", 3]) for dtype in DTYPES],
    )
    specs = tuple(tuple(TensorSpec(name=f"{way}_{d}", shape=(-1, 3), dtype=d) for d in DTYPES) for way in ("in", "out"))
    return make_bundle(folder, model, (specs[0], specs[1]), name="echo", version="3")


def busy(folder: Path) -> Bundle:
    """Multiplies matrices ``n`` times, 0.15 ms each on a fast core, and gives ``n`` back as a float."""
    identity = numpy_helper.from_array(np.eye(SIDE, dtype=np.float32), "identity")
    start = numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "start")
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "identity"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("state", FLOAT, [SIDE, SIDE])],
        [value("on", TensorProto.BOOL, []), value("next", FLOAT, [SIDE, SIDE])],
    )
    nodes = [
        helper.make_node("Constant", [], ["identity"], value=identity),
        helper.make_node("Constant", [], ["start"], value=start),
        helper.make_node("Squeeze", ["n"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "start"], ["end"], body=body),
        helper.make_node("ReduceMean", ["end"], ["one"], keepdims=0),
        helper.make_node("Cast", ["n"], ["count"], to=FLOAT),
        helper.make_node("Mul", ["count", "one"], ["y"]),
    ]
    model = graph(nodes, [("n", INT64, [1])], [("y", FLOAT, [1])])
    specs = ((TensorSpec(name="n", shape=(1,), dtype="int64"),), (TensorSpec(name="y", shape=(1,)),))
    return make_bundle(folder, model, specs, name="busy")


def large(folder: Path) -> Bundle:
    """Gives ``count`` ones back: a small request with a large answer."""
    one = helper.make_tensor("one", FLOAT, [1], [1.0])
    node = helper.make_node("ConstantOfShape", ["count"], ["y"], value=one)
    model = graph([node], [("count", INT64, [1])], [("y", FLOAT, ["n"])])
    specs = ((TensorSpec(name="count", shape=(1,), dtype="int64"),), (TensorSpec(name="y", shape=(-1,)),))
    return make_bundle(folder, model, specs, name="large")
