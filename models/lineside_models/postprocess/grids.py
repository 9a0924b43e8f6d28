"""The cells of a head's grids, which lie over the input one stride apart.

Kept for the last few sizes of the input: they are the same for every frame of a line.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from lineside_models.postprocess.candidates import Floats

KEPT = 8
"""Sizes whose cells are kept; a line's cameras have one or two."""


def grid_shape(canvas: tuple[int, int], stride: int) -> tuple[int, int]:
    """Returns rows and columns of the grid of a stride; the last ones may reach over the input's edge."""
    return -(-canvas[0] // stride), -(-canvas[1] // stride)


def count_cells(canvas: tuple[int, int], strides: Sequence[int]) -> int:
    """Returns how many cells all grids have together."""
    return sum(rows * columns for rows, columns in (grid_shape(canvas, stride) for stride in strides))


@functools.lru_cache(maxsize=KEPT)
def grid(canvas: tuple[int, int], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Returns the cells of all grids one after the other: ``(N, 2)`` column and row, and ``(N, 1)`` stride."""
    cells, sizes = [], []
    for stride in strides:
        rows, columns = grid_shape(canvas, stride)
        row, column = np.divmod(np.arange(rows * columns), columns)
        cells.append(np.stack([column, row], axis=1))
        sizes.append(np.full((rows * columns, 1), stride))
    return fixed(np.concatenate(cells).astype(np.float32)), fixed(np.concatenate(sizes).astype(np.float32))


@functools.lru_cache(maxsize=KEPT)
def even_steps(canvas: tuple[int, int], strides: tuple[int, ...]) -> Floats:
    """Returns ``(N, 2)``, how far apart the cells of each level lie in x and y, as torchvision reckons it."""
    steps = []
    for stride in strides:
        rows, columns = grid_shape(canvas, stride)
        steps.append(np.tile([canvas[1] // columns, canvas[0] // rows], (rows * columns, 1)))
    return fixed(np.concatenate(steps).astype(np.float32))


def fixed(array: Floats) -> Floats:
    """Makes a cached array read-only."""
    array.setflags(write=False)
    return array
