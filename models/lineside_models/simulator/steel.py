"""Hot-rolled steel strip with the six defect types of NEU-DET, as a line-scan camera sees it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.labels import LABELS
from lineside_models.simulator.noise import Field, box_blur, smooth, white

Box = tuple[float, float, float, float]
Region = tuple[int, int, int, int]


def render_steel(
    rng: np.random.Generator, height: int, width: int, count: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, Box]]]:
    """Renders a piece of strip.

    Args:
        rng: Source of all randomness.
        height: In pixels.
        width: In pixels.
        count: How many defects at most.

    Returns:
        ``(height, width) uint8`` grey, and ``(label, box)`` of every defect.
    """
    surface, kinds = _SURFACES[int(rng.integers(len(_SURFACES)))]
    image = surface(rng, height, width)
    found: list[tuple[int, Box]] = []
    for _ in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        region = _free_region(rng, height, width, kind, found)
        if region is not None:
            image, box = _DEFECTS[kind](rng, image, region)
            found.append((LABELS.index(kind), box))
    return np.clip(image, 0, 255).astype(np.uint8), found


# Surfaces: each type of defect comes on its own kind of strip, as in the real images.


def _rough(rng: np.random.Generator, height: int, width: int) -> Field:
    """Coarse grain under uneven light: where crazing appears."""
    level = rng.uniform(105, 180)
    grain = white(rng, height, width) * 13 + box_blur(white(rng, height, width), 3, 3) * 48
    light = smooth(rng, height, width, (height, 40)) * rng.uniform(10, 35)
    return _field(level + grain + light)


def _bright_grain(rng: np.random.Generator, height: int, width: int) -> Field:
    """Bright, overexposed grain: where patches appear."""
    level = rng.uniform(140, 225)
    grain = box_blur(white(rng, height, width), 3, 3) * 55 + white(rng, height, width) * 10
    light = smooth(rng, height, width, (height // 2, 50)) * rng.uniform(10, 35)
    return _field(level + grain + light)


def _rolled(rng: np.random.Generator, height: int, width: int) -> Field:
    """Smooth and dark, with faint streaks along the strip: where inclusions and scratches appear."""
    level = rng.uniform(60, 130)
    streaks = smooth(rng, height, width, (height * 2, 3)) * rng.uniform(1, 5)
    light = smooth(rng, height, width, (height, 70)) * rng.uniform(5, 18)
    return _field(level + streaks + light + white(rng, height, width) * rng.uniform(1.5, 4))


def _pale(rng: np.random.Generator, height: int, width: int) -> Field:
    """Smooth and pale under a strong gradient: where pits appear."""
    level = rng.uniform(130, 215)
    light = smooth(rng, height, width, (height, width)) * rng.uniform(15, 55)
    return _field(level + light + box_blur(white(rng, height, width), 3, 1) * rng.uniform(4, 9))


def _brushed(rng: np.random.Generator, height: int, width: int) -> Field:
    """Fine strokes that all slope one way: where scale is rolled in."""
    level = rng.uniform(95, 150)
    strokes = box_blur(white(rng, height, width * 2), 1, 9)
    slope = rng.uniform(0.15, 0.5)
    shift = (np.arange(height) * slope / 0.5).astype(np.int64) % width
    strokes = np.stack([row[at : at + width] for row, at in zip(strokes, shift, strict=True)])
    strokes = box_blur(_sheared(strokes, slope), 3, 1)
    return _field(level + strokes * 42 + white(rng, height, width) * 9 + smooth(rng, height, width, (70, 70)) * 12)


def _sheared(field: Field, slope: float) -> Field:
    """Moves column ``x`` up by ``slope * x`` pixels, around the edge."""
    height, width = field.shape
    columns = np.arange(width)
    rows = (np.arange(height)[:, None] + (columns * slope).astype(np.int64)[None, :]) % height
    return np.asarray(field[rows, columns[None, :]], np.float32)


# Defects: each takes the image and the region it may use, and returns the image and the defect's true box.


def _crazing(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """A net of fine cracks that run mostly across the strip."""
    x1, y1, x2, y2 = region
    cracks = np.zeros(image.shape, np.uint8)
    for _ in range(max(10, (x2 - x1) * (y2 - y1) // 330)):
        steps = int(rng.integers(4, 11))
        walk = rng.integers((-1, -3), (6, 4), (steps, 2)) * (1 if rng.random() < 0.5 else (-1, 1))
        points = np.cumsum(walk, axis=0) + rng.integers((x1, y1), (x2, y2))
        points = np.clip(points, (x1, y1), (x2 - 1, y2 - 1)).astype(np.int32)
        cv2.polylines(cracks, [points.reshape(-1, 1, 2)], False, int(rng.integers(110, 256)), 1, cv2.LINE_8)
    dark = _field(cracks) + box_blur(_field(cracks), 3, 3) * 0.8
    return _field(image - dark * rng.uniform(0.26, 0.42) - _inside(image, region) * 8), _extent(cracks > 0)


def _inclusion(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """A dark, ragged blob, drawn out along the strip."""
    blob = _blob(rng, image.shape, region, roughness=0.8)
    torn = 1 + smooth(rng, image.shape[0], image.shape[1], (12, 3)) * 0.4
    return _field(image - blob * torn * rng.uniform(22, 48)), _extent(blob > 0.25)


def _patches(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """A large dark area with soft edges, darkest along its rim."""
    blob = box_blur(_blob(rng, image.shape, region, roughness=1.1), 5, 5)
    rim = blob * (1 - blob) * 4
    depth = blob * rng.uniform(80, 125) + rim * rng.uniform(0, 25)
    damped = image + (np.float32(image.mean()) - image) * blob * 0.5
    return _field(damped - depth), _extent(blob > 0.25)


def _pitted_surface(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """Many small dark pits."""
    x1, y1, x2, y2 = region
    pits = np.zeros(image.shape, np.uint8)
    spacing = int(rng.integers(6, 13))
    largest = int(rng.integers(1, 3))
    for _ in range((x2 - x1) * (y2 - y1) // (spacing * spacing)):
        at = (int(rng.integers(x1 + 3, x2 - 3)), int(rng.integers(y1 + 3, y2 - 3)))
        axes = (int(rng.integers(1, largest + 1)), int(rng.integers(1, largest + 2)))
        cv2.ellipse(pits, at, axes, 0, 0, 360, int(rng.integers(120, 256)), -1)
    dark = box_blur(_field(pits), 3, 3) * np.float32(1 / 255)
    return _field(image - dark * rng.uniform(45, 85)), _extent(pits > 0)


def _rolled_in_scale(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """Dark flakes, flat across the strip, each with a pale edge below."""
    x1, y1, x2, y2 = region
    flakes = np.zeros(image.shape, np.uint8)
    for _ in range(max(8, (x2 - x1) * (y2 - y1) // 130)):
        at = (int(rng.integers(x1 + 5, x2 - 5)), int(rng.integers(y1 + 3, y2 - 3)))
        axes = (int(rng.integers(2, 6)), int(rng.integers(1, 3)))
        cv2.ellipse(flakes, at, axes, int(rng.integers(-25, 10)), 0, 360, int(rng.integers(90, 256)), -1)
    dark = box_blur(_field(flakes), 3, 3) * np.float32(1 / 255)
    pale = np.maximum(np.roll(dark, 2, axis=0) - dark, 0)
    shade = _inside(image, region) * rng.uniform(3, 10)
    return _field(image - dark * rng.uniform(45, 70) + pale * 18 - shade), _extent(flakes > 0)


def _scratches(rng: np.random.Generator, image: Field, region: Region) -> tuple[Field, Box]:
    """A bright line, mostly along the strip, of uneven width and brightness."""
    x1, y1, x2, y2 = region
    upright = (y2 - y1) >= (x2 - x1)
    line = _line(rng, image.shape if upright else image.shape[::-1], region if upright else (y1, x1, y2, x2))
    line = line if upright else line.T
    return _field(image + line * rng.uniform(45, 130)), _extent(line > 0.2)


def _line(rng: np.random.Generator, shape: tuple[int, int], region: Region) -> Field:
    """An upright line in the region: how much of each pixel it covers, 0 to 1."""
    x1, y1, x2, y2 = region
    height, width = shape
    half = (x2 - x1) / 2
    sway = smooth(rng, height, 1, (max(8, (y2 - y1) // 2), 1))[:, :1] * (half * 0.4)
    centre = (x1 + x2) / 2 + sway
    uneven = smooth(rng, height, 1, (23, 1))[:, :1] * 0.3 + smooth(rng, height, 1, (3, 1))[:, :1] * 0.15
    reach = half * rng.uniform(0.2, 0.5) * (1 + uneven)
    rows = np.arange(height)[:, None]
    ends = np.clip(np.minimum(rows - y1, y2 - 1 - rows) / 6 + 0.2, 0, 1) * ((rows >= y1) & (rows < y2))
    cover = np.clip(reach - np.abs(np.arange(width)[None, :] - centre) + 0.7, 0, 1)
    return _field(cover * ends * (0.8 + smooth(rng, height, width, (9, 3)) * 0.35))


# Shapes.


def _field(values: npt.NDArray[np.generic]) -> Field:
    return values.astype(np.float32)


def _inside(image: Field, region: Region) -> Field:
    """1 in the region, falling softly to 0 at its edge."""
    x1, y1, x2, y2 = region
    mask = np.zeros(image.shape, np.float32)
    mask[y1:y2, x1:x2] = 1
    return box_blur(mask, 9, 9)


def _blob(rng: np.random.Generator, shape: tuple[int, int], region: Region, *, roughness: float) -> Field:
    """A wobbly ellipse that nearly fills the region: 0 outside, 1 inside, soft at the edge."""
    x1, y1, x2, y2 = region
    across = (np.arange(shape[1]) - (x1 + x2 - 1) / 2) * (2 / (x2 - x1))
    along = (np.arange(shape[0]) - (y1 + y2 - 1) / 2) * (2 / (y2 - y1))
    depth = 0.9 - (across * across)[None, :] - (along * along)[:, None]
    cell = max(5, min(x2 - x1, y2 - y1) // 3)
    depth = depth + smooth(rng, *shape, (cell, cell)) * roughness * 0.6
    depth = depth + smooth(rng, *shape, (4, 3)) * roughness * 0.3
    depth[: max(y1, 0)] = depth[y2:] = depth[:, : max(x1, 0)] = depth[:, x2:] = -1
    return box_blur(_field(np.clip(depth * 4, 0, 1)), 3, 3)


def _extent(mask: npt.NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _free_region(
    rng: np.random.Generator, height: int, width: int, kind: str, found: list[tuple[int, Box]]
) -> Region | None:
    """Draws a place for a defect that hides no other; ``None`` if there seems to be none."""
    for _ in range(12):
        w, h = _draw_size(rng, kind)
        w, h = min(w, width), min(h, height)
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        if all(x + w <= x1 or x >= x2 or y + h <= y1 or y >= y2 for _, (x1, y1, x2, y2) in found):
            return x, y, x + w, y + h
    return None


def _draw_size(rng: np.random.Generator, kind: str) -> tuple[int, int]:
    (w_low, w_high), (h_low, h_high) = _REGIONS[kind]
    w, h = int(rng.integers(w_low, w_high + 1)), int(rng.integers(h_low, h_high + 1))
    lies_across = kind == "scratches" and rng.random() < 0.1
    return (h, w) if lies_across else (w, h)


_REGIONS = {
    "crazing": ((70, 180), (45, 110)),
    "inclusion": ((14, 44), (30, 150)),
    "patches": ((34, 85), (34, 150)),
    "pitted_surface": ((55, 200), (100, 200)),
    "rolled-in_scale": ((44, 117), (36, 125)),
    "scratches": ((10, 28), (60, 200)),
}
"""Width and height in pixels, from the 10th to the 90th percentile of NEU-DET's boxes."""

_Defect = Callable[[np.random.Generator, Field, Region], tuple[Field, Box]]
_DEFECTS: dict[str, _Defect] = {
    "crazing": _crazing,
    "inclusion": _inclusion,
    "patches": _patches,
    "pitted_surface": _pitted_surface,
    "rolled-in_scale": _rolled_in_scale,
    "scratches": _scratches,
}

_Surface = Callable[[np.random.Generator, int, int], Field]
_SURFACES: tuple[tuple[_Surface, tuple[str, ...]], ...] = (
    (_rough, ("crazing",)),
    (_rolled, ("inclusion",)),
    (_bright_grain, ("patches",)),
    (_pale, ("pitted_surface",)),
    (_brushed, ("rolled-in_scale",)),
    (_rolled, ("scratches", "scratches", "inclusion")),
)
"""Surfaces and the types that appear on them, as in the real images."""
