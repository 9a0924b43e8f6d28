"""Textures from seeded noise, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def white(rng: np.random.Generator, height: int, width: int) -> Field:
    """Returns ``(height, width) float32`` noise of mean 0 and variance 1, nearly normal (the sum of two bytes)."""
    pair = rng.integers(0, 256, (2, height, width), np.uint8)
    centred = pair[0].astype(np.float32) + pair[1] - np.float32(255)
    return np.asarray(centred * np.float32(1 / 104.5), np.float32)


def smooth(rng: np.random.Generator, height: int, width: int, cell: tuple[int, int]) -> Field:
    """Returns value noise in [-1, 1]: random corners every ``cell`` (rows, columns) pixels, smoothed in between."""
    rows, row_weight = _steps(height, cell[0])
    columns, column_weight = _steps(width, cell[1])
    corners = rng.random((rows[-1] + 2, columns[-1] + 2), np.float32) * np.float32(2) - np.float32(1)
    across = corners[:, columns] + (corners[:, columns + 1] - corners[:, columns]) * column_weight
    weight = row_weight[:, None]
    return np.asarray(across[rows] + (across[rows + 1] - across[rows]) * weight, np.float32)


def _steps(length: int, cell: int) -> tuple[npt.NDArray[np.int64], Field]:
    place = np.arange(length, dtype=np.float32) / np.float32(max(cell, 1))
    index = place.astype(np.int64)
    t = place - index.astype(np.float32)
    return index, t * t * (np.float32(3) - np.float32(2) * t)


def box_blur(field: Field, rows: int, columns: int) -> Field:
    """Returns the mean over windows of ``rows`` x ``columns`` pixels (odd numbers); edges are repeated."""
    out = field
    for axis, size in ((0, rows), (1, columns)):
        if size > 1:
            out = _running_mean(out, axis, size)
    return out


def _running_mean(field: Field, axis: int, size: int) -> Field:
    pad = [(0, 0), (0, 0)]
    pad[axis] = (size // 2, size // 2)
    padded = np.pad(field, pad, mode="edge")
    length = field.shape[axis]
    total = np.zeros_like(field)
    for shift in range(size):  # windows are small: adding them up beats a running sum, and rounds the same everywhere
        total += padded[shift : shift + length] if axis == 0 else padded[:, shift : shift + length]
    return np.asarray(total * np.float32(1 / size), np.float32)
