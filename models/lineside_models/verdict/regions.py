"""Regions of a frame to inspect or to ignore: polygons and masks, optionally by type.

- Without a region to inspect, the whole frame is inspected; what is ignored is taken away from it last.
- A candidate counts if at least a given share of its box lies in what is inspected (`Rules.min_inside`).
- Regions in shares of the frame fit any camera; those in pixels belong to one, and one that lies wholly outside a frame
  is an error, as is a type of which nothing is left to inspect: neither may pass parts by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.image_file import decode_png
from lineside_runtime.errors import ConfigError, InputNotFoundError

RASTER_SIDE = 1024
"""Cells of the long side of what is looked up: an edge is right to a pixel, on larger frames to side / 1024."""

MASK_PIXELS_MAX = 1 << 24
_WHITE = 128
_SHIFT = 8  # bits behind the point of OpenCV's polygon corners
_CELLS_MAX = 1 << 22  # a corner further away would tilt an edge by less than a cell


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A part of the frame.

    Attributes:
        kind: ``inspect``: only here; ``ignore``: not here.
        polygon: Corners ``(x, y)`` in ``units``, three or more; or give ``mask``.
        units: ``share`` of the frame's width and height, 0 to 1, or ``px``, pixels of the frame.
        mask: A PNG, laid over the whole frame; its bright half (128 and above) is the region. Base64 in TOML and JSON.
        types: Defect types that the region holds for; empty for all.
    """

    kind: Literal["inspect", "ignore"]
    polygon: tuple[tuple[float, float], ...] = ()
    units: Literal["share", "px"] = "share"
    mask: bytes = b""
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.polygon) == bool(self.mask):
            raise ValueError("a region needs one of polygon and mask")
        if self.mask:
            mask = self._bright()
            if not mask.any():
                raise ValueError("the mask has no bright pixel, so that it is no region")
            return
        if len(self.polygon) < 3:
            raise ValueError(f"a polygon needs three corners or more, not {len(self.polygon)}")
        most = 1.0 if self.units == "share" else float("inf")
        if not all(0 <= side <= most and side < float("inf") for corner in self.polygon for side in corner):
            raise ValueError(f"a polygon's corners lie from 0 {'to 1 in shares of the frame' if most == 1 else 'on'}")

    @classmethod
    def from_png(cls, path: Path, kind: Literal["inspect", "ignore"], *, types: Sequence[str] = ()) -> Region:
        """Returns the region of a mask file.

        Args:
            path: Of a PNG, in any size; it is laid over the whole frame.
            kind: What is done with its bright half.
            types: Defect types that the region holds for; empty for all.

        Raises:
            InputNotFoundError: There is no such file.
            ConfigError: It is no mask.
        """
        try:
            return cls(kind=kind, mask=path.read_bytes(), types=tuple(types))
        except OSError as error:
            raise InputNotFoundError(f"{path}: {error.strerror}", action="Give a PNG.") from error
        except ValueError as error:
            raise ConfigError(f"{path}: {error}", action="Paint the region white on black.") from error

    def _bright(self) -> npt.NDArray[np.bool_]:
        try:
            return np.asarray(decode_png(self.mask, pixels_max=MASK_PIXELS_MAX, grey=True) >= _WHITE)
        except ValueError as error:
            raise ValueError(f"the mask can't be read: {error}") from error

    def raster(self, size: tuple[int, int], scale: float) -> npt.NDArray[np.uint8]:
        """Returns the region on a raster: ``(H', W') uint8``, 1 inside.

        Args:
            size: ``(height, width)`` of the frame in pixels.
            scale: Cells of the raster for one pixel of the frame.
        """
        height, width = _raster_size(size, scale)
        if self.mask:
            grey = self._bright().astype(np.uint8) * 255
            fitted = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
            return np.asarray(fitted >= _WHITE, np.uint8)
        corners = np.array(self.polygon, np.float64)
        if self.units == "share":
            corners = corners * np.array([size[1], size[0]])
        # A cell's centre lies half a cell behind its corner; OpenCV draws the polygon's rim too, and counts in 32 bits.
        cells = np.minimum(corners * scale - 0.5, _CELLS_MAX)
        fixed = np.round(cells * (1 << _SHIFT)).astype(np.int32)
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [fixed], 1, shift=_SHIFT)
        return canvas


class RegionMasks:
    """Inspected area of frames of one size, by type.

    Args:
        size: ``(height, width)`` of the frames in pixels.

    Raises:
        ConfigError: A region lies outside the frame, or nothing is left to inspect for a type.
    """

    def __init__(self, regions: Sequence[Region], labels: Sequence[str], size: tuple[int, int]) -> None:
        self._scale = min(1.0, RASTER_SIDE / max(size))
        rasters = [region.raster(size, self._scale) for region in regions]
        for region, raster in zip(regions, rasters, strict=True):
            if not raster.any():
                raise ConfigError(
                    f"a region to {region.kind} lies outside the frame",
                    expected=f"corners inside {size[1]} × {size[0]} pixels",
                    actual=str(region.polygon),
                    action="Give it in shares of the frame, or for this camera's size.",
                )
        known: dict[tuple[int, ...], int] = {}
        self._sums: list[npt.NDArray[np.int32]] = []
        self._of_label = np.zeros(len(labels), np.int64)
        for label, name in enumerate(labels):
            mine = tuple(place for place, region in enumerate(regions) if not region.types or name in region.types)
            if mine not in known:
                known[mine] = len(self._sums)
                self._sums.append(_summed([(regions[place].kind, rasters[place]) for place in mine], size, name))
            self._of_label[label] = known[mine]

    def shares(self, boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns the share of each box inside the inspected area of its type.

        Args:
            boxes: ``(N, 4)`` as ``x1, y1, x2, y2`` in pixels of the frame.
            labels: ``(N,)`` indices of types.
        """
        found = np.ones(len(boxes), np.float64)
        areas = self._of_label[labels]
        for number in np.unique(areas):
            of = np.flatnonzero(areas == number)
            found[of] = self._share(self._sums[number], boxes[of])
        return found

    def _share(self, sums: npt.NDArray[np.int32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        height, width = sums.shape[0] - 1, sums.shape[1] - 1
        cells = boxes.astype(np.float64) * self._scale
        left = np.clip(np.round(cells[:, 0]), 0, width - 1).astype(np.int64)
        top = np.clip(np.round(cells[:, 1]), 0, height - 1).astype(np.int64)
        right = np.clip(np.round(cells[:, 2]), left + 1, width).astype(np.int64)
        bottom = np.clip(np.round(cells[:, 3]), top + 1, height).astype(np.int64)
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return np.asarray(inside / ((right - left) * (bottom - top)), np.float64)


def _raster_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _summed(parts: list[tuple[str, Any]], size: tuple[int, int], name: str) -> npt.NDArray[np.int32]:
    """Returns the sums from the corner of what is inspected, ``(H' + 1, W' + 1)`` (a summed-area table)."""
    inspect = [raster for kind, raster in parts if kind == "inspect"]
    shape = _raster_size(size, min(1.0, RASTER_SIDE / max(size)))
    area = np.maximum.reduce(inspect) if inspect else np.ones(shape, np.uint8)
    for kind, raster in parts:
        if kind == "ignore":
            area = area & (1 - raster)
    if not area.any():
        raise ConfigError(
            f"the regions leave nothing to inspect for {name!r}",
            expected="some part of the frame",
            action="Correct $.inspect.regions; a type that is not to be inspected gets a threshold of 1.",
        )
    return np.asarray(cv2.integral(np.ascontiguousarray(area)), np.int32)
