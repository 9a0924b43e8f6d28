"""GELU as one node, where an export has spelled it out.

Engines recognize the five nodes of ``x / 2 * (1 + erf(x / sqrt(2)))`` in a float graph. In a quantized graph each
reader of ``x`` has a DequantizeLinear of its own, so that they don't: a quarter of the time of PP-OCR's recognition was
in them.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper, numpy_helper, version_converter

from lineside_runtime.tensors import Array

OPSET = 20
"""The first with the operator (https://onnx.ai/onnx/operators/onnx__Gelu.html)."""

_KINDS, _CONSTANTS = ("Div", "Erf", "Add", "Mul", "Mul"), (math.sqrt(2), None, 1.0, None, 0.5)


def with_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model in opset 20 or later, with one node in place of each spelled-out GELU.

    Other uses of ``Erf`` stay as they are.
    """
    version = max((one.version for one in model.opset_import if not one.domain), default=OPSET)
    newer = model if version >= OPSET else version_converter.convert_version(model, OPSET)
    graph = newer.graph
    removed: set[str] = set()
    made: dict[str, onnx.NodeProto] = {}
    for chain in _chains(graph):
        x, y = chain[0].input[0], chain[-1].output[0]
        removed |= {node.output[0] for node in chain[:-1]}
        made[y] = helper.make_node("Gelu", [x], [y], f"gelu_{chain[1].name}")
    nodes = [made.get(node.output[0], node) for node in graph.node if node.output[0] not in removed]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {one.name for one in graph.output}
    for unread in [one for one in graph.initializer if one.name not in read]:
        graph.initializer.remove(unread)
    return newer


def _chains(graph: onnx.GraphProto) -> list[list[onnx.NodeProto]]:
    """Returns the five nodes of each GELU in their order."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    numbers = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found = []
    for erf in [node for node in graph.node if node.op_type == "Erf" and node.input[0] in makers]:
        chain = [makers[erf.input[0]], erf]
        while len(chain) < len(_KINDS) and len(following := readers.get(chain[-1].output[0], [])) == 1:
            chain += following
        if [node.op_type for node in chain] == [*_KINDS] and chain[0].input[0] in chain[3].input:
            wanted = zip(chain, _CONSTANTS, strict=True)
            if all(value is None or _has(node, numbers, value) for node, value in wanted):
                found.append(chain)
    return found


def _has(node: onnx.NodeProto, numbers: dict[str, Array], value: float) -> bool:
    known = [numbers[name] for name in node.input if name in numbers]
    return any(one.size == 1 and math.isclose(float(one.reshape(-1)[0]), value, rel_tol=1e-4) for one in known)
