"""Operators at the end of an ONNX graph, read without the ``onnx`` package, which a device doesn't carry.

Only names and types of nodes are read; weights are skipped. Numbers of fields:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_OUTPUT = 1, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS = 1, 8
_VALUE_NAME = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

LAYERS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "QLinearConv"})
"""Operators with weights, at which a tail begins."""

SHAPED = frozenset({"Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze"})
"""Operators whose inputs behind the first are sizes and places, and no values of the output."""

PATCH_MIN = 8
"""Side of a convolution's kernel from which, with an equal stride, it cuts an image into patches (arXiv:2010.11929)."""


@dataclasses.dataclass(frozen=True, slots=True)
class GraphTails:
    """Facts about a graph's outputs, from its operators.

    Attributes:
        tails: Types of the operators that make each output's values, back to the layers before it.
        patch_size: Side of the patches that a vision transformer cuts its input into, in pixels; 0 where none does.
    """

    tails: Mapping[str, frozenset[str]]
    patch_size: int


@dataclasses.dataclass(slots=True)
class _Node:
    inputs: list[str]
    outputs: list[str]
    kind: str = ""
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


def read_tails(model: bytes) -> GraphTails:
    """Reads the tails of all outputs.

    Args:
        model: An ONNX file that an engine has read already.

    Raises:
        ValueError: It is cut off.
    """
    nodes: list[_Node] = []
    outputs: list[str] = []
    for number, content in _messages(memoryview(model)):
        if number == _MODEL_GRAPH:
            for part, inner in _messages(content):
                if part == _GRAPH_NODE:
                    nodes.append(_node(inner))
                elif part == _GRAPH_OUTPUT:
                    outputs += [_text(name) for field, name in _messages(inner) if field == _VALUE_NAME]
    maker = {name: node for node in nodes for name in node.outputs}
    patches = [
        node.kernel[0] for node in nodes if node.kernel and node.kernel == node.strides and node.kernel[0] >= PATCH_MIN
    ]
    return GraphTails({name: _tail(name, maker) for name in outputs}, max(patches, default=0))


def _tail(output: str, maker: Mapping[str, _Node]) -> frozenset[str]:
    found, seen, waiting = set(), {output}, [output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.kind in LAYERS:
            continue
        found.add(node.kind)
        values = node.inputs[:1] if node.kind in SHAPED else node.inputs
        fresh = [name for name in values if name and name not in seen]
        seen.update(fresh)
        waiting += fresh
    return frozenset(found)


def _node(content: memoryview) -> _Node:
    node = _Node([], [])
    for number, value in _messages(content):
        if number == _NODE_INPUT:
            node.inputs.append(_text(value))
        elif number == _NODE_OUTPUT:
            node.outputs.append(_text(value))
        elif number == _NODE_TYPE:
            node.kind = _text(value)
        elif number == _NODE_ATTRIBUTE and node.kind in ("", "Conv"):
            name, sizes = _attribute(value)
            if name == "kernel_shape":
                node.kernel = sizes
            elif name == "strides":
                node.strides = sizes
    return node


def _attribute(content: memoryview) -> tuple[str, tuple[int, ...]]:
    name, sizes = "", []
    for number, kind, value in _fields(content):
        if number == _ATTRIBUTE_NAME and isinstance(value, memoryview):
            name = _text(value)
        elif number == _ATTRIBUTE_INTS:
            if kind == _VARINT and isinstance(value, int):
                sizes.append(value)
            elif isinstance(value, memoryview):  # packed
                place = 0
                while place < len(value):
                    size, place = _varint(value, place)
                    sizes.append(size)
    return name, tuple(sizes)


def _text(content: memoryview) -> str:
    return bytes(content).decode(errors="replace")


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields the fields that are text or messages."""
    for number, _, value in _fields(data):
        if isinstance(value, memoryview):
            yield number, value


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yields number, wire type and value of each field."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _BYTES:
            size, place = _varint(data, place)
        if (size < 1 and kind != _BYTES) or place + size > len(data):
            raise ValueError("a field of the ONNX file is cut off")
        yield number, kind, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Returns a number of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        if place >= len(data):
            raise ValueError("a number of the ONNX file is cut off")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
