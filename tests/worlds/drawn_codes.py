"""Drawn pictures of codes on parts whose text and place are known: QR by segno, the others by zxing-cpp's writer."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FINE = 8
"""Pixels of one module before it is seen by the camera."""

QUIET = {"data-matrix": 2, "qr": 4, "code-128": 10, "ean-13": 11}
"""Modules of the quiet zone on each side."""

GROUNDS = 16
"""Pieces of metal on which codes lie."""

BAR_MODULES = 30
"""Height of linear codes in modules."""


@dataclasses.dataclass(frozen=True)
class CodeView:
    """How a code is seen.

    Attributes:
        module_px: Pixels of one module in the frame.
        blur: Standard deviation of the camera's blur in modules.
        motion: Length of motion blur in modules.
        contrast: Grey levels between dark and bright modules.
        noise: Standard deviation of the noise in grey levels.
        glare: Share of the code's area that a reflection whitens.
        damage: Share of the code's area that scratches and chips cover.
        tilt: Perspective: relative difference in length of opposite sides.
        angle: Rotation in degrees; ``None`` for any.
        bend: Part of a turn that the code spans around a cylinder; 0 for a plane.
        inverted: Whether the modules are bright on dark.
        dots: Whether dark modules are separate dots, as by dot peening.
    """

    module_px: float = 4.0
    blur: float = 0.15
    motion: float = 0.0
    contrast: float = 140.0
    noise: float = 4.0
    glare: float = 0.0
    damage: float = 0.0
    tilt: float = 0.0
    angle: float | None = None
    bend: float = 0.0
    inverted: bool = False
    dots: bool = False


def modules(symbology: str, text: str, *, gs1: bool = False) -> npt.NDArray[np.bool_]:
    """Returns the dark modules of a code without its quiet zone, ``(rows, columns)``.

    Args:
        symbology: A key of `QUIET`.
        text: Content; with ``gs1`` with application identifiers in square brackets.
    """
    if symbology == "qr" and not gs1:
        import segno

        code = segno.make(text, error="m", micro=False)
        return np.array([[bool(module) for module in row] for row in code.matrix])
    import zxingcpp

    formats = {
        "data-matrix": zxingcpp.BarcodeFormat.DataMatrix,
        "qr": zxingcpp.BarcodeFormat.QRCode,
        "code-128": zxingcpp.BarcodeFormat.Code128,
        "ean-13": zxingcpp.BarcodeFormat.EAN13,
    }
    options = {"gs1": True} if gs1 else {}
    made = zxingcpp.create_barcode(text, formats[symbology], **options)
    dark = np.array(zxingcpp.write_barcode_to_image(made, scale=1, add_quiet_zones=False)) < 128
    if symbology in ("code-128", "ean-13"):
        middle = dark[dark.shape[0] // 2]
        dark = np.repeat(middle[None], BAR_MODULES, axis=0)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return np.asarray(dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def picture(
    symbology: str, text: str, view: CodeView, seed: int, *, size: tuple[int, int] = (480, 640), gs1: bool = False
) -> tuple[UInt8Array, Floats]:
    """Draws a frame with one code near its middle.

    Args:
        size: ``(height, width)`` of the frame in pixels.

    Returns:
        ``(H, W) uint8``, and the code's corners ``(4, 2)`` in pixels, clockwise from its own top left.
    """
    return on_metal(modules(symbology, text, gs1=gs1), QUIET[symbology], view, seed, size=size)


def on_metal(
    dark: npt.NDArray[np.bool_], quiet: int, view: CodeView, seed: int, *, size: tuple[int, int]
) -> tuple[UInt8Array, Floats]:
    """Draws dark modules on a label on brushed metal, as `picture` and `drawn_text.text_picture` do.

    Args:
        dark: ``(rows, columns)``, as `modules`.
        quiet: Width of the bright margin in modules.
        view: How they are seen.
        seed: Of ground, place and noise.
        size: ``(height, width)`` in pixels.

    Returns:
        As `picture`.
    """
    rng = np.random.default_rng(seed)
    margin = quiet * FINE
    ink = np.pad(_ink(dark, view, rng), margin)
    corners = _corners(dark.shape, view, rng, size)
    low = float(rng.uniform(10, 245 - view.contrast))
    label = low + view.contrast * (ink if view.inverted else 1 - ink)
    high, wide = dark.shape[0] * FINE, dark.shape[1] * FINE
    source = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32) + margin
    seen = _over(_ground(int(rng.integers(GROUNDS)), size), label, cv2.getPerspectiveTransform(source, corners))
    if view.glare:
        seen = seen + 255 * _glare(corners, view.glare, rng, size)
    if view.motion:
        seen = _moved(seen, view.motion * view.module_px, float(rng.uniform(0, np.pi)))
    if view.blur:
        seen = cv2.GaussianBlur(seen, (0, 0), view.blur * view.module_px)
    noisy = np.minimum(seen, 255) + view.noise * rng.standard_normal(size, np.float32)
    return np.asarray(np.clip(np.round(noisy), 0, 255), np.uint8), corners


def empty(seed: int, *, size: tuple[int, int] = (480, 640)) -> UInt8Array:
    """Draws a frame of metal without a code, ``(H, W) uint8``."""
    rng = np.random.default_rng(seed)
    noisy = _ground(int(rng.integers(GROUNDS)), size) + CodeView.noise * rng.standard_normal(size, np.float32)
    return np.asarray(np.clip(np.round(noisy), 0, 255), np.uint8)


def _ink(dark: npt.NDArray[np.bool_], view: CodeView, rng: np.random.Generator) -> Floats:
    """Returns how dark each place of the code is, 0 to 1."""
    cell = np.ones((FINE, FINE), np.float32)
    if view.dots:
        y, x = np.mgrid[:FINE, :FINE] + 0.5 - FINE / 2
        cell = (np.hypot(x, y) < 0.42 * FINE).astype(np.float32)
    ink = np.asarray(np.kron(dark.astype(np.float32), cell), np.float32)
    if view.damage:
        ink = _damaged(ink, view.damage, rng)
    if view.bend:
        wide = ink.shape[1]
        # A point at the angle a of the cylinder is seen at sin(a).
        seen = (np.arange(wide) + 0.5) / wide * 2 - 1
        half = np.pi * view.bend
        columns = (np.arcsin(seen * np.sin(half)) / half + 1) / 2 * wide - 0.5
        x, y = np.meshgrid(columns.astype(np.float32), np.arange(ink.shape[0], dtype=np.float32))
        ink = np.asarray(cv2.remap(ink, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return ink


def _damaged(ink: Floats, share: float, rng: np.random.Generator) -> Floats:
    """Covers a share of the code by chips and scratches, dark or bright."""
    done, covered = ink.copy(), np.zeros(ink.shape, np.uint8)
    high, wide = ink.shape
    while covered.mean() < share:
        at = (int(rng.integers(wide)), int(rng.integers(high)))
        shape = np.zeros(ink.shape, np.uint8)
        if rng.random() < 0.5:
            away = rng.normal(0, 0.25 * high, 2)
            to = (int(at[0] + away[0]), int(at[1] + away[1]))
            cv2.line(shape, at, to, 1, int(rng.integers(3, FINE)))
        else:
            axes = (int(rng.integers(4, 1 + int(1.5 * FINE))), int(rng.integers(4, 1 + int(1.5 * FINE))))
            cv2.ellipse(shape, at, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        done[shape > 0] = float(rng.random() < 0.4)
        covered |= shape
    return done


def _corners(shape: tuple[int, ...], view: CodeView, rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Returns where the code's corners are in the frame."""
    high, wide = shape[0] * view.module_px, shape[1] * view.module_px
    square = np.array([[-wide, -high], [wide, -high], [wide, high], [-wide, high]]) / 2
    if view.tilt:
        axis = int(rng.integers(2))
        square = square * (1 + view.tilt / 2 * np.sign(square[:, axis])[:, None])
    angle = np.deg2rad(rng.uniform(0, 360) if view.angle is None else view.angle)
    turned = square @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([size[1], size[0]]) / 2 + rng.uniform(-20, 20, 2)
    return np.asarray(turned + middle, np.float32)


@functools.lru_cache(GROUNDS)
def _ground(number: int, size: tuple[int, int]) -> Floats:
    """Returns brushed metal; kept, because it takes longer to draw than a code."""
    rng = np.random.default_rng([number, 7])
    coarse = cv2.resize(rng.normal(0, 18, (4, 5)), size[::-1], interpolation=cv2.INTER_CUBIC)
    brushed = cv2.GaussianBlur(40 * rng.standard_normal(size, np.float32), (0, 0), sigmaX=12, sigmaY=0.7)
    return np.asarray(rng.uniform(90, 160) + coarse + brushed, np.float32)


def _over(ground: Floats, label: Floats, to_frame: npt.NDArray[np.float64]) -> Floats:
    """Lays the label over the ground; each pixel of the frame is the mean of 3 x 3 places."""
    fine, (high, wide) = 3, label.shape
    rim = cv2.perspectiveTransform(np.array([[[0, 0], [wide, 0], [wide, high], [0, high]]], np.float64), to_frame)[0]
    left, top = np.clip(np.floor(rim.min(axis=0)).astype(int) - 1, 0, None).tolist()
    right, bottom = np.minimum(np.ceil(rim.max(axis=0)).astype(int) + 1, ground.shape[::-1]).tolist()
    size = (right - left, bottom - top)
    cut = np.array([[fine, 0, (fine - 1) / 2 - fine * left], [0, fine, (fine - 1) / 2 - fine * top], [0, 0, 1]])
    large = (fine * size[0], fine * size[1])
    drawn, inside = (
        cv2.resize(cv2.warpPerspective(one, cut @ to_frame, large), size, interpolation=cv2.INTER_AREA)
        for one in (label, np.ones_like(label))
    )
    seen = ground.copy()
    seen[top:bottom, left:right] = drawn + (1 - inside) * seen[top:bottom, left:right]
    return seen


def _glare(corners: Floats, share: float, rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Returns a reflection with soft edges on a share of the code."""
    area = float(cv2.contourArea(corners)) * share
    middle = corners.mean(axis=0) + rng.uniform(-0.3, 0.3, 2) * np.ptp(corners, axis=0)
    long = np.sqrt(area / np.pi) * rng.uniform(1.0, 2.5)
    axes = (int(max(1, long)), int(max(1, area / np.pi / long)))
    spot = np.zeros(size, np.float32)
    place = (int(middle[0]), int(middle[1]))
    cv2.ellipse(spot, place, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(spot, (0, 0), 2.0), np.float32)


def _moved(image: Floats, length_px: float, direction: float) -> Floats:
    """Returns the mean of the image along a way of this length."""
    steps = max(2, round(2 * length_px))
    high, wide = image.shape
    total = np.zeros_like(image)
    for along in np.linspace(-length_px / 2, length_px / 2, steps):
        shift = np.array([[1, 0, along * np.cos(direction)], [0, 1, along * np.sin(direction)]])
        total += cv2.warpAffine(image, shift, (wide, high), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(total / steps, np.float32)


LABEL: dict[str, Any] = {
    "type": "code",
    "name": "label",
    "region": [0, 0, 160, 160],
    "symbologies": ["data-matrix"],
    "part_id": True,
}
HEAT: dict[str, Any] = {
    "type": "code",
    "name": "heat",
    "region": [160, 0, 320, 160],
    "symbologies": ["qr"],
    "pattern": r"HEAT ([A-Z0-9]+)",
    "agrees_with": "heat_number",
}
BAD = ((40, 200), (72, 232))
"""Corners of what the bundle takes for a defect."""


def coil(label: str, heat: str, *, defect: bool = False) -> np.ndarray:
    """A grey coil with two codes that are darker than what the bundle finds, ``(H, W, 3) uint8``."""
    image = np.full((256, 320, 3), 90, np.uint8)
    for left, symbology, text in ((0, "data-matrix", label), (160, "qr", f"HEAT {heat}")):
        if text:
            dark = np.kron(modules(symbology, text), np.ones((4, 4), bool))
            image[20 : 20 + dark.shape[0], left + 20 : left + 20 + dark.shape[1]][dark] = 10
    if defect:
        cv2.rectangle(image, *BAD, (255, 255, 255), -1)
    return image
