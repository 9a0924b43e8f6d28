"""Drawn boards, and photos of them that are shifted, rotated and in another light."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.simulator import render

SIDE = 320


def board(seed: int) -> UInt8Array:
    """Returns the design of this seed, ``(SIDE, SIDE) uint8``."""
    return np.asarray(
        cv2.cvtColor(render("pcb", seed, size=(SIDE, SIDE), defects=0).image, cv2.COLOR_BGR2GRAY), np.uint8
    )


def motion(shift: tuple[float, float] = (0, 0), rotation_deg: float = 0.0) -> npt.NDArray[np.float64]:
    """Returns ``(2, 3)`` of a rotation around the centre, counter-clockwise as seen, then a shift in pixels."""
    middle = (SIDE - 1) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D((middle, middle), rotation_deg, 1.0), np.float64)
    matrix[:, 2] += shift
    return matrix


def photo(
    image: UInt8Array, matrix: npt.NDArray[np.float64] | None = None, *, light: float = 1.0, seed: int = 0
) -> UInt8Array:
    """Returns a photo of a board: displaced, slightly blurred, noisy."""
    moved = cv2.warpAffine(
        image, motion() if matrix is None else matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 3, moved.shape)
    return np.clip(cv2.GaussianBlur(moved, (0, 0), 0.7) * light + noise, 0, 255).astype(np.uint8)


def with_defect(image: UInt8Array, corner: tuple[int, int] = (150, 140), side: int = 12) -> UInt8Array:
    """Returns the board with a square of the opposite grey, its corner at ``(x, y)``."""
    x, y = corner
    damaged = image.copy()
    patch = damaged[y : y + side, x : x + side]
    patch[:] = 255 if patch.mean() < 128 else 0
    return damaged
