"""Drawn pictures of a plate whose sizes are known exactly, seen by a camera whose geometry is known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

DARK, BRIGHT = 60.0, 190.0


@dataclasses.dataclass(frozen=True)
class Plate:
    """A dark plate around the origin, in millimetres: a bore at the left, a slot from above at the right, two studs.

    Attributes:
        width: Of the plate.
        height: Of the plate.
        bore: Diameter of the hole.
        slot: Width of the slot.
        stud: Side of the bright studs' squares.
        angle: By which it is turned, in degrees.
        shift: By which it is moved.
    """

    width: float = 40.0
    height: float = 24.0
    bore: float = 10.0
    slot: float = 4.0
    stud: float = 2.0
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def brightness(self, points: Floats) -> Floats:
        """Returns the grey level at ``(..., 2)`` places in millimetres."""
        turn = np.deg2rad(self.angle)
        away = points - np.array(self.shift)
        x = away[..., 0] * np.cos(turn) + away[..., 1] * np.sin(turn)
        y = away[..., 1] * np.cos(turn) - away[..., 0] * np.sin(turn)
        plate = (abs(x) < self.width / 2) & (abs(y) < self.height / 2)
        bore = np.hypot(x + 10, y) < self.bore / 2
        slot = (abs(x - 10) < self.slot / 2) & (y < 0)
        studs = [(abs(x - at) < self.stud / 2) & (abs(y - 8) < self.stud / 2) for at in (6.0, 14.0)]
        return np.where(plate & ~bore & ~slot & ~studs[0] & ~studs[1], DARK, BRIGHT)


@dataclasses.dataclass(frozen=True)
class Board:
    """A chequerboard around the origin with ``columns`` x ``rows`` inner corners, ``square`` millimetres apart."""

    columns: int = 8
    rows: int = 6
    square: float = 5.0

    def brightness(self, points: Floats) -> Floats:
        """Returns the grey level at ``(..., 2)`` places in millimetres."""
        x = points[..., 0] / self.square + (self.columns + 1) / 2
        y = points[..., 1] / self.square + (self.rows + 1) / 2
        board = (x > 0) & (y > 0) & (x < self.columns + 1) & (y < self.rows + 1)
        return np.where(board & ((np.floor(x) + np.floor(y)) % 2 == 0), 30.0, 225.0)


@dataclasses.dataclass(frozen=True)
class DrawnCamera:
    """A camera above the plane of the parts.

    Attributes:
        width: Of its frames.
        height: Of its frames.
        px_per_mm: At the frame's centre.
        tilt: Perspective: relative change of the scale from the centre to the right edge.
        radial: Distortion as in `lineside_models.metrology.calibration.Calibration`.
        blur: Standard deviation of the optics' blur in pixels.
        noise: Standard deviation of the noise in grey levels.
        subpixels: Places a pixel in each direction. They are on a turned grid, so that an edge along a row or column
            has as many levels as there are places: 25 of 5 are exact to 1/50 pixel.
    """

    width: int = 640
    height: int = 480
    px_per_mm: float = 12.0
    tilt: float = 0.0
    radial: float = 0.0
    blur: float = 0.8
    noise: float = 2.0
    subpixels: int = 5

    def to_mm(self, px: Floats) -> Floats:
        """Maps ``(..., 2)`` places in pixels to the plane; independent of the code that is tested."""
        centre = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        away = px - centre
        away = away * (1 + self.radial * (away**2).sum(-1, keepdims=True) / (centre**2).sum())
        return np.asarray(away / self.px_per_mm / (1 - self.tilt * away[..., :1] / centre[0]))

    def picture(self, brightness: Callable[[Floats], Floats], seed: int = 0) -> UInt8Array:
        """Draws what has a brightness in the plane and no detail below a pixel: ``(H, W) uint8``."""
        steps = (np.arange(self.subpixels) + 0.5) / self.subpixels - 0.5
        pixels = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), axis=-1).astype(np.float64)
        drawn = brightness(self.to_mm(pixels))
        kernel = np.ones((3, 3), np.uint8)
        edge = cv2.dilate(drawn, kernel) != cv2.erode(drawn, kernel)
        fine = np.zeros(int(edge.sum()))
        for right in steps:
            for down in steps:
                place = np.array([right + down / self.subpixels, down - right / self.subpixels])
                fine += brightness(self.to_mm(pixels[edge] + place))
        drawn[edge] = fine / self.subpixels**2
        if self.blur:
            drawn = cv2.GaussianBlur(drawn, (0, 0), self.blur)
        noise = np.random.default_rng(seed).normal(0, self.noise, drawn.shape)
        return np.clip(np.round(drawn + noise), 0, 255).astype(np.uint8)
