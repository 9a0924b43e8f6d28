"""Pairs of a frame and its reference on a training canvas.

The geometry of a canvas and its light are those of both. What happens to one of them alone is drawn at random: what
registration leaves (a shift of up to 1.5 px, a slight rotation), edges that lie elsewhere from part to part, what the
matching of brightness leaves, blur and noise. A template paired with itself thereby becomes a good part whose edges
have moved, which is no defect.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lineside_converters.data.part_variation import displace, move_edges
from lineside_converters.training.data.augmentation import relight

CHANNELS = 3
"""Of a composed canvas."""

SHIFT_PX, SHIFT_MAX_PX = 0.6, 1.5
ROTATION_DEG, ROTATION_MAX_DEG = 0.12, 0.3
"""Standard deviation and bound of what registration leaves."""

EDGE_SHARE, EDGE_PX, EDGE_CELLS_PX = 0.4, (0.2, 1.0), (4, 40)
"""Share of the canvases whose edges move, by how many pixels (standard deviation), over which distances."""

BLUR_SHARE, BLUR_PX = 0.25, (0.4, 1.2)
NOISE_SHARE, NOISE = 0.25, (2.0, 8.0)
LIGHT_SHARE, LIGHT_GAIN, LIGHT_OFFSET = 0.3, 0.06, 8.0


def compare(pair: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Disturbs the two images of a pair, and composes them.

    Args:
        pair: ``(S, S, 2)``: grey frame and reference.

    Returns:
        ``(S, S, 3)``: frame, reference and their difference.
    """
    pair = relight(pair, rng)
    frame = _photographed(pair[..., 0], rng)
    reference = displace(
        pair[..., 1],
        shift=rng.normal(0, SHIFT_PX, 2).clip(-SHIFT_MAX_PX, SHIFT_MAX_PX),
        rotation_deg=float(np.clip(rng.normal(0, ROTATION_DEG), -ROTATION_MAX_DEG, ROTATION_MAX_DEG)),
    )
    if rng.random() < EDGE_SHARE:
        reference = move_edges(reference, rng, px=rng.uniform(*EDGE_PX), cell_px=int(rng.integers(*EDGE_CELLS_PX)))
    if rng.random() < BLUR_SHARE:
        reference = cv2.GaussianBlur(reference, (5, 5), rng.uniform(*BLUR_PX))
    return np.dstack((frame, reference, cv2.absdiff(frame, reference)))


def _photographed(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Changes light, sharpness and noise of a frame beyond what its reference has."""
    image = np.ascontiguousarray(image)
    lit, blurred, noisy = rng.random(3) < (LIGHT_SHARE, BLUR_SHARE, NOISE_SHARE)
    if lit:
        table = np.arange(256) * rng.uniform(1 - LIGHT_GAIN, 1 + LIGHT_GAIN) + rng.uniform(-LIGHT_OFFSET, LIGHT_OFFSET)
        image = cv2.LUT(image, table.clip(0, 255).astype(np.uint8))
    if blurred:
        image = cv2.GaussianBlur(image, (5, 5), rng.uniform(*BLUR_PX))
    if noisy:
        image = cv2.add(image, rng.normal(0, rng.uniform(*NOISE), image.shape).astype(np.float32), dtype=cv2.CV_8U)
    return np.asarray(image, np.uint8)
