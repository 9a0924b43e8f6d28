"""Check that a ``.tflite`` file is complete.

``tflite-runtime`` 2.14 doesn't check: it reads beyond the end of a truncated file, and sometimes goes on. The file is a
FlatBuffer (https://flatbuffers.dev/internals/) by TFLite's schema
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs). Neither the interpreter nor the
``flatbuffers`` package for Python has a verifier.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lineside_runtime.errors import UnsupportedModelError

MAGIC = b"TFL3"
_U16, _U32, _I32, _U64 = (struct.Struct(kind) for kind in ("<H", "<I", "<i", "<Q"))

# Numbers of the fields in their tables.
_MODEL_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_NAME, _TENSOR_QUANTIZATION = 0, 3, 4
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO = 2, 3
_OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS = 1, 2, 4
_CODE_CUSTOM = 1
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2


def check_whole(data: bytes, name: str) -> None:
    """Checks that everything that the model's tables point at lies inside the file.

    Raises:
        UnsupportedModelError: It is no ``.tflite`` file, or a part of it is missing.
    """
    if data[4:8] != MAGIC:
        raise UnsupportedModelError(f"{name} is no .tflite file", expected=MAGIC, actual=data[4:8])
    try:
        _walk(_Reader(data))
    except (struct.error, _OutsideError) as error:
        raise UnsupportedModelError(f"{name} is not whole", action="Copy it again, or convert it again.") from error


class _OutsideError(Exception):
    """Something lies outside the file."""


class _Reader:
    """Reads tables and vectors, and refuses what lies outside. A place is a position in the file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def root(self) -> int:
        """Returns the model."""
        return self._whole(_U32.unpack_from(self._data, 0)[0])

    def tables(self, table: int, field: int) -> Iterator[int]:
        """Goes through the tables of a vector."""
        start, count = self._vector(table, field)
        for at in range(start, start + 4 * count, 4):
            yield self._whole(at + _U32.unpack_from(self._data, at)[0])

    def table(self, table: int, field: int) -> int | None:
        """Returns a table inside a table."""
        at = self._field(table, field)
        return None if at is None else self._whole(at + _U32.unpack_from(self._data, at)[0])

    def vector(self, table: int, field: int, item_bytes: int) -> None:
        """Checks a vector of numbers or a text."""
        start, count = self._vector(table, field)
        self.inside(start + count * item_bytes)

    def number(self, table: int, field: int) -> int:
        """Returns a number of 64 bits, 0 if the table doesn't have it."""
        at = self._field(table, field)
        return 0 if at is None else int(_U64.unpack_from(self._data, at)[0])

    def _whole(self, table: int) -> int:
        index = self.inside(self.inside(table) - _I32.unpack_from(self._data, table)[0])
        self.inside(table + _U16.unpack_from(self._data, index + 2)[0])
        return table

    def _vector(self, table: int, field: int) -> tuple[int, int]:
        at = self._field(table, field)
        if at is None:
            return 0, 0
        start = at + _U32.unpack_from(self._data, at)[0]
        return start + 4, _U32.unpack_from(self._data, self.inside(start))[0]

    def _field(self, table: int, field: int) -> int | None:
        """Returns where a field lies, ``None`` if the table doesn't have it."""
        index = self.inside(table - _I32.unpack_from(self._data, table)[0])
        if 4 + 2 * field >= _U16.unpack_from(self._data, index)[0]:
            return None
        offset = _U16.unpack_from(self._data, index + 4 + 2 * field)[0]
        return self.inside(table + offset) if offset else None

    def inside(self, at: int) -> int:
        """Returns a place, if it is inside."""
        if not 0 <= at <= len(self._data):
            raise _OutsideError
        return at


def _walk(reader: _Reader) -> None:
    model = reader.root()
    for code in reader.tables(model, _MODEL_CODES):
        reader.vector(code, _CODE_CUSTOM, 1)
    for buffer in reader.tables(model, _MODEL_BUFFERS):
        reader.vector(buffer, _BUFFER_DATA, 1)
        reader.inside(reader.number(buffer, _BUFFER_OFFSET) + reader.number(buffer, _BUFFER_SIZE))
    for graph in reader.tables(model, _MODEL_SUBGRAPHS):
        reader.vector(graph, _SUBGRAPH_INPUTS, 4)
        reader.vector(graph, _SUBGRAPH_OUTPUTS, 4)
        for tensor in reader.tables(graph, _SUBGRAPH_TENSORS):
            _walk_tensor(reader, tensor)
        for operator in reader.tables(graph, _SUBGRAPH_OPERATORS):
            reader.vector(operator, _OPERATOR_INPUTS, 4)
            reader.vector(operator, _OPERATOR_OUTPUTS, 4)
            reader.table(operator, _OPERATOR_OPTIONS)


def _walk_tensor(reader: _Reader, tensor: int) -> None:
    reader.vector(tensor, _TENSOR_SHAPE, 4)
    reader.vector(tensor, _TENSOR_NAME, 1)
    quantization = reader.table(tensor, _TENSOR_QUANTIZATION)
    if quantization is not None:
        reader.vector(quantization, _QUANTIZATION_SCALE, 4)
        reader.vector(quantization, _QUANTIZATION_ZERO, 8)
