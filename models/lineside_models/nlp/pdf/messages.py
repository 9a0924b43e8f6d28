"""What the process that reads a PDF and its parent tell each other: four bytes of length, then MessagePack."""

from __future__ import annotations

import struct
from typing import BinaryIO, TypeVar

import msgspec

from lineside_models.nlp.limits import DocumentLimits

LENGTH = struct.Struct("<I")
MESSAGE_MAX_BYTES = 64 << 20

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The file and its limits: all pages are read, or some of them rendered.

    Attributes:
        limits: What it may cost.
        images: Numbers of pages that are rendered instead; empty to read all.
        dpi: Resolution of these images.
    """

    data: bytes
    limits: DocumentLimits
    images: tuple[int, ...] = ()
    dpi: float = 100.0


class PdfWord(msgspec.Struct, frozen=True, array_like=True):
    """A word in points of the page as it is displayed; ``angle`` in degrees clockwise, a multiple of 90.

    A word that ``is_hidden`` is drawn in white or not at all.
    """

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    angle: int
    is_hidden: bool = False


class PdfPage(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A page: its words, or its image in 8 bits of grey where it has no text that can be read."""

    number: int
    width: float
    height: float
    words: tuple[PdfWord, ...] = ()
    image: bytes = b""
    image_size: tuple[int, int] = (0, 0)


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Why the file is not read."""

    message: str
    expected: str
    actual: str
    action: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """All pages were sent."""


Answer = PdfPage | Refused | Finished


def send(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Writes a message."""
    body = msgspec.msgpack.encode(message)
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def receive(stream: BinaryIO, decoder: msgspec.msgpack.Decoder[T], *, most: int = MESSAGE_MAX_BYTES) -> T:
    """Reads a message.

    Raises:
        EOFError: The other end is gone.
        ValueError: It is longer than ``most``, or no message.
    """
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    if length > most:
        raise ValueError(f"a message of {length} bytes")
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return decoder.decode(body)
