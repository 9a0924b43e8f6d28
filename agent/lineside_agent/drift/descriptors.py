"""Brightness, contrast and sharpness of a frame, in about a tenth of a millisecond whatever its size.

Only some rows and columns are looked at, each at the camera's own resolution: that is where focus shows. Of a colour
frame it is the green channel, which most of a sensor's pixels see.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

PIXELS = 48_000
"""So many are looked at in rows, and as many in columns."""

_TINY = 1e-3


class Descriptors(NamedTuple):
    """What a frame looks like.

    Attributes:
        brightness: Mean grey value, 0 to 255.
        contrast: Standard deviation of the grey values, 0 to 127.5.
        sharpness: Logarithm (base 10) of the mean square of neighbouring pixels' differences over the variance: it
            falls when the lens loses focus, and not when the lamp loses light.
    """

    brightness: float
    contrast: float
    sharpness: float


def describe(image: NDArray[np.uint8]) -> Descriptors:
    """Describes a frame.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``; not changed.
    """
    grey = image if image.ndim == 2 else image[..., 1]
    height, width = grey.shape
    step = max(1, round(height * width / PIXELS))
    rows = np.ascontiguousarray(grey[:: min(step, max(1, height // 2))])
    columns = np.ascontiguousarray(grey[:, :: min(step, max(1, width // 2))].T)
    mean, deviation = cv2.meanStdDev(rows)
    brightness, contrast = float(mean[0, 0]), float(deviation[0, 0])
    energy = (_energy(rows) + _energy(columns)) / 2
    return Descriptors(brightness, contrast, math.log10((energy + _TINY) / (contrast**2 + _TINY)))


def _energy(lines: NDArray[np.uint8]) -> float:
    """Mean square of the difference of neighbours along the lines, ``(lines, pixels)``."""
    later, earlier = lines[:, 1:], lines[:, :-1]
    return cv2.norm(later, earlier, cv2.NORM_L2SQR) / max(1, later.size)
