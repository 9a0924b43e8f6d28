"""Brightness, contrast and sharpness of a frame, in about 0.1 ms for any size.

Only some pairs of neighbouring rows are looked at, at the camera's own resolution: that is where focus shows. Of a
colour frame it is the green channel, which most of a sensor's pixels see.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

PIXELS = 48_000
"""Pixels that are measured, each with the one below it."""

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
    step = max(2, round(height * width / PIXELS))
    step = min(step, max(2, height // 4))
    upper = np.ascontiguousarray(grey[: max(1, height - 1) : step])
    lower = np.ascontiguousarray(grey[1::step])
    mean, deviation = cv2.meanStdDev(upper)
    brightness, contrast = float(mean[0, 0]), float(deviation[0, 0])
    energy = (_energy(upper[:, 1:], upper[:, :-1]) + _energy(upper[: len(lower)], lower)) / 2
    return Descriptors(brightness, contrast, math.log10((energy + _TINY) / (contrast**2 + _TINY)))


def _energy(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean square of the difference of two arrays of one shape."""
    return cv2.norm(first, second, cv2.NORM_L2SQR) / first.size if first.size else 0.0
