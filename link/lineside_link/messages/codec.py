"""Encode, decode and describe messages."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from lineside_link.messages.alarms import DeviceAlarms
from lineside_link.messages.base import VERSION, Message
from lineside_link.messages.certificates import CertificateAnswer, CertificateRequest
from lineside_link.messages.commands import LogAnswer, LogCommand, RecipeAnswer, RecipeCommand, TimeAnswer, TimeCommand
from lineside_link.messages.desired import Desired
from lineside_link.messages.frames import FrameAnswer, FramePiece
from lineside_link.messages.interactions import InteractionRows
from lineside_link.messages.reported import Reported, Up
from lineside_link.messages.repository import Deltas, Multicast, RepoRequest, RepoResponse
from lineside_link.messages.results import Results, ResultsAck
from lineside_runtime.decoding import JsonDecoder, decode_json
from lineside_runtime.errors import BadInputFormatError

MESSAGE_MAX_BYTES = 1 << 20
"""The largest payload that a device sends and the hub accepts; the generated broker configuration refuses more."""

KINDS = (
    Desired,
    Reported,
    Up,
    RepoRequest,
    RepoResponse,
    Deltas,
    Multicast,
    Results,
    ResultsAck,
    InteractionRows,
    FramePiece,
    FrameAnswer,
    RecipeCommand,
    RecipeAnswer,
    TimeCommand,
    TimeAnswer,
    LogCommand,
    LogAnswer,
    CertificateRequest,
    CertificateAnswer,
    DeviceAlarms,
)
"""All messages."""

_DECODERS: dict[type, JsonDecoder[Any]] = {kind: JsonDecoder(kind) for kind in KINDS}
"""Made while this module is imported, in one thread: two threads that decode a class for the first time at the same
time crash the process (msgspec 0.22 works out the layout of a class at its first use, without a lock)."""

M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """Returns the message as JSON."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray, kind: type[M]) -> M:
    """Reads a message of a class.

    Raises:
        BadInputFormatError: Not such a message, or of a version that differs by more than one.
    """
    try:
        message: M = _DECODERS[kind].decode(data)
    except msgspec.DecodeError as error:
        raise BadInputFormatError(
            f"{kind.__name__} message: {error}", action="Nothing was done with it; look at who sends on this topic."
        ) from error
    if abs(message.v - VERSION) > 1:
        raise BadInputFormatError(
            f"{kind.__name__} message of another version",
            expected=f"{VERSION - 1} to {VERSION + 1}",
            actual=message.v,
            action="Update the older end.",
        )
    return message


def encode_framed(head: Message, body: bytes = b"") -> bytes:
    """Returns the head as one line of JSON, a newline and the bytes."""
    return _encoder.encode(head) + b"\n" + body


def decode_framed(data: bytes | bytearray, kind: type[M]) -> tuple[M, memoryview]:
    """Splits what `encode_framed` made; the bytes are not copied.

    Raises:
        BadInputFormatError: There is no head, or `decode` refuses it.
    """
    end = data.find(b"\n")
    if end < 0:
        raise BadInputFormatError(f"{kind.__name__} message without a head", action="Nothing was done with it.")
    return decode(data[:end], kind), memoryview(data)[end + 1 :]


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of all messages, by class name under ``$defs``."""
    _, components = msgspec.json.schema_components(KINDS, ref_template="#/$defs/{name}")
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": components}
    # Once through JSON, so that defaults are lists as every validator knows them, and not tuples.
    plain: dict[str, Any] = decode_json(msgspec.json.encode(described))
    return plain
