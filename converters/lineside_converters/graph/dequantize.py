"""A statically quantised graph back to floats, to go on training with.

- A weight becomes what its integers stand for: within half a step of the float weight that it was made of.
- A quantiser of an activation goes away. What it clamped at zero was a ReLU, and what it clamped at exactly six as well
  a ReLU6: ``onnxruntime.quantization`` leaves such activations out of the graph where the quantiser's range does their
  work, so they are put back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lineside_converters.quantization.ort_quantizer import record_weight_bits
from lineside_runtime.errors import GraphError

SIX_TOLERANCE = 1e-4

MARK = "quantizelinear"
"""Part of the names that the quantizer gives, in small letters."""

Values = dict[str, NDArray[np.generic]]


def is_quantized(model: onnx.ModelProto) -> bool:
    """Returns whether the graph holds quantized tensors in the QDQ form."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def dequantize(source: Path, target: Path) -> None:
    """Writes the float form of a QDQ graph.

    Args:
        source: ONNX file of static INT8 in the QDQ form.

    Raises:
        GraphError: It is quantised in another form, or its scales are computed and not stored.
    """
    model = onnx.load(source)
    graph = model.graph
    values: Values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    nodes: list[NodeProto] = []
    floats: list[TensorProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
        elif node.input[0] in values:
            floats.append(numpy_helper.from_array(_weight(node, values), node.output[0]))
        else:
            nodes += _activation(node, makers, values)
    if not floats:
        raise GraphError(
            f"{source.name} is quantised in a form that can't be undone",
            expected="weights stored as integers with DequantizeLinear (QDQ)",
            actual=sorted({node.op_type for node in graph.node}),
            action="Give the float model that it was made of.",
        )
    kept = {name for node in nodes for name in node.input}
    initializers = [entry for entry in graph.initializer if entry.name in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*initializers, *floats])
    del graph.value_info[:]
    _rename(graph)
    record_weight_bits(model, None)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _rename(graph: onnx.GraphProto) -> None:
    """Replaces names that the quantizer gave: it gives the same ones again when the float form is quantized."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    made = [name for node in graph.node for name in node.output] + [entry.name for entry in graph.initializer]
    quantizers = [name for name in made if MARK in name.lower() and name not in kept]
    renamed = {name: f"float_{number}" for number, name in enumerate(quantizers)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for entry in graph.initializer:
        entry.name = renamed.get(entry.name, entry.name)


def _weight(node: NodeProto, values: Values) -> NDArray[np.float32]:
    stored = values[node.input[0]]
    scale = _stored(node, 1, values)
    zero = _stored(node, 2, values) if len(node.input) > 2 else np.zeros((), stored.dtype)
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    if scale.ndim:
        shape = [1] * stored.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    whole: NDArray[np.float32] = stored.astype(np.float32) - zero.astype(np.float32)
    return np.asarray(whole * scale.astype(np.float32), np.float32)


def _activation(node: NodeProto, makers: dict[str, NodeProto], values: Values) -> list[NodeProto]:
    """Returns what replaces a quantizer and its dequantizer: an identity or an activation."""
    quantiser = makers.get(node.input[0])
    if quantiser is None or quantiser.op_type != "QuantizeLinear":
        raise GraphError(f"node {node.name!r} takes an integer tensor that no QuantizeLinear made")
    source, target = quantiser.input[0], node.output[0]
    zero = _stored(quantiser, 2, values) if len(quantiser.input) > 2 else np.zeros((), np.uint8)
    before = makers.get(source)
    clamps = zero.size == 1 and zero.dtype == np.uint8 and int(zero.ravel()[0]) == 0
    if not clamps or before is None or before.op_type in ("Relu", "Clip"):
        return [helper.make_node("Identity", [source], [target], name=f"{node.name}_float")]
    top = 255 * float(_stored(quantiser, 1, values).ravel()[0])
    if abs(top - 6) > SIX_TOLERANCE:
        return [helper.make_node("Relu", [source], [target], name=f"{node.name}_relu")]
    return _relu6(source, target, node.name)


def _relu6(source: str, target: str, name: str) -> list[NodeProto]:
    """Returns ``Clip`` with its bounds as constants, as exporters write ReLU6."""
    bounds = {f"{name}_zero": 0.0, f"{name}_six": 6.0}
    constants = [
        helper.make_node(
            "Constant", [], [bound], name=bound, value=numpy_helper.from_array(np.array(value, np.float32))
        )
        for bound, value in bounds.items()
    ]
    return [*constants, helper.make_node("Clip", [source, *bounds], [target], name=f"{name}_relu6")]


def _stored(node: NodeProto, place: int, values: Values) -> NDArray[np.generic]:
    found = values.get(node.input[place])
    if found is None:
        raise GraphError(f"node {node.name!r} computes its scale", expected="static INT8 with stored scales")
    return found
