"""Write a ``.tflite`` file: tensors, operators, and one signature.

By the schema that LiteRT brings: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lineside_runtime.tensors import Array

MAGIC = b"TFL3"
SCHEMA_VERSION = 3
SMALL_CODES_MAX = 127
"""Operators above it stand in a field of their own; the old field then holds this number."""

OPERATOR_VERSIONS = {
    "ADD": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 2,
    "PAD": 2,
    "TRANSPOSE": 2,
}
"""The first ones that take signed bytes; 1 for what isn't named."""

TYPES: dict[Any, int] = {
    np.float32: schema.TensorType.FLOAT32,
    np.int8: schema.TensorType.INT8,
    np.int32: schema.TensorType.INT32,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Quantization:
    """What a tensor's integers mean: one scale, or one for each index of an axis, then with a zero point of 0."""

    scales: tuple[float, ...]
    zero: int = 0
    axis: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class TfliteTensor:
    """A tensor of the file.

    Attributes:
        index: Its number in the file.
        quantization: ``None`` for floats.
    """

    index: int
    shape: tuple[int, ...]
    quantization: Quantization | None = None


class TfliteWriter:
    """Collects the tensors and operators of one graph."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._graph.name = "main"
        self._buffers = [schema.BufferT()]  # the first one is that of tensors without a content
        self._codes: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any,
        *,
        quantization: Quantization | None = None,
        free: Sequence[int] = (),
    ) -> TfliteTensor:
        """Adds a tensor that is computed, or given by the caller.

        Args:
            free: Its shape with -1 for sizes that the caller may change; empty if there are none.
        """
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), TYPES[dtype], 0
        made.shapeSignature = list(free) or None
        if quantization is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = list(quantization.scales)
            made.quantization.zeroPoint = [quantization.zero] * len(quantization.scales)
            made.quantization.quantizedDimension = quantization.axis
        self._graph.tensors.append(made)
        return TfliteTensor(len(self._graph.tensors) - 1, tuple(shape), quantization)

    def constant(self, name: str, content: Array, *, quantization: Quantization | None = None) -> TfliteTensor:
        """Adds a tensor with its content."""
        made = self.tensor(name, content.shape, content.dtype.type, quantization=quantization)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
        self._buffers.append(buffer)
        self._graph.tensors[made.index].buffer = len(self._buffers) - 1
        return made

    def operator(self, kind: str, inputs: Sequence[TfliteTensor], output: TfliteTensor, **options: Any) -> None:
        """Adds an operator.

        Args:
            kind: As in the schema, such as ``CONV_2D``.
            options: Fields of its options; the table's name follows from the kind.
        """
        made = schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(kind, len(self._codes))
        made.inputs, made.outputs = [each.index for each in inputs], [output.index]
        name = _OPTIONS[kind]
        made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        made.builtinOptions = getattr(schema, f"{name}T")()
        for field, value in options.items():
            setattr(made.builtinOptions, field, value)
        self._graph.operators.append(made)

    def transposed(self, source: TfliteTensor, order: Sequence[int]) -> TfliteTensor:
        """Returns a tensor with its dimensions in another order."""
        name = self.name_of(source)
        target = self.like(f"{name}_transposed", source, shape=[source.shape[axis] for axis in order])
        self.operator("TRANSPOSE", [source, self.constant(f"{name}_order", np.array(order, np.int32))], target)
        return target

    def like(self, name: str, source: TfliteTensor, *, shape: Sequence[int] | None = None) -> TfliteTensor:
        """Adds a tensor of a source's type and scale, and its shape unless another is given."""
        dtype = np.float32 if source.quantization is None else np.int8
        return self.tensor(name, shape or source.shape, dtype, quantization=source.quantization)

    def as_float(self, source: TfliteTensor, name: str = "") -> TfliteTensor:
        """Returns a tensor's floats."""
        if source.quantization is None:
            return source
        target = self.tensor(name or f"{self.name_of(source)}_float", source.shape, np.float32)
        self.operator("DEQUANTIZE", [source], target)
        return target

    def name_of(self, tensor: TfliteTensor) -> str:
        """Returns a tensor's name."""
        return str(self._graph.tensors[tensor.index].name)

    def finished(
        self, signature: str, inputs: Sequence[tuple[str, TfliteTensor]], outputs: Sequence[tuple[str, TfliteTensor]]
    ) -> bytes:
        """Returns the file's content.

        Args:
            inputs: Each with its name in the signature.
            outputs: As the inputs.
        """
        self._graph.inputs = [tensor.index for _, tensor in inputs]
        self._graph.outputs = [tensor.index for _, tensor in outputs]
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, "lineside"
        model.subgraphs, model.buffers = [self._graph], self._buffers
        model.operatorCodes = [_code(kind) for kind in self._codes]
        entry = schema.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = signature, 0
        entry.inputs, entry.outputs = [_named(*each) for each in inputs], [_named(*each) for each in outputs]
        model.signatureDefs = [entry]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=MAGIC)
        return bytes(builder.Output())


_OPTIONS = {
    "ADD": "AddOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "TRANSPOSE": "TransposeOptions",
}


def _code(kind: str) -> Any:
    made = schema.OperatorCodeT()
    made.builtinCode = getattr(schema.BuiltinOperator, kind)
    made.deprecatedBuiltinCode = min(made.builtinCode, SMALL_CODES_MAX)
    made.version = OPERATOR_VERSIONS.get(kind, 1)
    return made


def _named(name: str, tensor: TfliteTensor) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, tensor.index
    return made
