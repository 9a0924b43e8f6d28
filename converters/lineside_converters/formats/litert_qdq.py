"""LiteRT (``.tflite``) of a QDQ graph of convolutions: node by node, with the graph's own scales and weights.

The file computes what the ONNX form computes, up to rounding: nothing is calibrated or quantized again. Unsigned
activations become signed ones with a zero point 128 lower, which are the same numbers. It needs LiteRT alone; the maker
in `litert` needs torch, jax and transformers, and takes other graphs too, for one size of input.

Height and width that are free in the ONNX form stay free: no operator here holds a size. Enlarging by 2 is
``CONCATENATION`` of four copies and ``DEPTH_TO_SPACE``, because TFLite's own operator takes the size as a constant.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper

from lineside_converters.formats import ConversionRequest
from lineside_converters.formats.tflite_writer import Quantization, TfliteTensor, TfliteWriter
from lineside_runtime.errors import GraphError
from lineside_runtime.tensors import Array

SIGNATURE = "serving_default"
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
TWICE = [1.0, 1.0, 2.0, 2.0]
SIDE = 224
"""Height and width that the file names where they are free."""

_Activation = schema.ActivationFunctionType
_Padding = schema.Padding


def make(request: ConversionRequest) -> Path:
    """Writes the INT8 file.

    Raises:
        GraphError: The graph isn't quantized, or holds something else than convolutions, sums, their limits, and
            enlargement by 2.
    """
    if request.int8 is None:
        raise GraphError("only a quantized graph is translated to LiteRT node by node")
    return translate_file(request.int8, request.folder / "model.tflite")


def translate_file(source: Path, target: Path) -> Path:
    """Writes a QDQ graph as a ``.tflite`` file, and returns that.

    Raises:
        GraphError: As for `make`.
    """
    target.write_bytes(_Translation(onnx.load(source).graph).content())
    return target


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """What becomes of a node's output.

    Attributes:
        names: All names that mean it, its limit and its quantization included.
        activation: The limit, as the schema numbers it.
        quantization: ``None`` where it stays in float.
    """

    names: tuple[str, ...]
    activation: int
    quantization: Quantization | None


class _Translation:
    """One graph on its way; an activation between Q and DQ is one tensor of the file."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        self._writer = TfliteWriter()
        self._found: dict[str, TfliteTensor] = {}
        self._floats: dict[int, TfliteTensor] = {}

    def content(self) -> bytes:
        if len(self._graph.input) != 1:
            raise GraphError("LiteRT's translation takes one input", actual=len(self._graph.input))
        given = self._graph.input[0]
        sizes = [dim.dim_value or -1 for dim in given.type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[1] < 0:
            raise GraphError("LiteRT's translation takes an input of four dimensions", actual=sizes)
        shape = [size if size > 0 else usual for size, usual in zip(sizes, (1, 0, SIDE, SIDE), strict=True)]
        entry = self._writer.tensor(given.name, shape, np.float32, free=sizes if -1 in sizes else ())
        self._found[given.name] = self._writer.transposed(entry, TO_NHWC)
        for node in self._graph.node:
            if node.output[0] not in self._found:
                self._translate(node)
        outputs = [(value.name, self._output(value.name)) for value in self._graph.output]
        return self._writer.finished(SIGNATURE, [(given.name, entry)], outputs)

    def _output(self, name: str) -> TfliteTensor:
        return self._writer.as_float(self._writer.transposed(self._value(name), TO_NCHW), name)

    def _translate(self, node: onnx.NodeProto) -> None:
        if node.op_type == "DequantizeLinear":
            if node.input[0] not in self._constants:  # constants are read by who uses them
                self._found[node.output[0]] = self._value(node.input[0])
        elif node.op_type == "QuantizeLinear":
            self._found[node.output[0]] = self._quantized(self._value(node.input[0]), self._scale(node), node.output[0])
        elif node.op_type == "Conv":
            self._conv(node)
        elif node.op_type == "Add":
            self._add(node)
        elif node.op_type == "Resize":
            self._enlarge(node)
        else:
            raise GraphError(f"LiteRT's translation takes no {node.op_type} here", actual=node.name)

    def _value(self, name: str) -> TfliteTensor:
        if name not in self._found:
            raise GraphError("LiteRT's translation takes no constant here", actual=name)
        return self._found[name]

    def _float(self, source: TfliteTensor) -> TfliteTensor:
        if source.index not in self._floats:
            self._floats[source.index] = self._writer.as_float(source)
        return self._floats[source.index]

    def _quantized(self, source: TfliteTensor, wanted: Quantization, name: str) -> TfliteTensor:
        if source.quantization == wanted:
            return source
        target = self._writer.tensor(name, source.shape, np.int8, quantization=wanted)
        self._writer.operator("QUANTIZE", [source], target)
        return target

    def _scale(self, node: onnx.NodeProto) -> Quantization:
        """Returns the scale of a Q node of an activation, for signed bytes."""
        scale = self._constants[node.input[1]]
        zero = self._constants[node.input[2]] if len(node.input) > 2 else np.uint8(0)
        if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
            raise GraphError("LiteRT's translation takes activations of 8 bits with one scale", actual=node.name)
        return Quantization((float(scale),), int(zero) - (128 if zero.dtype == np.uint8 else 0))

    def _only_user(self, name: str) -> onnx.NodeProto | None:
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def _target(self, node: onnx.NodeProto) -> _Target:
        """Follows an output through its limit and Q node; the steps between a convolution and its limit are left out.

        With zero points of 0 the quantizer writes Conv, Q, DQ, Relu, Q: the sum is limited before it is rounded here.
        """
        names, activation, quantization = [node.output[0]], int(_Activation.NONE), None
        while (user := self._only_user(names[-1])) is not None:
            if user.op_type in ("Relu", "Clip") and activation == _Activation.NONE:
                activation = self._limit(user)
            elif user.op_type == "QuantizeLinear":
                quantization = self._scale(user)
            elif not (user.op_type == "DequantizeLinear" and activation == _Activation.NONE and self._is_limited(user)):
                break
            names.append(user.output[0])
        return _Target(tuple(names), activation, quantization)

    def _is_limited(self, node: onnx.NodeProto) -> bool:
        """Returns whether only a limit, with a scale of its own, uses a DQ node."""
        user = self._only_user(node.output[0])
        after = self._only_user(user.output[0]) if user is not None and user.op_type in ("Relu", "Clip") else None
        return after is not None and after.op_type == "QuantizeLinear"

    def _limit(self, node: onnx.NodeProto) -> int:
        limits = [float(self._constants[name]) for name in node.input[1:] if name in self._constants]
        if node.op_type == "Clip" and limits != [0.0, 6.0]:
            raise GraphError("LiteRT's translation takes limits of 0 and 6", actual=limits or node.name)
        return int(_Activation.RELU6 if node.op_type == "Clip" else _Activation.RELU)

    def _finish(self, made: TfliteTensor, target: _Target) -> None:
        """Notes what a node has made, under all its names."""
        if target.quantization is not None:
            made = self._quantized(made, target.quantization, target.names[-1])
        for name in target.names:
            self._found[name] = made

    def _new(self, target: _Target, shape: list[int], *, quantized: bool) -> TfliteTensor:
        if quantized and target.quantization is not None:
            return self._writer.tensor(target.names[-1], shape, np.int8, quantization=target.quantization)
        return self._writer.tensor(target.names[-1] + "_float", shape, np.float32)

    def _add(self, node: onnx.NodeProto) -> None:
        left, right = (self._value(name) for name in node.input)
        if left.shape != right.shape:
            raise GraphError("LiteRT's translation adds maps of one size", actual=[left.shape, right.shape])
        target = self._target(node)
        whole = all(each.quantization is not None for each in (left, right)) and target.quantization is not None
        inputs = [left, right] if whole else [self._float(left), self._float(right)]
        made = self._new(target, list(left.shape), quantized=whole)
        self._writer.operator("ADD", inputs, made, fusedActivationFunction=target.activation)
        self._finish(made, target)

    def _enlarge(self, node: onnx.NodeProto) -> None:
        facts = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        scales = self._constants.get(node.input[2]) if len(node.input) > 2 else None
        nearest = facts.get("mode", b"nearest") == b"nearest" and facts.get("nearest_mode") == b"floor"
        if scales is None or scales.tolist() != TWICE or not nearest:
            raise GraphError("LiteRT's translation enlarges by 2, with the nearest pixel", actual=node.name)
        source = self._value(node.input[0])
        n, h, w, c = source.shape
        copies = self._writer.like(f"{node.output[0]}_copies", source, shape=[n, h, w, 4 * c])
        made = self._writer.like(f"{node.output[0]}_twice", source, shape=[n, 2 * h, 2 * w, c])
        self._writer.operator("CONCATENATION", [source] * 4, copies, axis=3)
        self._writer.operator("DEPTH_TO_SPACE", [copies], made, blockSize=2)
        self._finish(made, self._target(node))

    def _conv(self, node: onnx.NodeProto) -> None:
        facts = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        weights, scales = self._weights(node.input[1])
        groups, (out, _, *kernel) = facts.get("group", 1), weights.shape
        source, target = self._value(node.input[0]), self._target(node)
        depthwise = groups > 1
        by_itself = facts.get("auto_pad", b"NOTSET") != b"NOTSET"
        if len(kernel) != 2 or by_itself or (depthwise and groups != source.shape[3]):
            raise GraphError("LiteRT's translation takes convolutions over two dimensions", actual=node.name)
        whole = source.quantization is not None and target.quantization is not None and scales is not None
        strides, dilations = facts.get("strides", [1, 1]), facts.get("dilations", [1, 1])
        padded, same = self._padded(source if whole else self._float(source), facts, kernel, strides, dilations)
        inputs = [padded, *self._kernels(node, source, weights, scales if whole else None, depthwise=depthwise)]
        sizes = [
            -(-size // step) if same else (size - (side - 1) * spread - 1) // step + 1
            for size, side, step, spread in zip(padded.shape[1:3], kernel, strides, dilations, strict=True)
        ]
        made = self._new(target, [source.shape[0], *sizes, out], quantized=whole)
        options = {"depthMultiplier": out // source.shape[3]} if depthwise else {}
        self._writer.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            inputs,
            made,
            padding=_Padding.SAME if same else _Padding.VALID,
            strideH=strides[0],
            strideW=strides[1],
            dilationHFactor=dilations[0],
            dilationWFactor=dilations[1],
            fusedActivationFunction=target.activation,
            **options,
        )
        self._finish(made, target)

    def _padded(
        self, source: TfliteTensor, facts: dict[str, Any], kernel: list[int], strides: list[int], dilations: list[int]
    ) -> tuple[TfliteTensor, bool]:
        """Returns the input, padded where the operator itself doesn't do it for every size, and whether that does."""
        top, left, bottom, right = facts.get("pads", [0, 0, 0, 0])
        if not (top or left or bottom or right):
            return source, False
        reach = [(side - 1) * spread for side, spread in zip(kernel, dilations, strict=True)]
        if list(strides) == [1, 1] and (2 * top, 2 * left) == (2 * bottom, 2 * right) == tuple(reach):
            return source, True
        n, h, w, c = source.shape
        name = self._writer.name_of(source)
        target = self._writer.like(f"{name}_padded", source, shape=[n, h + top + bottom, w + left + right, c])
        pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        self._writer.operator("PAD", [source, self._writer.constant(f"{name}_pads", pads)], target)
        return target, False

    def _weights(self, name: str) -> tuple[Array, Array | None]:
        """Returns weights with a scale for each output channel, or float weights with ``None``."""
        if name in self._constants:
            return self._constants[name], None
        node = self._makers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in self._constants:
            raise GraphError("LiteRT's translation takes constant weights", actual=name)
        weights, scale = self._constants[node.input[0]], self._constants[node.input[1]]
        zeros = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.int8)
        if weights.dtype not in (np.int8, np.int32) or np.any(zeros):
            raise GraphError("LiteRT's translation takes signed weights with zero points of 0", actual=name)
        return weights, np.broadcast_to(scale.reshape(-1), weights.shape[:1])

    def _kernels(
        self, node: onnx.NodeProto, source: TfliteTensor, weights: Array, scales: Array | None, *, depthwise: bool
    ) -> list[TfliteTensor]:
        """Returns the operator's weights and sums to add: integers where there are scales."""
        _, whole_scales = self._weights(node.input[1])
        turned = np.ascontiguousarray(weights.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        name, axis = node.input[1], 3 if depthwise else 0
        bias = self._bias(node, len(weights))
        if scales is None:
            if whole_scales is not None:
                shape = (1, 1, 1, -1) if depthwise else (-1, 1, 1, 1)
                turned = turned * whole_scales.reshape(shape)
            return [
                self._writer.constant(name, turned.astype(np.float32)),
                self._writer.constant(f"{name}_bias", bias.astype(np.float32)),
            ]
        if source.quantization is None:
            raise GraphError("a quantized convolution needs a quantized input", actual=node.name)
        steps = np.float64(source.quantization.scales[0]) * scales.astype(np.float64)
        own = tuple(float(scale) for scale in scales)
        return [
            self._writer.constant(name, turned, quantization=Quantization(own, axis=axis)),
            self._writer.constant(
                f"{name}_bias",
                np.rint(bias / steps).astype(np.int32),
                quantization=Quantization(tuple(float(np.float32(step)) for step in steps)),
            ),
        ]

    def _bias(self, node: onnx.NodeProto, count: int) -> Array:
        if len(node.input) < 3:
            return np.zeros(count, np.float64)
        values, scales = self._weights(node.input[2])
        return values.astype(np.float64) * (1.0 if scales is None else scales.astype(np.float64))
