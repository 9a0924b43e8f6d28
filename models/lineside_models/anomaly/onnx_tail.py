"""Adding nodes and weights to an ONNX file, and renaming its input, without the ``onnx`` package, which a device lacks.

An ONNX file is one protobuf message, and protobuf joins messages that stand one behind the other: fields that repeat
are appended, messages inside are merged (https://protobuf.dev/programming-guides/encoding/#last-one-wins). So weights
join a graph as bytes behind its own. The graph itself, its nodes included, was written on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import BadInputFormatError

# Numbers of fields and types: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = 1, 2, 3, 4
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _ELEMENT_TYPE, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 1, 2, 1, 1, 2, 1, 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}

_VARINT, _BYTES = 0, 2


def with_weights(model: bytes, weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Returns the ONNX file with more weights in its graph.

    Raises:
        BadInputFormatError: An array has a type that isn't written here.
    """
    if not weights:
        return model
    tensors = b"".join(bytes_field(_GRAPH_INITIALIZER, _tensor(name, array)) for name, array in weights.items())
    return model + bytes_field(_MODEL_GRAPH, tensors)


def with_node(model: bytes, operator: str, inputs: Sequence[str], output: str) -> bytes:
    """Returns the ONNX file with one more node, without attributes, at the end of its graph."""
    node = b"".join(bytes_field(_NODE_INPUT, name.encode()) for name in inputs)
    node += bytes_field(_NODE_OUTPUT, output.encode()) + bytes_field(_NODE_NAME, f"node_{output}".encode())
    node += bytes_field(_NODE_OPERATOR, operator.encode())
    return model + bytes_field(_MODEL_GRAPH, bytes_field(_GRAPH_NODE, node))


def with_other_input(model: bytes, name: str, other: str) -> bytes:
    """Returns the ONNX file with nodes that read another tensor in place of ``name``."""
    return b"".join(
        bytes_field(number, _with_other_input(content, name, other) if number == _MODEL_GRAPH else content)
        if not isinstance(content, int)
        else number_field(number, content)
        for number, content in message_fields(model)
    )


def _with_other_input(graph: bytes, name: str, other: str) -> bytes:
    written = []
    for number, content in message_fields(graph):
        if number == _GRAPH_NODE and any(field == (_NODE_INPUT, name.encode()) for field in message_fields(content)):
            content = b"".join(
                number_field(key, value)
                if isinstance(value, int)
                else bytes_field(key, other.encode() if (key, value) == (_NODE_INPUT, name.encode()) else value)
                for key, value in message_fields(content)
            )
        written.append(number_field(number, content) if isinstance(content, int) else bytes_field(number, content))
    return b"".join(written)


def with_output(model: bytes, name: str, shape: Sequence[int | str]) -> bytes:
    """Returns the ONNX file with one more output of float32; a text in the shape is a dimension that is free."""
    dims = b"".join(
        bytes_field(
            _DIM, number_field(_DIM_VALUE, size) if isinstance(size, int) else bytes_field(_DIM_PARAM, size.encode())
        )
        for size in shape
    )
    tensor = number_field(_ELEMENT_TYPE, _TYPES["float32"]) + bytes_field(_SHAPE, dims)
    value = bytes_field(_VALUE_NAME, name.encode()) + bytes_field(_VALUE_TYPE, bytes_field(_TYPE_TENSOR, tensor))
    return model + bytes_field(_MODEL_GRAPH, bytes_field(_GRAPH_OUTPUT, value))


def read_weights(tail: bytes) -> dict[str, npt.NDArray[Any]]:
    """Reads weights that `with_weights` appended to a graph.

    Args:
        tail: What stands behind the graph.

    Raises:
        ValueError: It is something else.
    """
    weights = {}
    for number, graph in message_fields(tail):
        if number != _MODEL_GRAPH or isinstance(graph, int):
            raise ValueError("no weights stand behind the graph")
        for _, tensor in message_fields(graph):
            if isinstance(tensor, int):
                raise ValueError("no weights stand behind the graph")
            name = next(value.decode() for key, value in message_fields(tensor) if key == _TENSOR_NAME)
            weights[name] = read_tensor(tensor)
    return weights


def read_tensor(tensor: bytes | memoryview) -> npt.NDArray[Any]:
    """Returns a copy of the array of a ``TensorProto`` whose content is ``raw_data``.

    Raises:
        ValueError: It is something else.
    """
    types = {number: name for name, number in _TYPES.items()}
    fields = list(message_fields(tensor))
    shape = [size for key, size in fields if key == _TENSOR_DIMS and isinstance(size, int)]
    one: dict[int, Any] = dict(fields)
    if one.get(_TENSOR_TYPE) not in types or _TENSOR_RAW not in one:
        raise ValueError("no array of a known type")
    kind = np.dtype(types[one[_TENSOR_TYPE]]).newbyteorder("<")
    array = np.frombuffer(one[_TENSOR_RAW], kind).reshape(shape)
    return array.astype(kind.newbyteorder("="))


def message_fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Yields number and content of the fields of a protobuf message; a part of a ``memoryview`` is no copy.

    Raises:
        ValueError: It has other fields, or is cut off.
    """
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        value, place = _read_varint(message, place)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES and place + value <= len(message):
            yield key >> 3, message[place : place + value]
            place += value
        else:
            raise ValueError("no weights stand behind the graph")


def _read_varint(message: bytes | memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("no weights stand behind the graph")


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    if array.dtype.name not in _TYPES:
        raise BadInputFormatError(f"weight {name!r}", expected=" or ".join(_TYPES), actual=array.dtype, action="")
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))  # raw_data is little-endian everywhere
    return b"".join(
        (
            *(number_field(_TENSOR_DIMS, size) for size in array.shape),
            number_field(_TENSOR_TYPE, _TYPES[array.dtype.name]),
            bytes_field(_TENSOR_NAME, name.encode()),
            bytes_field(_TENSOR_RAW, little.tobytes()),
        )
    )


def bytes_field(number: int, content: bytes) -> bytes:
    """Returns a field of a protobuf message that holds bytes, text or a message."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """Returns a field of a protobuf message that holds a number."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Returns seven bits a byte, the lowest first; the highest bit says that more follow."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
