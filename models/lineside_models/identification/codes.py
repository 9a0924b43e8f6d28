"""Data Matrix, QR and linear codes, found and decoded by zxing-cpp.

zxing-cpp reads what is sharp, upright and clean in a few milliseconds. Where nothing is read, other forms of the region
follow: without noise, enlarged, with local contrast, and for linear codes turned so that their bars stand upright and
smoothed along them, then stretched and sharpened across them. The order is that of most codes read for their time
(benchmark ``codes``).
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
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import MissingExtraError

RETRY_PIXELS_MAX = 2_000_000
"""Pixels of a region; larger ones are looked at once, so that a part without a code does not hold up the line."""

EDGE_PX = 1.5
"""How far a code's corner may lie outside the region: corners are rounded."""

ALONG_BARS_PX = (7, 21)
"""Lengths of the means along the bars of a linear code."""

ROW_STEP = 3
"""Rows of these means that are one line for the decoder: neighbours say the same."""

SHARPEN_PX = 4.0
SHARPEN = 2.0
"""Unsharp mask across the bars of a linear code that is stretched to twice its length. A mask of 6 pixels and 3.0 read
fewer and gave a wrong text."""

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
        grey = to_grey(image)
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
    for step in (0, 30, 60, 90, 120, 150):
        for wider in (1.0, 2.0) if step == 0 else (1.0,):
            turned = _turned(grey, (main + step) % 180, wider, cv2.INTER_LINEAR if step else cv2.INTER_CUBIC)
            means = [_u8(cv2.blur(turned.image, (1, length))[::ROW_STEP]) for length in ALONG_BARS_PX]
            if wider > 1:
                means += [_sharper(mean) for mean in means]
            rows = np.array([[1.0], [1.0 / ROW_STEP]])
            for image in (*means, *(255 - mean for mean in means)):
                yield _Form(image, rows * turned.to_form, upright=True)


def _u8(image: Any) -> UInt8Array:
    return np.asarray(image, np.uint8)


def _enlarged(grey: UInt8Array) -> _Form:
    twice = cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return _Form(_u8(twice), np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]))


def _levels(grey: UInt8Array, around: int) -> UInt8Array:
    """Returns black and white by the mean around each pixel."""
    return _u8(cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, min(around, 255), 2))


def _sharper(image: UInt8Array) -> UInt8Array:
    """Returns the image with stronger steps across the bars."""
    soft = cv2.GaussianBlur(image, (0, 0), sigmaX=SHARPEN_PX, sigmaY=0.01)
    return _u8(cv2.addWeighted(image, 1 + SHARPEN, soft, -SHARPEN, 0))


def _bars_angle(grey: UInt8Array) -> float:
    """Returns the direction across the strongest parallel edges, in degrees, 0 to 180 (structure tensor)."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    return math.degrees(math.atan2(2 * float((x * y).sum()), float((x * x - y * y).sum()))) / 2 % 180


def _turned(grey: UInt8Array, angle: float, wider: float, flags: int) -> _Form:
    """Returns the region, turned so that this direction is horizontal, stretched along it, with room for all of it."""
    height, width = grey.shape
    matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0), np.float64)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    wide, high = round(height * sin + width * cos), round(height * cos + width * sin)
    matrix[:, 2] += [(wide - width) / 2, (high - height) / 2]
    matrix[0] *= wider
    matrix[0, 2] += (wider - 1) / 2
    size = (round(wider * wide), high)
    turned = cv2.warpAffine(grey, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return _Form(_u8(turned), matrix)
