"""Shorten node names, which grow with repeated imports and exports.

torch's exporter builds a node's name of the modules around it, and those are called what the nodes were called that
they were made of. So a name doubles with every round; after five, names were more than half of an INT8 detector's file.
"""

from __future__ import annotations

import re

import onnx

LONGEST = 80
"""A name of more characters is shortened."""


def shorten_names(model: onnx.ModelProto) -> None:
    """Shortens long names of nodes and of their outputs in place; inputs, outputs and weights keep theirs.

    A node keeps what stands before the first mention of its operator, which is where it was in the first network. Of
    two that would be called the same the later gets a number. A graph with graphs in it (``If``, ``Loop``) stays.
    """
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    taken = {node.name for node in graph.node if len(node.name) <= LONGEST}
    fixed = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer)}
    handed = fixed | {name for node in graph.node for name in node.output}
    tensors: dict[str, str] = {}
    for node in graph.node:
        if len(node.name) > LONGEST:
            node.name = _free(_first(node.name, node.op_type), taken)
            taken.add(node.name)
        for place, output in enumerate(node.output):
            if len(output) > LONGEST and output not in fixed:
                tensors[output] = _free(f"{node.name}_output_{place}", handed)
                handed.add(tensors[output])
    for node in graph.node:
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for entry in graph.value_info:
        entry.name = tensors.get(entry.name, entry.name)


def _first(name: str, operator: str) -> str:
    name = re.sub(r"^(/module)+(?=/)", "", name)
    end = name.find(f"/{operator}")
    short = name[: end + 1 + len(operator)] if end >= 0 else ""
    return short if 0 < len(short) <= LONGEST else operator


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number + 1}"
    return free
