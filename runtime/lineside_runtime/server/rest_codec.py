"""The REST form of a call: JSON, and the binary tensor extension. Bytes in, bytes out, and no HTTP.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and, for the binary form,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import RequestError
from lineside_runtime.server.calls import InferAnswer, InferRequest, refuse_tensor_parameters, timeout_of
from lineside_runtime.server.wire import GivenTensor, datatype_of, to_bytes

_LENGTH_DIGITS = 15
_WBITS = {"gzip": 31, "deflate": 15}  # zlib's window for the two forms; deflate is the zlib form, RFC 9110 8.4.1.2
_LEVEL = 1  # numbers hardly shrink any further


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


_REQUEST = JsonDecoder(_Request)
"""Made before any thread runs: msgspec 0.22 crashes where two threads decode a class for the first time at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and which outputs the client wants as raw bytes.

    Attributes:
        binary: Output name to the client's choice.
        binary_default: For outputs that it doesn't name.
    """

    request: InferRequest
    binary: dict[str, bool]
    binary_default: bool


def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """Undoes a ``Content-Encoding``.

    Raises:
        RequestError: An encoding that isn't known (415), damaged data (400), or too much of it (413).
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in _WBITS:
        raise RequestError("the Content-Encoding", status=415, expected="gzip or deflate", actual=encoding[:40])
    machine = zlib.decompressobj(_WBITS[encoding])
    try:
        found = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {encoding}: {error}") from error
    if len(found) > limit:
        raise too_large(limit)
    if not machine.eof or machine.unused_data:
        raise RequestError(f"the body is not one whole {encoding} stream")
    return found


def too_large(limit: int) -> RequestError:
    """Returns the error for a body of more than ``limit`` bytes."""
    return RequestError(
        "the request is too large",
        status=413,
        expected=f"at most {limit} bytes",
        action="Send smaller batches, or start the server with a larger --max-body-mb.",
    )


def compress(body: bytes, encoding: str) -> bytes:
    """Applies a ``Content-Encoding``, ``gzip`` or ``deflate``."""
    machine = zlib.compressobj(_LEVEL, wbits=_WBITS[encoding])
    return machine.compress(body) + machine.flush()


def parse_request(model: str, version: str, body: bytes | bytearray, header_length: str) -> Parsed:
    """Reads the body of an ``infer`` request.

    Args:
        version: From the URL; may be empty.
        body: Uncompressed.
        header_length: The header ``Inference-Header-Content-Length``; empty if there was none.

    Raises:
        RequestError: The body breaks the protocol.
    """
    view = memoryview(body)
    length = _header_length(header_length, len(view))
    try:
        request = _REQUEST.decode(view[:length])
    except msgspec.DecodeError as error:
        raise RequestError(f"the request is not as the protocol says: {error}") from error
    blobs = view[length:]
    inputs: list[GivenTensor] = []
    used = 0
    for tensor in request.inputs:
        refuse_tensor_parameters(tensor.name, tensor.parameters)
        data, used = _data(tensor, blobs, used)
        inputs.append(GivenTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    if used != len(blobs):
        raise RequestError("binary data after the JSON", expected=f"{used} bytes", actual=len(blobs))
    for output in request.outputs:
        refuse_tensor_parameters(output.name, output.parameters)
    default = _flag(request.parameters, "binary_data_output", False)
    return Parsed(
        InferRequest(
            model=model,
            version=version,
            id=request.id,
            inputs=tuple(inputs),
            outputs=tuple(output.name for output in request.outputs),
            timeout_s=timeout_of(request.parameters),
            protocol="rest",
        ),
        {output.name: _flag(output.parameters, "binary_data", default) for output in request.outputs},
        default,
    )


def _header_length(text: str, body: int) -> int:
    if not text:
        return body
    if not (text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS and int(text) <= body):
        raise RequestError(
            "the header Inference-Header-Content-Length",
            expected=f"a number up to the body's {body} bytes",
            actual=repr(text[:40]),
        )
    return int(text)


def _data(tensor: _Input, blobs: memoryview, used: int) -> tuple[memoryview | list[Any], int]:
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if not isinstance(tensor.data, list):
            raise RequestError(
                f"input {tensor.name[:100]!r} has no data", expected="a list under 'data', or 'binary_data_size'"
            )
        return tensor.data, used
    left = len(blobs) - used
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left or tensor.data is not None:
        raise RequestError(
            f"input {tensor.name[:100]!r}: binary_data_size",
            expected=f"a number up to the {left} bytes that follow the JSON, and no 'data' beside it",
            actual=repr(size)[:40],
        )
    return blobs[used : used + size], used + size


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"the parameter {name!r}", expected="true or false", actual=repr(value)[:40])
    return value


def encode_answer(answer: InferAnswer, parsed: Parsed) -> tuple[bytes, int | None]:
    """Writes the body of the answer.

    Returns:
        The body, and the length of its JSON part if raw bytes follow it.
    """
    blobs: list[bytes] = []
    head: dict[str, Any] = {"model_name": answer.request.model, "model_version": answer.version}
    if answer.request.id:
        head["id"] = answer.request.id
    head["parameters"] = answer.parameters
    head["outputs"] = list(_encoded(answer, parsed, blobs))
    text = msgspec.json.encode(head)
    if not blobs:
        return text, None
    return b"".join((text, *blobs)), len(text)


def _encoded(answer: InferAnswer, parsed: Parsed, blobs: list[bytes]) -> Iterator[dict[str, Any]]:
    for name in answer.outputs:
        array = answer.prediction.outputs[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype.name), "shape": array.shape}
        if parsed.binary.get(name, parsed.binary_default):
            blobs.append(to_bytes(array))
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = array.ravel().tolist()
        yield output
