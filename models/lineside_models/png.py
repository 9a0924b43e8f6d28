"""Reading a PNG that somebody else gave: its size is bounded before it is unpacked."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.image_file import PIXELS_MAX, decode_image


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
    how = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_ANYCOLOR
    image = decode_image(data, how=how, pixels_max=pixels_max)
    if image.dtype != np.uint8:
        raise ValueError("it is a PNG of another type")
    return np.asarray(image, np.uint8)
