"""Drawn pictures of printed text on parts, seen as `drawn_codes` shows codes: OpenCV's stroke font on brushed metal."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from tests.worlds import drawn_codes
from tests.worlds.drawn_codes import FINE, CodeView, UInt8Array

LETTER_MODULES = 21
"""Height of a letter in modules; a stroke is three of them wide."""

MARGIN = 6 * FINE


def text_picture(text: str, view: CodeView, seed: int, *, size: tuple[int, int]) -> UInt8Array:
    """Draws a region with one line of text near its middle.

    Args:
        text: Of the font's characters: printable ASCII.
        view: Its modules are 21 to a letter's height.
        seed: Of ground, place and noise.
        size: ``(height, width)`` in pixels.

    Returns:
        ``(H, W) uint8``.
    """
    rng = np.random.default_rng(seed)
    dark = letters(text)
    ink = drawn_codes._ink(dark, view, rng)
    ink = np.pad(ink, MARGIN)
    corners = drawn_codes._corners(dark.shape, view, rng, size)
    low = float(rng.uniform(10, 245 - view.contrast))
    label = low + view.contrast * (ink if view.inverted else 1 - ink)
    high, wide = dark.shape[0] * FINE, dark.shape[1] * FINE
    source = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32) + MARGIN
    ground = drawn_codes._ground(int(rng.integers(drawn_codes.GROUNDS)), size)
    seen = drawn_codes._over(ground, label, cv2.getPerspectiveTransform(source, corners))
    if view.glare:
        seen = seen + 255 * drawn_codes._glare(corners, view.glare, rng, size)
    if view.motion:
        seen = drawn_codes._moved(seen, view.motion * view.module_px, float(rng.uniform(0, np.pi)))
    if view.blur:
        seen = cv2.GaussianBlur(seen, (0, 0), view.blur * view.module_px)
    noisy = np.minimum(seen, 255) + view.noise * rng.standard_normal(size, np.float32)
    return np.asarray(np.clip(np.round(noisy), 0, 255), np.uint8)


def letters(text: str) -> npt.NDArray[np.bool_]:
    """Returns the dark modules of a text, ``(rows, columns)``."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, LETTER_MODULES / 22
    (wide, high), below = cv2.getTextSize(text, font, scale, 3)
    drawn = np.zeros((high + below + 8, wide + 8), np.uint8)
    cv2.putText(drawn, text, (4, high + 4), font, scale, (255,), 3)
    dark = drawn > 127
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return np.asarray(dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
