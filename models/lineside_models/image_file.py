"""Encode image files, and decode untrusted ones: their size is bounded before the pixels are unpacked.

A PNG of 400 KB can contain 400 megapixels, and OpenCV's own limit is a gigapixel.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of the files that are taken from a folder."""

PIXELS_MAX = 1 << 26
"""64 megapixels: more than a line camera's frame, and far less than a compressed bomb."""

BRIGHTEST_LEAST = 1 << 12
"""Of an image of 16 bits. A camera of 10 or 12 bits whose values were not shifted up stays below it: in 8 bits its
images are nearly black, 4 bits of grey at most.
"""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers that carry the size (ITU T.81, table B.1)."""

_TIFF_SIZES = {256: 0, 257: 1}
"""Tags ImageWidth and ImageLength (TIFF 6.0, section 8)."""


def decode_image(
    data: bytes, *, how: int = cv2.IMREAD_ANYCOLOR, pixels_max: int = PIXELS_MAX
) -> npt.NDArray[np.generic]:
    """Decodes an image file; the orientation in its EXIF data is applied.

    Args:
        data: Content of a BMP, JPEG, PNG, PNM, TIFF or WebP file.
        how: One of OpenCV's ``IMREAD_…`` that give 8 bits.

    Returns:
        ``(H, W)`` or ``(H, W, C)`` uint8, colours as BGR; of 16 bits the upper 8.

    Raises:
        ValueError: It is none of these, damaged, or too large; or its pixels are no whole numbers, or have 16 bits that
            are hardly used.
    """
    if not data:
        raise ValueError("the file is empty")
    size = image_size(data)
    if size is None:
        raise ValueError("its format is not known")
    if not 0 < size[0] * size[1] <= pixels_max:
        raise ValueError(f"it has {size[0]} × {size[1]} pixels, at most {pixels_max} in all are read")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from error
    if image is None:
        raise ValueError("it is damaged")
    return _upper_8_bits(np.asarray(image))


def _upper_8_bits(image: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise ValueError(f"its pixels are {image.dtype}: 8 or 16 bits are read")
    deep = np.asarray(image, np.uint16)
    brightest = int(deep.max())
    if brightest < BRIGHTEST_LEAST:
        raise ValueError(
            f"it has 16 bits, and its brightest pixel is {brightest} of 65535: it would be nearly black; shift its "
            "values up (those of a camera of 12 bits by 4), or write 8 bits"
        )
    return np.asarray(deep >> 8, np.uint8)


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int, *, side_max: int | None = None) -> bytes:
    """Encodes ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.

    Args:
        quality: 1 to 100.
        side_max: Of the longer side, in pixels: a larger image is made smaller; ``None`` for no limit.
    """
    height, width = image.shape[:2]
    scale = 1.0 if side_max is None else side_max / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def decode_png(data: bytes, *, pixels_max: int = PIXELS_MAX, grey: bool = False) -> npt.NDArray[np.uint8]:
    """Unpacks a PNG.

    Args:
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


def image_size(data: bytes) -> tuple[int, int] | None:
    """Returns width and height that the head of an image file names; ``None`` if it is of no known format."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _pair(">II", data, 16)
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if data[:2] == b"BM":
            width, height = _pair("<HH", data, 18) if data[14] == 12 else _pair("<ii", data, 18)
            return abs(width), abs(height)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
        if data[:1] == b"P" and data[1:2] in b"123456":
            return _pnm_size(data)
    except (struct.error, IndexError, ValueError):
        return None
    return None


def _pair(form: str, data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, offset)
    return int(first), int(second)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    offset = 2
    while True:
        while data[offset] == 0xFF and data[offset + 1] == 0xFF:  # fill bytes
            offset += 1
        marker, (length,) = data[offset + 1], struct.unpack_from(">H", data, offset + 2)
        if data[offset] != 0xFF:
            return None
        if marker in _FRAME_HEADERS:
            height, width = _pair(">HH", data, offset + 5)
            return width, height
        offset += 2 + length


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":  # https://www.rfc-editor.org/rfc/rfc6386#section-9.1
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":  # https://www.rfc-editor.org/rfc/rfc9649#section-3.4
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    sizes: dict[int, int] = {}
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind = _pair(f"{order}HH", data, entry)
        if tag in _TIFF_SIZES:
            (sizes[_TIFF_SIZES[tag]],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _pnm_size(data: bytes) -> tuple[int, int]:
    lines = data[2:1024].split(b"\n")
    words = b" ".join(line.partition(b"#")[0] for line in lines).split()
    return int(words[0]), int(words[1])
