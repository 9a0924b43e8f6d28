"""Tensors as they travel: the protocol's data types, and arrays out of raw bytes and lists of numbers.

Pure: no HTTP, no gRPC. Nothing here trusts a number that a client sent: a shape is compared with the model's and with
what has really come before anything of that size is made.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

import numpy as np

from lineside_runtime.errors import BadInputFormatError, EngineError
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

# https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol#tensor-data-types
_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Kind of numpy type to the kinds that a list of its elements may turn out to be."""

METADATA_ACTION = "The model's metadata, GET /v2/models/NAME, says what it takes."
"""What a client does whose tensors do not fit."""

BYTES = "BYTES"
"""The protocol's name of texts, each with its length before it as raw data."""

TEXT_MAX_BYTES = 1 << 16

_TEXTS = ("string", "object")
_LENGTH = struct.Struct("<I")

_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class GivenTensor:
    """An input as a client sent it, not yet checked against the model.

    Attributes:
        datatype: The protocol's name of the type, such as ``FP32``.
        shape: As the client says.
        data: The elements in row-major order: raw little-endian bytes, or numbers in a list, flat or nested.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview | bytes | list[Any]


def datatype_of(dtype: str) -> str:
    """Returns the protocol's name of a numpy type.

    Raises:
        EngineError: It has none: the engine gave an output that the protocol can't carry.
    """
    if dtype in _TEXTS:
        return BYTES
    if dtype not in _DATATYPES:
        raise EngineError("an output of this type can't be sent", expected=", ".join(_DATATYPES), actual=dtype)
    return _DATATYPES[dtype]


def servable(spec: TensorSpec) -> bool:
    """Whether the server can carry such a tensor of a network: numbers and truth values, no texts, no sequences."""
    return spec.dtype in _DATATYPES


def to_array(given: GivenTensor, spec: TensorSpec) -> Array:
    """Converts a client's tensor into the model's input.

    Raises:
        BadInputFormatError: Type, shape or number of elements is another one, or an element doesn't fit the type.
    """
    _check(given, spec)
    if spec.dtype == "string":
        return _texts(given)
    if isinstance(given.data, list):
        return _from_list(given, spec, given.data)
    expected = math.prod(given.shape) * np.dtype(spec.dtype).itemsize
    if len(given.data) != expected:
        raise _bad(given, "the number of bytes is wrong", f"{expected} bytes for {_said(given)}", len(given.data))
    # copied once: in the request the elements are read-only, or lie at an address that isn't a multiple of their size
    return np.frombuffer(given.data, np.dtype(spec.dtype).newbyteorder("<")).astype(spec.dtype).reshape(given.shape)


def to_bytes(array: Array) -> bytes:
    """Returns the elements in row-major order, little-endian; texts in UTF-8 with their lengths."""
    if array.dtype.kind == "O":
        encoded = [str(text).encode() for text in array.ravel()]
        return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _texts(given: GivenTensor) -> Array:
    """Returns texts as an array of objects.

    Raises:
        BadInputFormatError: There are others than the shape says, or one is no UTF-8 or too long.
    """
    count = math.prod(given.shape)
    found = given.data if isinstance(given.data, list) else _split(given, memoryview(given.data))
    if len(found) != count:
        raise _bad(given, "the number of texts is wrong", f"{count} in a flat list", len(found))
    array = np.empty(count, object)
    for place, text in enumerate(found):
        if not isinstance(text, (str, bytes)):
            raise _bad(given, "an element is no text", "UTF-8", type(text).__name__)
        try:
            array[place] = text if isinstance(text, str) else text.decode()
        except UnicodeDecodeError as error:
            raise _bad(given, "an element is no text", "UTF-8", str(error)[:80]) from error
        if len(array[place]) > TEXT_MAX_BYTES:
            raise _bad(given, "a text is too long", f"{TEXT_MAX_BYTES} characters", len(array[place]))
    return array.reshape(given.shape)


def _split(given: GivenTensor, data: memoryview) -> list[bytes]:
    texts, at = [], 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise _bad(given, "its data ends within a length", "4 bytes before each text", f"{len(data) - at} bytes")
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + size > len(data):
            raise _bad(given, "its data ends within a text", f"{size} bytes", f"{len(data) - at} bytes")
        texts.append(bytes(data[at : at + size]))
        at += size
    return texts


def _check(given: GivenTensor, spec: TensorSpec) -> None:
    shape = given.shape
    least = 0 if spec.dtype == "string" else 1  # a list of texts may be empty; few networks take an empty tensor
    fits = (
        given.datatype == datatype_of(spec.dtype)
        and len(shape) == len(spec.shape)
        and all(have >= least and want in (DYNAMIC, have) for want, have in zip(spec.shape, shape, strict=True))
    )
    if not fits:
        raise _bad(given, "it does not fit", f"{spec.describe()}, which is {datatype_of(spec.dtype)}", _said(given))


def _from_list(given: GivenTensor, spec: TensorSpec, values: list[Any]) -> Array:
    wanted = np.dtype(spec.dtype)
    try:
        found = np.array(values)
        if wanted.kind in "iu" and found.dtype.kind not in "iu":
            found = np.array(values, object)  # numpy makes floats of [2**63, 1]
    except ValueError as error:
        raise _bad(given, "its data is ragged", "elements, flat or nested as the shape says", str(error)) from error
    count = math.prod(given.shape)
    if found.shape not in ((count,), given.shape):
        raise _bad(given, "its data has another shape", f"{count} elements for {_said(given)}", found.shape)
    if found.dtype.kind == "O" and wanted.kind in "iu":
        alike = all(type(element) is int for element in found.flat)
    else:
        alike = found.dtype.kind in _KINDS[wanted.kind]
    if not alike:
        raise _bad(given, "its data has another type", f"elements that {given.datatype} holds", found.dtype)
    if not _in_range(found, wanted):
        held = f"numbers that {given.datatype} holds"
        raise _bad(given, "a number is out of range", held, f"{found.min()} to {found.max()}"[:80])
    return found.astype(wanted).reshape(given.shape)


def _in_range(found: Any, wanted: np.dtype[Any]) -> bool:
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        return int(found.min()) >= limits.min and int(found.max()) <= limits.max
    if wanted.kind != "f":
        return True
    with np.errstate(over="ignore"):
        return bool((np.isfinite(found.astype(wanted)) == np.isfinite(found)).all())


def _said(given: GivenTensor) -> str:
    sizes = ", ".join(str(size) for size in given.shape[:8])
    return f"({sizes}{', ...' if len(given.shape) > 8 else ''}) {given.datatype[:20]}"


def _bad(given: GivenTensor, what: str, expected: object, actual: object) -> BadInputFormatError:
    return BadInputFormatError(
        f"input {given.name[:100]!r}: {what}",
        expected=expected,
        actual=actual,
        action=METADATA_ACTION,
    )
