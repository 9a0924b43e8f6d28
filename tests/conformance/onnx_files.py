"""The suite's networks as ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lineside_runtime.conformance.networks import (
    FACTOR,
    FIRST_BIAS,
    FIRST_WEIGHT,
    NETWORKS,
    SECOND_BIAS,
    SECOND_WEIGHT,
    ConformanceNetwork,
)
from tests.conformance.quantities import FIRST_SCALE, IMAGE_SCALE, SECOND_SCALE, quantized
from tests.runtime.onnx_models import graph, scaler


def build(network: ConformanceNetwork) -> bytes:
    return {"scale": lambda: scaler(FACTOR), "fixed": _fixed, "pair": _pair, "conv": _conv, "conv_int8": _conv_int8}[
        network.name
    ]()


def _fixed() -> bytes:
    model = onnx.load_from_string(scaler(FACTOR))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    data: bytes = model.SerializeToString()
    return data


def _pair() -> bytes:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    rows = [(name, TensorProto.FLOAT, ["n", 4]) for name in ("a", "b", "sum", "difference")]
    return graph(nodes, rows[:2], rows[2:])


def _conv() -> bytes:
    constants = {"w1": FIRST_WEIGHT, "b1": FIRST_BIAS, "w2": SECOND_WEIGHT, "b2": SECOND_BIAS}
    nodes = [
        _convolution("first", ["image", "w1", "b1"], "c1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="first_relu"),
        _convolution("second", ["r1", "w2", "b2"], "c2"),
        helper.make_node("Relu", ["c2"], ["map"], name="second_relu"),
    ]
    return _with_constants(nodes, constants)


def _conv_int8() -> bytes:
    """QDQ: unsigned activations, signed weights by channel, as the optimizer writes it."""
    constants: dict[str, Any] = {"zero": np.array(0, np.uint8)}
    nodes: list[Any] = []
    _round(nodes, constants, "image", IMAGE_SCALE)
    for stage, weight, bias, into, scale, after in (
        ("1", FIRST_WEIGHT, FIRST_BIAS, "image", IMAGE_SCALE, FIRST_SCALE),
        ("2", SECOND_WEIGHT, SECOND_BIAS, "r1", FIRST_SCALE, SECOND_SCALE),
    ):
        integers, scales = quantized(weight)
        constants |= {f"w{stage}": integers, f"ws{stage}": scales, f"wz{stage}": np.zeros(len(scales), np.int8)}
        constants[f"b{stage}"] = np.rint(bias / (scales * scale)).astype(np.int32)
        constants |= {f"bs{stage}": scales * np.float32(scale), f"bz{stage}": np.zeros(len(scales), np.int32)}
        for what in ("w", "b"):
            names = [f"{what}{stage}", f"{what}s{stage}", f"{what}z{stage}"]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"{what}{stage}_f"], axis=0))
        nodes.append(_convolution(f"conv{stage}", [f"{into}_f", f"w{stage}_f", f"b{stage}_f"], f"c{stage}"))
        nodes.append(helper.make_node("Relu", [f"c{stage}"], [f"r{stage}"]))
        _round(nodes, constants, f"r{stage}", after)
    nodes[-1].output[0] = "map"
    return _with_constants(nodes, constants)


def _round(nodes: list[Any], constants: dict[str, Any], name: str, scale: float) -> None:
    constants[f"{name}_s"] = np.array(scale, np.float32)
    nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_s", "zero"], [f"{name}_q"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_f"]))


def _convolution(name: str, inputs: list[str], output: str) -> Any:
    return helper.make_node("Conv", inputs, [output], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def _with_constants(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    conv = next(network for network in NETWORKS if network.name == "conv")
    image, out = ((spec.name, TensorProto.FLOAT, ["n", *spec.shape[1:]]) for spec in (*conv.inputs, *conv.outputs))
    model = onnx.load_from_string(graph(nodes, [image], [out]))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
