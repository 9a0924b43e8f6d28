"""Another good part of the same design, drawn from the image of one: for data sets that have one image of each place.

Edges lie elsewhere by part of a pixel, the part lies and is lit otherwise, and the camera adds blur and noise.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, slots=True)
class PartVariation:
    """Bounds of what is drawn.

    With the defaults as many pixels differ from the template, and by as much, as on the pairs of DeepPCB outside of
    their defects: 1 % by more than half of the range.

    Attributes:
        shift_px: Largest shift in x and y.
        rotation_deg: Largest rotation around the centre.
        brightness: Largest change of the gain, as a share.
        edge_px: Standard deviation of the displacement of edges, from and to.
        edge_cells_px: Distances over which it changes, from and to.
        blur_px: Standard deviation of the blur, from and to.
        noise: Standard deviation of the noise in grey values, from and to.
    """

    shift_px: float = 1.0
    rotation_deg: float = 0.2
    brightness: float = 0.03
    edge_px: tuple[float, float] = (0.5, 1.5)
    edge_cells_px: tuple[int, int] = (4, 30)
    blur_px: tuple[float, float] = (0.3, 0.6)
    noise: tuple[float, float] = (1.0, 5.0)


def vary(image: NDArray[np.uint8], variation: PartVariation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the image of another part.

    Args:
        image: ``(H, W) uint8`` of a good part.
    """
    moved = move_edges(
        image, rng, px=rng.uniform(*variation.edge_px), cell_px=int(rng.integers(*variation.edge_cells_px))
    )
    moved = displace(
        moved,
        shift=rng.uniform(-variation.shift_px, variation.shift_px, 2),
        rotation_deg=rng.uniform(-variation.rotation_deg, variation.rotation_deg),
    )
    blurred = cv2.GaussianBlur(moved, (0, 0), rng.uniform(*variation.blur_px)).astype(np.float32)
    blurred *= rng.uniform(1 - variation.brightness, 1 + variation.brightness)
    blurred += rng.normal(0, rng.uniform(*variation.noise), image.shape).astype(np.float32)
    return np.asarray(blurred.clip(0, 255), np.uint8)


def displace(image: NDArray[np.uint8], *, shift: NDArray[np.float64], rotation_deg: float) -> NDArray[np.uint8]:
    """Returns a grey image rotated around its centre and shifted ``(x, y)`` by pixels; its edges are continued."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rotation_deg, 1.0)
    matrix[:, 2] += shift
    moved = cv2.warpAffine(np.ascontiguousarray(image), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def move_edges(image: NDArray[np.uint8], rng: np.random.Generator, *, px: float, cell_px: int) -> NDArray[np.uint8]:
    """Returns a grey image whose pixels are displaced by a smooth random field.

    Args:
        image: ``(H, W) uint8``.
        px: Standard deviation of the displacement.
        cell_px: Distance over which it changes.
    """
    height, width = image.shape
    cells = (height // cell_px + 3, width // cell_px + 3, 2)
    field = rng.normal(0, px, cells).astype(np.float32)
    smooth = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.indices((height, width), np.float32)
    moved = cv2.remap(
        image, columns + smooth[..., 0], rows + smooth[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.uint8)
