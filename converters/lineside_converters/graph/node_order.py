"""Sort a graph's nodes topologically, as ONNX requires.

ONNX Runtime's quantiser and its FP16 converter leave nodes where they were or at the end, and their own sorting doesn't
see what the branches of an ``If`` or the body of a ``Loop`` take from outside.
"""

from __future__ import annotations

import graphlib

import onnx


def tensors_read_by(node: onnx.NodeProto) -> set[str]:
    """Returns the tensors that a node reads, those of its inner graphs included."""
    inside = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inside += [graph for attribute in node.attribute for graph in attribute.graphs]
    return {*node.input, *(name for graph in inside for each in graph.node for name in tensors_read_by(each))}


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sorts the nodes topologically; a graph that is in order stays as it is."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        place: sorted({makers[name] for name in tensors_read_by(node) if name in makers and makers[name] != place})
        for place, node in enumerate(graph.node)
    }
    if all(before < place for place, befores in needs.items() for before in befores):
        return
    ordered = [graph.node[place] for place in graphlib.TopologicalSorter(needs).static_order()]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)
