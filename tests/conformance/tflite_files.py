"""The suite's networks as ``.tflite``, written with the schema that LiteRT brings.

Schema: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from __future__ import annotations

import warnings
from typing import Any

import flatbuffers
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ai_edge_litert.schema_py_generated as schema

from lineside_runtime.conformance.networks import (
    CHANNELS,
    FACTOR,
    FIRST_BIAS,
    FIRST_WEIGHT,
    SECOND_BIAS,
    SECOND_WEIGHT,
    SIDE,
    ConformanceNetwork,
)
from tests.conformance.quantities import FIRST_SCALE, IMAGE_SCALE, SECOND_SCALE, quantized

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}
ZERO = -128  # of signed activations that are never negative


class Writer:
    """A graph under construction; tensors are numbered in the order in which they are added."""

    def __init__(self, *, free: bool = True) -> None:
        self.free = free  # whether any batch may be run
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]  # the first one is empty by convention
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.named: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        *,
        data: Any = None,
        scale: Any = None,
        zero: int = 0,
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.hasRank = name, list(shape), TYPES[dtype], True
        made.buffer = 0
        if data is None:
            made.shapeSignature = [-1, *shape[1:]] if self.free else None
        else:
            made.buffer = len(self.buffers)
            self.buffers.append(schema.BufferT())
            self.buffers[-1].data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.full(len(scales), zero, np.int64)
        self.tensors.append(made)
        self.named[name] = len(self.tensors) - 1
        return self.named[name]

    def constant(self, name: str, array: Any, **more: Any) -> int:
        return self.tensor(name, array.shape, array.dtype.name, data=array, **more)

    def operator(self, kind: str, inputs: list[int], output: int, options: Any = None, *, version: int = 1) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = code.builtinCode
        code.version = version
        self.codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.codes) - 1, inputs, [output]
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(made)
        return output

    def finish(self, inputs: list[str], outputs: list[str]) -> bytes:
        part = schema.SubGraphT()
        part.tensors, part.operators, part.name = self.tensors, self.operators, "main"
        part.inputs, part.outputs = [self.named[name] for name in inputs], [self.named[name] for name in outputs]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = self._maps(inputs), self._maps(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.operatorCodes = 3, [part], self.codes
        model.buffers, model.signatureDefs, model.description = self.buffers, [signature], "lineside conformance"
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _maps(self, names: list[str]) -> list[Any]:
        maps = []
        for name in names:
            maps.append(schema.TensorMapT())
            maps[-1].name, maps[-1].tensorIndex = name, self.named[name]
        return maps


def build(network: ConformanceNetwork) -> bytes:
    return {
        "scale": _scale,
        "fixed": lambda: _scale(free=False),
        "pair": _pair,
        "conv": _conv,
        "conv_int8": _conv_int8,
    }[network.name]()


def _scale(*, free: bool = True) -> bytes:
    writer = Writer(free=free)
    inputs = [writer.tensor("x", (1, 4)), writer.constant("factor", np.array([FACTOR], np.float32))]
    writer.operator("MUL", inputs, writer.tensor("y", (1, 4)), schema.MulOptionsT())
    return writer.finish(["x"], ["y"])


def _pair() -> bytes:
    writer = Writer()
    inputs = [writer.tensor("a", (1, 4)), writer.tensor("b", (1, 4))]
    writer.operator("ADD", inputs, writer.tensor("sum", (1, 4)), schema.AddOptionsT())
    writer.operator("SUB", inputs, writer.tensor("difference", (1, 4)), schema.SubOptionsT())
    return writer.finish(["a", "b"], ["sum", "difference"])


def _conv() -> bytes:
    writer = Writer()
    image = writer.tensor("image", (1, 1, SIDE, SIDE))
    moved = _move(writer, image, [0, 2, 3, 1], "image_nhwc", (1, SIDE, SIDE, 1), {})
    shape = (1, SIDE, SIDE, CHANNELS)
    for stage, weight, bias in (("1", FIRST_WEIGHT, FIRST_BIAS), ("2", SECOND_WEIGHT, SECOND_BIAS)):
        constants = [
            writer.constant(f"w{stage}", np.ascontiguousarray(weight.transpose(0, 2, 3, 1))),
            writer.constant(f"b{stage}", bias),
        ]
        moved = writer.operator("CONV_2D", [moved, *constants], writer.tensor(f"r{stage}", shape), _options())
    _move(writer, moved, [0, 3, 1, 2], "map", (1, CHANNELS, SIDE, SIDE), {})
    return writer.finish(["image"], ["map"])


def _conv_int8() -> bytes:
    """Inputs and outputs are integers too: what a compiler for an NPU wants."""
    writer = Writer()
    facts: dict[str, Any] = {"dtype": "int8", "scale": IMAGE_SCALE, "zero": ZERO}
    image = writer.tensor("image", (1, 1, SIDE, SIDE), **facts)
    moved = _move(writer, image, [0, 2, 3, 1], "image_nhwc", (1, SIDE, SIDE, 1), facts)
    for stage, weight, bias, scale in (
        ("1", FIRST_WEIGHT, FIRST_BIAS, FIRST_SCALE),
        ("2", SECOND_WEIGHT, SECOND_BIAS, SECOND_SCALE),
    ):
        integers, scales = quantized(weight)
        steps = scales * np.float32(facts["scale"])
        kernel = writer.constant(f"w{stage}", np.ascontiguousarray(integers.transpose(0, 2, 3, 1)), scale=scales)
        offset = writer.constant(f"b{stage}", np.rint(bias / steps).astype(np.int32), scale=steps)
        facts = facts | {"scale": scale}
        after = writer.tensor(f"r{stage}", (1, SIDE, SIDE, CHANNELS), **facts)
        moved = writer.operator("CONV_2D", [moved, kernel, offset], after, _options(), version=3)
    _move(writer, moved, [0, 3, 1, 2], "map", (1, CHANNELS, SIDE, SIDE), facts)
    return writer.finish(["image"], ["map"])


def _move(
    writer: Writer, tensor: int, order: list[int], name: str, shape: tuple[int, ...], facts: dict[str, Any]
) -> int:
    axes = writer.constant(f"{name}_axes", np.array(order, np.int32))
    after = writer.tensor(name, shape, **facts)
    return writer.operator("TRANSPOSE", [tensor, axes], after, schema.TransposeOptionsT(), version=2)


def _options() -> Any:
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options
