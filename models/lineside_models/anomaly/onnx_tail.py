"""Adding weights to an ONNX file without the ``onnx`` package, which a device doesn't carry.

An ONNX file is one protobuf message, and protobuf joins messages that stand one behind the other: fields that repeat
are appended, messages inside are merged (https://protobuf.dev/programming-guides/encoding/#last-one-wins). So weights
join a graph as bytes behind its own. The graph itself, its nodes included, was written on the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import BadInputFormatError

# Numbers of fields and types: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
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
