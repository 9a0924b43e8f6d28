"""TensorRT's rules for a QDQ graph: which of them a graph breaks, and the form of it that keeps them.

TensorRT compiles a graph with QuantizeLinear (Q) and DequantizeLinear (DQ) nodes by "explicit quantization". The rules
are NVIDIA's, and each is stated at its entry of `RULES`:

- the parser's, by its source, ``QuantDequantLinearHelper`` in
  https://github.com/onnx/onnx-tensorrt/blob/main/onnxOpImporters.cpp, and for biases
  https://github.com/microsoft/onnxruntime/issues/14229 ("only activation types allowed as input to this layer");
- on scales and weights, and the recommendations on where Q/DQ nodes stand:
  https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html

ONNX Runtime's quantizer writes biases as INT32, which the parser refuses, and a pair of Q and DQ between a convolution
and its limit or its sum, which keeps TensorRT from fusing them. `conforming` changes both; what is left after it must
be right in the graph. Nothing here needs TensorRT: no graph was compiled by it, **untested on hardware**.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from lineside_converters.quantization.ort_quantizer import record_weight_bits
from lineside_runtime.errors import GraphError
from lineside_runtime.tensors import Array

Rule = Literal["type", "zero point", "scale", "bias", "partly quantized", "output", "residual"]

RULES: dict[Rule, str] = {
    "type": "activations and weights are INT8 (outside a DLA the parser reads UINT8 as INT8)",
    "zero point": "every zero point is 0 (the parser refuses others)",
    "scale": "scales are stored and above 0: one for an activation, one or one for each output channel for weights",
    "bias": "biases are floats (the parser refuses DequantizeLinear of INT32)",
    "partly quantized": "a convolution or product has both its input and its weights quantized, or neither",
    "output": "no Q/DQ pair stands between a convolution and its limit or its sum",
    "residual": "the residual input of a sum that is quantized is quantized too",
}
"""What each rule asks for. The last two are NVIDIA's recommendations; with the others broken nothing is compiled, or
not in INT8."""

_FOUND: dict[Rule, str] = {
    "type": "quantizers of another type than INT8",
    "zero point": "zero points that are not 0",
    "scale": "scales that are computed, not above 0, or along another axis",
    "bias": "biases in INT32",
    "partly quantized": "layers quantized in part",
    "output": "Q/DQ pairs between a convolution and its limit or sum",
    "residual": "residual inputs in float",
}
"""What is counted where a rule is broken."""

PREFIX = "tensorrt_float_"
"""Of the names of biases that were turned into floats."""

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LIMITS = ("Clip", "Relu")


@dataclasses.dataclass(frozen=True, slots=True)
class RuleViolation:
    """One node that breaks a rule.

    Attributes:
        node: Its name.
        found: What is there, for a person.
    """

    rule: Rule
    node: str
    found: str


def violations(model: onnx.ModelProto) -> tuple[RuleViolation, ...]:
    """Returns what breaks TensorRT's rules in a graph, in the order of its nodes; empty for a float graph."""
    return tuple(_Graph(model.graph).violations())


def conforming(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy with biases as floats, and without the Q/DQ pairs between convolutions and their limits and sums.

    A bias becomes the number that its integers stand for. Without a pair, a sum is rounded once less: outputs differ
    from the source's by rounding, towards the float graph's.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    _float_biases(changed.graph)
    _skip_pairs(changed.graph)
    _drop_unused(changed.graph)
    record_weight_bits(changed, None)  # says how x86 sums; there is no such sum on a GPU
    onnx.checker.check_model(changed)
    return changed


def write_conforming(source: Path, target: Path) -> Path:
    """Writes the `conforming` form of an ONNX file, and returns ``target``.

    Raises:
        GraphError: A rule is broken that `conforming` cannot mend.
    """
    changed = conforming(onnx.load(source))
    left = violations(changed)
    if left:
        raise GraphError(
            "TensorRT can't run this graph in INT8",
            expected=RULES[left[0].rule],
            actual=f"{describe(left)}; the first is {left[0].node!r}: {left[0].found}",
            action="Quantize with zero points of 0 (activation s8s8), as `lineside optimize` does for TensorRT.",
        )
    target.write_bytes(changed.SerializeToString(deterministic=True))
    return target


def describe(found: Sequence[RuleViolation]) -> str:
    """Returns how many nodes break each rule, as ``44 zero points that are not 0, 99 biases in INT32``."""
    return ", ".join(f"{count} {_FOUND[rule]}" for rule, count in Counter(one.rule for one in found).items())


class _Graph:
    """Looks up the makers, users and constants of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = graph.node
        self.outputs = {value.name for value in graph.output}
        self.constants: dict[str, Array] = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def violations(self) -> Iterator[RuleViolation]:
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield from self._of_quantizer(node)
            elif node.op_type in _WEIGHTED:
                yield from self._of_weighted(node)
            elif node.op_type == "Add":
                yield from self._of_sum(node)

    def _of_quantizer(self, node: NodeProto) -> Iterator[RuleViolation]:
        if self.is_bias(node):
            yield RuleViolation("bias", node.name, "INT32")
            return
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if zero is None or zero.dtype != np.int8:
            yield RuleViolation("type", node.name, "computed" if zero is None else str(zero.dtype))
        if zero is not None and zero.any():
            yield RuleViolation("zero point", node.name, str(zero.ravel()[np.flatnonzero(zero)[0]]))
        scale = self.constants.get(node.input[1])
        if scale is None or not (scale > 0).all():
            yield RuleViolation("scale", node.name, "computed" if scale is None else f"{scale.min():g}")
        elif scale.size > 1 and not self.is_weight(node.output[0]):
            yield RuleViolation("scale", node.name, f"{scale.size} scales for an activation")
        if self.is_skippable(node):
            yield RuleViolation("output", node.name, self.makers[node.input[0]].op_type)

    def _of_weighted(self, node: NodeProto) -> Iterator[RuleViolation]:
        given, weights = (self._is_dequantized(name) for name in node.input[:2])
        if given != weights:
            only = "input" if given else "weights"
            yield RuleViolation("partly quantized", node.name, f"only its {only}")
        if not weights:
            return
        dequantizer = self.makers[node.input[1]]
        scale = self.constants.get(dequantizer.input[1])
        if scale is None or scale.size == 1 or not self.is_weight(dequantizer.output[0]):
            return
        shape = self._stored(dequantizer).shape
        axis = next((entry.i for entry in dequantizer.attribute if entry.name == "axis"), 1) % len(shape)
        if axis != _output_axis(node, len(shape)):
            yield RuleViolation("scale", node.name, f"{scale.size} scales along axis {axis} of its weights")

    def _of_sum(self, node: NodeProto) -> Iterator[RuleViolation]:
        """A sum that is not rounded needs no quantized input, and one of its inputs may come from a convolution."""
        if not any(user.op_type == "QuantizeLinear" for user in self._past_limit(node.output[0])):
            return
        for name in node.input:
            maker = self.makers.get(name)
            if name in self.constants or self._is_dequantized(name) or (maker and maker.op_type in _WEIGHTED):
                continue
            yield RuleViolation("residual", node.name, maker.op_type if maker else "the graph's input")

    def _past_limit(self, name: str) -> list[NodeProto]:
        users = self.users.get(name, [])
        return [
            after
            for user in users
            for after in ([user] + self.users.get(user.output[0], []) * (user.op_type in _LIMITS))
        ]

    def _is_dequantized(self, name: str) -> bool:
        return name in self.makers and self.makers[name].op_type == "DequantizeLinear"

    def _stored(self, node: NodeProto) -> Array:
        """Returns the constant behind the DQ node, or the Q and DQ nodes, of weights."""
        name = node.input[0]
        return self.constants[name if name in self.constants else self.makers[name].input[0]]

    def is_weight(self, name: str) -> bool:
        """Returns whether a Q or DQ node's output comes of a constant alone."""
        while name in self.makers and self.makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = self.makers[name].input[0]
        return name in self.constants

    def is_bias(self, node: NodeProto) -> bool:
        if node.op_type != "DequantizeLinear":
            return False  # a Constant has no input
        stored = self.constants.get(node.input[0])
        return stored is not None and stored.dtype == np.int32

    def is_skippable(self, node: NodeProto) -> bool:
        """Returns whether a Q node and the DQ behind it stand between a convolution and its limit or its sum.

        Of a sum's two convolutions one stays quantized: its output is the residual input.
        """
        if node.op_type != "QuantizeLinear" or node.input[0] in self.outputs:
            return False
        maker = self.makers.get(node.input[0])
        if maker is None or maker.op_type not in _WEIGHTED or len(self.users[node.input[0]]) != 1:
            return False
        user = self._only_user(node.output[0])
        after = self._only_user(user.output[0]) if user is not None and user.op_type == "DequantizeLinear" else None
        if user is None or after is None:
            return False
        if after.op_type == "Add":
            first = next((name for name in after.input if self._is_of_weighted(name)), "")
            others = [name for name in after.input if name != user.output[0]]
            return user.output[0] == first and all(map(self._is_dequantized, others))
        return after.op_type in _LIMITS

    def _is_of_weighted(self, name: str) -> bool:
        """Returns whether a sum's input is a convolution's quantized output that nothing else takes."""
        if not self._is_dequantized(name) or len(self.users[name]) != 1:
            return False
        quantizer = self.makers.get(self.makers[name].input[0])
        if quantizer is None or len(self.users[quantizer.input[0]]) != 1:
            return False
        maker = self.makers.get(quantizer.input[0])
        return maker is not None and maker.op_type in _WEIGHTED

    def _only_user(self, name: str) -> NodeProto | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None


def _output_axis(node: NodeProto, rank: int) -> int:
    """Returns the axis of the output channels in the weights of a convolution or product."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else rank - 1


def _float_biases(graph: onnx.GraphProto) -> None:
    """Replaces DQ nodes of stored INT32 by the floats that they give."""
    looked_up = _Graph(graph)
    biases = [node for node in graph.node if looked_up.is_bias(node)]
    floats: list[TensorProto] = []
    for number, node in enumerate(biases):
        scale = looked_up.constants.get(node.input[1])
        if scale is None:
            raise GraphError(f"node {node.name!r} computes its scale", expected="static INT8 with stored scales")
        values = looked_up.constants[node.input[0]].astype(np.float32) * scale.astype(np.float32)
        floats.append(numpy_helper.from_array(np.asarray(values, np.float32), f"{PREFIX}{number}"))
        _rewire(looked_up.users.get(node.output[0], []), node.output[0], floats[-1].name)
    for node in biases:
        graph.node.remove(node)
    graph.initializer.extend(floats)


def _skip_pairs(graph: onnx.GraphProto) -> None:
    """Takes out the Q/DQ pairs that the rule ``output`` names; none of them depends on another."""
    looked_up = _Graph(graph)
    for node in [each for each in graph.node if looked_up.is_skippable(each)]:
        (dequantizer,) = looked_up.users[node.output[0]]
        _rewire(looked_up.users[dequantizer.output[0]], dequantizer.output[0], node.input[0])
        graph.node.remove(dequantizer)
        graph.node.remove(node)


def _rewire(users: Sequence[NodeProto], old: str, new: str) -> None:
    for user in users:
        user.input[:] = [new if name == old else name for name in user.input]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Takes out constants and notes on tensors that no node reads or makes any more."""
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    for entries in (graph.initializer, graph.value_info):
        kept = [entry for entry in entries if entry.name in used]
        del entries[:]
        entries.extend(kept)
