"""A cached result, and its encoding as bytes.

::

    magic (4) | checksum (8) | length of the header (4) | header, msgpack | data of each output, each 16-aligned

The checksum goes over the key as well, so that a torn, changed or misplaced value reads as none. Reading runs no code
and takes no more memory than the value itself: types stand in a fixed table, and every size is compared with what is
there. Arrays are read-only views of the value's bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import msgspec
import numpy as np
import xxhash

from lineside_runtime.cache.key import VERSION
from lineside_runtime.tensors import Array

MAGIC = b"LSC1"
_HEAD = struct.Struct("<4sQI")
_CHECKED_FROM = 12
_ALIGN = 16

ENTRY_BYTES = 800
OUTPUT_BYTES = 260
"""What an entry and each of its outputs take in memory beside the data; measured with tracemalloc, CPython 3.11."""

_DTYPES = {np.dtype(code).str: np.dtype(code) for code in "?bBhHiIlLqQefd"}


class DamagedValueError(Exception):
    """These bytes are no value, not the one of this key, or damaged."""


class _Output(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    device: str
    outputs: tuple[_Output, ...]


_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(_Header).decode


class CachedResult:
    """One kept result.

    Attributes:
        outputs: Array by output name; read-only.
        device: Engine and device that computed it, such as ``ort/cpu:0``.
        size_bytes: What it takes in memory.
    """

    __slots__ = ("device", "outputs", "size_bytes")

    def __init__(self, outputs: dict[str, Array], device: str, data_bytes: int) -> None:
        self.outputs = outputs
        self.device = device
        self.size_bytes = data_bytes + ENTRY_BYTES + OUTPUT_BYTES * len(outputs)


def data_bytes(outputs: Mapping[str, Array]) -> int | None:
    """Returns the bytes that the outputs' data take, or ``None`` if one is of a type that isn't kept."""
    total = 0
    for array in outputs.values():
        if not isinstance(array, np.ndarray) or array.dtype.str not in _DTYPES:
            return None
        total += array.nbytes
    return total


def keep(outputs: Mapping[str, Array], device: str) -> CachedResult:
    """Returns an entry with a copy of the outputs."""
    kept: dict[str, Array] = {}
    size = 0
    for name, array in outputs.items():
        data = array.tobytes()
        size += len(data)
        kept[name] = np.frombuffer(data, array.dtype).reshape(array.shape)
    return CachedResult(kept, device, size)


def encode(key: bytes, entry: CachedResult) -> bytes:
    """Returns the entry as bytes."""
    outputs = tuple(_Output(name, array.dtype.str, array.shape) for name, array in entry.outputs.items())
    header = _encode_header(_Header(VERSION, entry.device, outputs))
    parts = [struct.pack("<I", len(header)), header]
    at = _HEAD.size + len(header)
    for array in entry.outputs.values():
        padding = -at % _ALIGN
        parts += [bytes(padding), array.tobytes()]
        at += padding + array.nbytes
    body = b"".join(parts)
    return MAGIC + struct.pack("<Q", _checksum(key, body)) + body


def decode(key: bytes, value: bytes) -> CachedResult:
    """Returns the entry that `encode` wrote.

    Raises:
        DamagedValueError: These bytes are no value, not the one of this key, or damaged.
    """
    if len(value) < _HEAD.size:
        raise DamagedValueError("too short")
    magic, checksum, header_bytes = _HEAD.unpack_from(value)
    if magic != MAGIC or checksum != _checksum(key, memoryview(value)[_CHECKED_FROM:]):
        raise DamagedValueError("another magic or checksum")
    start = _HEAD.size + header_bytes
    try:
        header = _decode_header(memoryview(value)[_HEAD.size : start])
    except msgspec.MsgspecError as error:
        raise DamagedValueError(str(error)) from error
    if header.version != VERSION:
        raise DamagedValueError(f"version {header.version}")
    return _read(value, header, start)


def _read(value: bytes, header: _Header, at: int) -> CachedResult:
    start = at
    outputs: dict[str, Array] = {}
    for output in header.outputs:
        dtype = _DTYPES.get(output.dtype)
        if dtype is None or any(size < 0 for size in output.shape):
            raise DamagedValueError(f"output {output.name!r}")
        at += -at % _ALIGN
        count = math.prod(output.shape)
        if at + count * dtype.itemsize > len(value):
            raise DamagedValueError("shorter than its outputs")
        array = np.frombuffer(value, dtype, count, at) if count else np.frombuffer(b"", dtype)
        try:
            outputs[output.name] = array.reshape(output.shape)
        except ValueError as error:  # more dimensions, or larger ones, than numpy has
            raise DamagedValueError(f"output {output.name!r}: {error}") from error
        at += count * dtype.itemsize
    return CachedResult(outputs, header.device, at - start)


def _checksum(key: bytes, body: bytes | memoryview) -> int:
    digest = xxhash.xxh3_64(key)
    digest.update(body)
    return digest.intdigest()
