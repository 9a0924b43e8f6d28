"""Cutting training canvases out of images, with their boxes. Numpy and OpenCV, which releases the GIL.

torchvision's transforms work on tensors and albumentations would be one more dependency; what is needed here is
one affine warp, flips and four photometric changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_SIDE_PX = 4.0


@dataclass(frozen=True, slots=True)
class TrainingPicture:
    """A grey image, alone or with its reference, and its boxes.

    Attributes:
        image: ``(H, W) uint8``, or ``(H, W, C) uint8``: frame and reference, or what `reference_pairs` makes of them.
        boxes: ``(N, 4) float32`` x1, y1, x2, y2 in pixels.
        labels: ``(N,) int64``.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def place(
    picture: TrainingPicture, *, scale: float, x: float, y: float, size: int, kept_share: float
) -> TrainingPicture:
    """Scales a picture and lays it on a square canvas with its upper left corner at ``(x, y)``.

    Args:
        scale: Canvas pixels per source pixel.
        x: May be negative: the canvas then cuts the picture.
        size: Side of the canvas in pixels.
        kept_share: A box that keeps less of its area than this is dropped: a sliver teaches nothing.

    Returns:
        The canvas; outside the picture it has the picture's mean grey.
    """
    # Pixel centres, not corners, are what is scaled; cv2.resize does the same at inference.
    shift = 0.5 * scale - 0.5
    matrix = np.array([[scale, 0, x + shift], [0, scale, y + shift]], np.float64)
    image = cv2.warpAffine(
        picture.image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=cv2.mean(picture.image)
    )
    moved = picture.boxes * np.float32(scale) + np.array([x, y, x, y], np.float32)
    return clip(TrainingPicture(image, moved, picture.labels), (0, 0, size, size), kept_share=kept_share)


def clip(picture: TrainingPicture, window: tuple[int, int, int, int], *, kept_share: float) -> TrainingPicture:
    """Cuts the boxes (not the image) to ``window`` (x1, y1, x2, y2) and drops the slivers."""
    x1, y1, x2, y2 = window
    boxes = picture.boxes
    cut = np.stack(
        [boxes[:, 0].clip(x1, x2), boxes[:, 1].clip(y1, y2), boxes[:, 2].clip(x1, x2), boxes[:, 3].clip(y1, y2)], 1
    )
    sides = cut[:, 2:] - cut[:, :2]
    before = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    keep = (sides.min(1, initial=np.inf) >= MIN_SIDE_PX) & (sides.prod(1) >= kept_share * before)
    return TrainingPicture(picture.image, cut[keep].astype(np.float32), picture.labels[keep])


def flip(picture: TrainingPicture, rng: np.random.Generator, *, turn: bool) -> TrainingPicture:
    """Mirrors a square picture at random in both axes, and with ``turn`` also along its diagonal."""
    image, boxes = picture.image, picture.boxes
    size = image.shape[0]
    across, down, diagonal = rng.random(3) < 0.5
    if across:
        image = image[:, ::-1]
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
    if down:
        image = image[::-1]
        boxes = np.stack([boxes[:, 0], size - boxes[:, 3], boxes[:, 2], size - boxes[:, 1]], 1)
    if turn and diagonal:
        image = image.swapaxes(0, 1)
        boxes = boxes[:, [1, 0, 3, 2]]
    return TrainingPicture(np.ascontiguousarray(image), boxes, picture.labels)


def relight(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Changes brightness, contrast, sharpness and noise at random, as a line's light and lens would."""
    bright, blurred, noisy = rng.random(3) < (0.5, 0.15, 0.2)
    if bright:
        table = np.arange(256) * rng.uniform(0.75, 1.25) + rng.uniform(-20, 20)
        image = cv2.LUT(image, table.clip(0, 255).astype(np.uint8))
    if blurred:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 1.0))
    if noisy:
        noise = rng.normal(0, rng.uniform(2, 8), image.shape).astype(np.float32)
        image = cv2.add(image, noise, dtype=cv2.CV_8U)
    return image


def mosaic(parts: list[TrainingPicture], rng: np.random.Generator, *, kept_share: float) -> TrainingPicture:
    """Puts the four quadrants of four canvases of one size together around a random centre."""
    size = parts[0].image.shape[0]
    cx, cy = rng.integers(int(0.3 * size), int(0.7 * size), 2).tolist()
    windows = ((0, 0, cx, cy), (cx, 0, size, cy), (0, cy, cx, size), (cx, cy, size, size))
    image = np.empty_like(parts[0].image)
    pieces = [clip(part, window, kept_share=kept_share) for part, window in zip(parts, windows, strict=True)]
    for piece, (x1, y1, x2, y2) in zip(pieces, windows, strict=True):
        image[y1:y2, x1:x2] = piece.image[y1:y2, x1:x2]
    return TrainingPicture(image, np.concatenate([p.boxes for p in pieces]), np.concatenate([p.labels for p in pieces]))
