"""Data Matrix, QR and linear codes, found and decoded by zxing-cpp.

zxing-cpp reads what is sharp, upright and clean in a few milliseconds. Where nothing is read, other forms of the region
follow: without noise, enlarged, with local contrast, and for linear codes turned so that their bars stand upright and
smoothed along them. The order is that of most codes read for their time (benchmark ``codes``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.identification.found_mark import FindMarks, FoundMark
from lineside_models.identification.rules import CodeRule
from lineside_runtime.errors import MissingExtraError

RETRY_PIXELS_MAX = 2_000_000
"""Pixels of a region; larger ones are looked at once, so that a part without a code does not hold up the line."""

EDGE_PX = 1.5
"""How far a code's corner may lie outside the region: corners are rounded."""

ALONG_BARS_PX = (7, 21)
"""Lengths of the means along the bars of a linear code."""

_FORMATS = {
    "data-matrix": "DataMatrix",
    "qr": "QRCode",
    "micro-qr": "MicroQRCode",
    "rmqr": "RMQRCode",
    "aztec": "Aztec",
    "pdf417": "PDF417",
    "code-128": "Code128",
    "code-39": "Code39",
    "code-93": "Code93",
    "codabar": "Codabar",
    "itf": "ITF",
    "ean-13": "EAN13",
    "ean-8": "EAN8",
    "upc-a": "UPCA",
    "upc-e": "UPCE",
    "databar": "DataBar",
    "databar-expanded": "DataBarExp",
}
_MATRIX = frozenset({"data-matrix", "qr", "micro-qr", "rmqr", "aztec", "pdf417"})
"""Symbologies with error correction."""

Affine = npt.NDArray[np.float64]
_SAME: Affine = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


class _Form(NamedTuple):
    """A form of the region.

    Attributes:
        to_form: ``(2, 3)``, from pixels of the region to those of the form.
        upright: Whether only upright bars are looked for, at this size.
    """

    image: UInt8Array
    to_form: Affine = _SAME
    upright: bool = False


def open_code_reader(rule: CodeRule) -> FindMarks:
    """Returns what finds the codes of a rule in a region, one list for each form of the region in which there are any.

    Raises:
        MissingExtraError: zxing-cpp is not installed.
    """
    try:
        import zxingcpp
    except ImportError as error:
        action = "pip install 'lineside[codes]'"
        raise MissingExtraError(f"the rule {rule.name} needs zxing-cpp", action=action) from error
    of_name = {name: getattr(zxingcpp.BarcodeFormat, _FORMATS[name]) for name in rule.symbologies}
    families = [
        (forms, [of_name[name] for name in rule.symbologies if (name in _MATRIX) == is_matrix], is_matrix)
        for is_matrix, forms in ((True, _matrix_forms), (False, _linear_forms))
    ]

    def decode(form: _Form, formats: list[Any], size: tuple[int, int]) -> list[FoundMark]:
        read = zxingcpp.read_barcodes(
            form.image,
            formats=formats,
            text_mode=zxingcpp.TextMode.Plain,
            try_rotate=not form.upright,
            try_downscale=not form.upright,
        )
        back = cv2.invertAffineTransform(form.to_form)
        marks = [_mark(one, back, rule) for one in read if one.valid]
        return [mark for mark in marks if _is_inside(mark, size)]

    def find(image: UInt8Array) -> Iterator[list[FoundMark]]:
        grey = np.asarray(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        size = (grey.shape[1], grey.shape[0])
        yield decode(_Form(grey), list(of_name.values()), size)
        if grey.size > RETRY_PIXELS_MAX:
            return
        for forms, formats, is_matrix in families:
            seen: set[str] = set()
            for form in forms(grey) if formats else ():
                found = decode(form, formats, size)
                # A checksum of one digit lets one of ten to a hundred wrong texts pass: two forms must agree.
                yield [mark for mark in found if is_matrix or mark.content in seen]
                seen |= {mark.content for mark in found}

    return find


def _mark(code: Any, back: Affine, rule: CodeRule) -> FoundMark:
    place = code.position
    corners = [(one.x, one.y) for one in (place.top_left, place.top_right, place.bottom_right, place.bottom_left)]
    outline = np.array(corners, np.float64) @ back[:, :2].T + back[:, 2]
    names: dict[str, str] = {_FORMATS[name]: name for name in rule.symbologies}
    name = names.get(code.format.name) or names.get(code.symbology.name, "")
    return FoundMark(content=code.text, symbology=name, outline=tuple((float(x), float(y)) for x, y in outline))


def _is_inside(mark: FoundMark, size: tuple[int, int]) -> bool:
    return all(
        -EDGE_PX <= x <= size[0] - 1 + EDGE_PX and -EDGE_PX <= y <= size[1] - 1 + EDGE_PX for x, y in mark.outline
    )


def _matrix_forms(grey: UInt8Array) -> Iterator[_Form]:
    clean = _u8(cv2.medianBlur(grey, 3))
    yield _Form(clean)
    enlarged = _enlarged(grey)
    yield enlarged
    yield _Form(_levels(grey, 21))
    yield _Form(_u8(cv2.createCLAHE(3.0, (8, 8)).apply(clean)))
    yield enlarged._replace(image=_levels(enlarged.image, 41))


def _linear_forms(grey: UInt8Array) -> Iterator[_Form]:
    main = _bars_angle(grey)
    for angle in (main, *((main + step) % 180 for step in (30, 60, 90, 120, 150))):
        turned = _turned(grey, angle)
        means = [_u8(cv2.blur(turned.image, (1, length))) for length in ALONG_BARS_PX]
        for image in (*means, *(255 - mean for mean in means)):
            yield turned._replace(image=image, upright=True)


def _u8(image: Any) -> UInt8Array:
    return np.asarray(image, np.uint8)


def _enlarged(grey: UInt8Array) -> _Form:
    twice = cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return _Form(_u8(twice), np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]))


def _levels(grey: UInt8Array, around: int) -> UInt8Array:
    """Returns black and white by the mean around each pixel."""
    return _u8(cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, min(around, 255), 2))


def _bars_angle(grey: UInt8Array) -> float:
    """Returns the direction across the strongest parallel edges, in degrees, 0 to 180 (structure tensor)."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    return math.degrees(math.atan2(2 * float((x * y).sum()), float((x * x - y * y).sum()))) / 2 % 180


def _turned(grey: UInt8Array, angle: float) -> _Form:
    """Returns the region turned so that this direction is horizontal, enlarged so that nothing is cut off."""
    height, width = grey.shape
    matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0), np.float64)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    wide, high = round(height * sin + width * cos), round(height * cos + width * sin)
    matrix[:, 2] += [(wide - width) / 2, (high - height) / 2]
    turned = cv2.warpAffine(grey, matrix, (wide, high), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _Form(_u8(turned), matrix)
