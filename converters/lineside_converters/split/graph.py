"""Find places where an ONNX graph can be cut in two, and cut it.

A cut is a place in the order of the nodes that only few tensors cross. Where a crossing tensor is about to be
dequantised, the cut lies before that: a quarter of the bytes cross, and the pieces compute bit for bit what the whole
does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
from onnx.utils import extract_model

from lineside_runtime.errors import GraphError

TENSORS_MAX = 4
"""Crossing tensors: a detector's neck needs three or four, and more are a cut through the middle of everything."""

_MOVABLE = ("float32", "float16", "uint8", "int8", "int32", "int64")  # what a TensorSpec can say


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A place where the graph can be cut.

    Attributes:
        done: Share of the graph's nodes that lie before it, 0 to 1.
        first: The model's outputs that are made before it.
        second: Those that are made after it.
    """

    done: float
    tensors: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    def __str__(self) -> str:
        """Returns the crossing tensors' names."""
        return " + ".join(self.tensors)


def find_cuts(model: onnx.ModelProto) -> list[Cut]:
    """Returns every place where a graph can be cut, from its inputs on."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    if model.functions or any(one.type in _SUBGRAPHS for node in graph.node for one in node.attribute):
        raise GraphError("a graph with control flow or functions cannot be cut", action="Leave this model whole.")
    nodes = _nodes_on_the_way(graph)
    moved = {value.name for value in graph.value_info if _is_movable(value)}
    makers = {name: node for node in nodes for name in node.output}
    last_use = {name: number for number, node in enumerate(nodes) for name in node.input}
    unquantised = _only_quantised_next(nodes)
    inputs = {value.name for value in graph.input}
    outputs = [value.name for value in graph.output]
    cuts: dict[tuple[str, ...], Cut] = {}
    made: dict[str, None] = {}
    for number, node in enumerate(nodes[:-1]):
        made.update(dict.fromkeys(node.output))
        crossing = [name for name in made if last_use.get(name, -1) > number]
        tensors = tuple(dict.fromkeys(_before_dequantising(name, makers) for name in crossing))
        reaches_over = any(last_use.get(name, -1) > number for name in inputs) or not inputs.isdisjoint(tensors)
        second = tuple(name for name in outputs if name not in made)
        fits = tensors and len(tensors) <= TENSORS_MAX and moved.issuperset(tensors)
        if fits and unquantised.isdisjoint(tensors) and second and not reaches_over:
            first = tuple(name for name in outputs if name in made and name not in tensors)
            cuts.setdefault(tensors, Cut((number + 1) / len(nodes), tensors, first, second))
    if not cuts:
        raise GraphError("there is no place to cut this graph", action="Leave this model whole.")
    return list(cuts.values())


_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _nodes_on_the_way(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Returns the nodes that depend on the inputs, in their order; the others make constants."""
    reached = {value.name for value in graph.input} - {value.name for value in graph.initializer}
    nodes = []
    for node in graph.node:
        if not reached.isdisjoint(node.input):
            nodes.append(node)
            reached.update(node.output)
    return nodes


def _only_quantised_next(nodes: list[onnx.NodeProto]) -> set[str]:
    """Returns the tensors that only quantizers read: behind those they have a quarter of the bytes."""
    users: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    return {name for name, kinds in users.items() if kinds == {"QuantizeLinear"}}


def _before_dequantising(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    maker = makers.get(name)
    return str(maker.input[0]) if maker is not None and maker.op_type == "DequantizeLinear" else name


def _is_movable(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    kind = tensor.elem_type
    return (
        tensor.HasField("shape")
        and kind != onnx.TensorProto.UNDEFINED
        and onnx.helper.tensor_dtype_to_np_dtype(kind).name in _MOVABLE
    )


def cut_in_two(source: Path, cut: Cut, first: Path, second: Path) -> None:
    """Writes the pieces before and after a cut.

    Args:
        cut: One that `find_cuts` gave for it.
        first: Where the piece before the cut is to stand.
        second: Where the other one is to stand.
    """
    inputs = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
    try:
        extract_model(source, first, inputs, [*cut.tensors, *cut.first])
        extract_model(source, second, list(cut.tensors), list(cut.second))
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph cannot be cut at {cut}: {error}", action="Leave this model whole.") from error
