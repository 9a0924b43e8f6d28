"""Check an uploaded image against the hash in its record."""

from __future__ import annotations

import struct

from lineside_runtime.errors import FrameError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

_PIXELS_MAX = 50_000_000
"""A decoded image of 150 MB; the largest sensors on lines have half of it."""

_GREY_OR_RGB = (0, 2)
"""Colour types of PNG, section 11.2.1."""


def check_image(data: bytes, *, width: int, height: int) -> None:
    """Decodes a PNG after `check_head`; arguments and errors as there."""
    found = check_head(data, width=width, height=height)
    import cv2  # 20 MB that a hub without frames doesn't need
    import numpy as np

    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FrameError(f"a frame can't be decoded: {error}") from error
    if decoded is None or decoded.shape[:2] != (found[1], found[0]):
        raise FrameError("a frame can't be decoded")


def check_head(data: bytes, *, width: int, height: int) -> tuple[int, int]:
    """Checks format and size of a PNG without decoding it, so that a small file cannot expand to gigabytes.

    Args:
        width: In the record, in pixels; 0 if unknown.
        height: In the record, in pixels; 0 if unknown.

    Returns:
        Width and height in pixels.
    """
    if not data.startswith(_SIGNATURE) or not data.endswith(_END) or data[12:16] != b"IHDR" or len(data) < 45:
        raise FrameError("a frame is no whole PNG file")
    bits, colour = data[24], data[25]
    if bits != 8 or colour not in _GREY_OR_RGB:
        raise FrameError("a frame's format", expected="8-bit grey or RGB", actual=f"{bits} bits, colour type {colour}")
    found = size_of(data)
    if (width and height and found != (width, height)) or not 0 < found[0] * found[1] <= _PIXELS_MAX:
        raise FrameError("a frame of another size", expected=f"{width}x{height}", actual=f"{found[0]}x{found[1]}")
    return found


def size_of(data: bytes) -> tuple[int, int]:
    """Returns width and height of a PNG whose head was checked."""
    width, height = struct.unpack(">II", data[16:24])
    return width, height
