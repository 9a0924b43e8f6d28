"""Reading a PNG that somebody else gave: its size is bounded before it is unpacked."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

PIXELS_MAX = 1 << 26
"""64 megapixels: more than a line camera's frame, and far less than a compressed bomb."""


def decode_png(data: bytes, *, pixels_max: int = PIXELS_MAX, grey: bool = False) -> npt.NDArray[np.uint8]:
    """Unpacks a PNG.

    Args:
        data: The file's content.
        pixels_max: How many pixels it may have.
        grey: Whether colours become grey.

    Returns:
        ``(H, W) uint8`` or ``(H, W, 3) uint8`` BGR.

    Raises:
        ValueError: It is no PNG of 8 bits, has too many pixels, or is damaged.
    """
    # https://www.w3.org/TR/png-3/#11IHDR: signature, length, "IHDR", width, height
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        raise ValueError("it is not a PNG")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > pixels_max:
        raise ValueError(f"it has {width} × {height} pixels, at most {pixels_max} in all are read")
    how = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_ANYCOLOR
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if image is None or image.dtype != np.uint8:
        raise ValueError("it is a damaged PNG")
    return np.asarray(image, np.uint8)
