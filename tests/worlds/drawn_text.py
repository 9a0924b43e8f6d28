"""Drawn pictures of printed text on parts, seen as `drawn_codes` shows codes: OpenCV's stroke font on brushed metal."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from tests.worlds.drawn_codes import CodeView, UInt8Array, on_metal

LETTER_MODULES = 21
"""Height of a letter in modules; a stroke is three of them wide."""

MARGIN = 6
"""Width of the bright margin in modules."""


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
    return on_metal(letters(text), MARGIN, view, seed, size=size)[0]


def letters(text: str) -> npt.NDArray[np.bool_]:
    """Returns the dark modules of a text, ``(rows, columns)``."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, LETTER_MODULES / 22
    (wide, high), below = cv2.getTextSize(text, font, scale, 3)
    drawn = np.zeros((high + below + 8, wide + 8), np.uint8)
    cv2.putText(drawn, text, (4, high + 4), font, scale, (255,), 3)
    dark = drawn > 127
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return np.asarray(dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
