"""`Calibration`: from pixels of a camera to millimetres in the plane of the part.

A pixel is first freed of the lens's distortion, then mapped by a homography, which covers scale, rotation and
perspective. The lens model is one radial coefficient around the frame's centre, so that one picture of a chequerboard
fixes it. Millimetres are right in the plane in which the board lay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.metrology.distributions import f_tail
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import MeasurementError

Floats = npt.NDArray[np.float64]
Row = tuple[float, float, float]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=65535)]

RADIAL_MOST = 0.5
"""Largest coefficient of distortion that is looked for; at it the corner of a frame moves by half its distance."""

_PARAMETERS = 8
_RADIAL_ALPHA = 0.001
"""A lens is taken as free of distortion unless the corners would be this unlikely."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_SEARCH_STEPS = 40


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Maps pixels of one camera to millimetres; made by ``lineside gauge calibrate``.

    Attributes:
        size: ``[width, height]`` of the camera's frames in pixels.
        mm_from_px: Homography, three rows of three numbers: millimetres of a pixel without distortion.
        radial: Distortion of the lens: a pixel at distance r from the frame's centre, in halves of the diagonal, moves
            to r (1 + radial r²).
        error_mm: Root mean square of the distances between the corners of the board and where they should be.
        points: Corners that it was made of; 0 for a known part.
    """

    size: tuple[Pixels, Pixels]
    mm_from_px: tuple[Row, Row, Row]
    radial: float = 0.0
    error_mm: float = 0.0
    points: int = 0

    def __post_init__(self) -> None:
        matrix = np.array(self.mm_from_px)
        if not np.isfinite(matrix).all() or not math.isfinite(self.radial) or abs(np.linalg.det(matrix)) < 1e-30:
            raise ValueError("mm_from_px is no homography: make the calibration again")

    def to_mm(self, points: Floats) -> Floats:
        """Maps points.

        Args:
            points: ``(N, 2)`` as ``x, y`` in pixels.

        Returns:
            ``(N, 2)`` in millimetres.
        """
        return _apply(np.array(self.mm_from_px), _undistorted(points, self.size, self.radial))

    @property
    def px_per_mm(self) -> float:
        """Pixels for one millimetre at the frame's centre, the mean of both directions."""
        centre = np.array(self.size, np.float64) / 2
        ends = self.to_mm(centre + np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]]))
        area = abs(np.linalg.det(np.stack([ends[1] - ends[0], ends[3] - ends[2]]))) / 4
        return float(1 / math.sqrt(area))


def board_calibration(image: UInt8Array, columns: int, rows: int, square_mm: float) -> Calibration:
    """Calibrates by a picture of a chequerboard that lies in the plane of the parts.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.
        columns: Inner corners in a row, such as 8 for 9 squares.
        rows: Inner corners in a column.

    Raises:
        MeasurementError: No such board is in the picture.
    """
    grey = to_grey(image)
    flags = cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
    found, corners = cv2.findChessboardCornersSB(grey, (columns, rows), flags=flags)
    if not found:
        raise MeasurementError(
            "no chequerboard found",
            expected=f"a whole board of {columns} x {rows} inner corners, with a white rim, in focus",
            actual=f"a picture of {grey.shape[1]} x {grey.shape[0]} pixels",
            action="Count the inner corners, not the squares; light the board evenly, without reflections.",
        )
    across, down = np.meshgrid(np.arange(columns), np.arange(rows))
    target = np.stack([across.ravel(), down.ravel()], axis=1).astype(np.float64) * square_mm
    return fitted_calibration(corners.reshape(-1, 2).astype(np.float64), target, (grey.shape[1], grey.shape[0]))


def fitted_calibration(px: Floats, mm: Floats, size: tuple[int, int]) -> Calibration:
    """Returns the calibration that fits pairs of points best.

    Args:
        px: ``(N, 2)`` in pixels, 8 or more.
        mm: ``(N, 2)`` of the same points in the plane.
        size: Width and height of the frame.
    """

    def error(radial: float) -> float:
        return _fit(_undistorted(px, size, radial), mm)[1]

    low, high = -RADIAL_MOST, RADIAL_MOST
    for _ in range(_SEARCH_STEPS):  # golden section: the error has one minimum in the coefficient
        span = (high - low) * _GOLDEN
        left, right = high - span, low + span
        low, high = (low, right) if error(left) < error(right) else (left, high)
    radial = (low + high) / 2
    matrix, rms = _fit(_undistorted(px, size, radial), mm)
    plain, plain_rms = _fit(px, mm)
    df = 2 * len(px) - _PARAMETERS - 1
    if df < 1 or f_tail((plain_rms**2 / max(rms, 1e-12) ** 2 - 1) * df, 1, df) > _RADIAL_ALPHA:
        radial, matrix, rms = 0.0, plain, plain_rms  # else noise would bend what lies beside the board
    rows = tuple(tuple(float(value) for value in row) for row in matrix)
    return Calibration(size=size, mm_from_px=rows, radial=radial, error_mm=rms, points=len(px))  # type: ignore[arg-type]


def scale_calibration(px_per_mm: float, size: tuple[int, int]) -> Calibration:
    """Returns a calibration of a scale alone: a camera that looks straight down through a lens without distortion."""
    scale = 1 / px_per_mm
    return Calibration(size=size, mm_from_px=((scale, 0.0, 0.0), (0.0, scale, 0.0), (0.0, 0.0, 1.0)))


def known_part_scale(lengths_px: Sequence[float], length_mm: float) -> float:
    """Returns the pixels for one millimetre from repeated measurements of a part of known size."""
    return float(np.mean(lengths_px)) / length_mm


def _undistorted(points: Floats, size: tuple[int, int], radial: float) -> Floats:
    if not radial:
        return points
    centre = (np.array(size, np.float64) - 1) / 2
    away = points - centre
    squares = (away**2).sum(axis=1, keepdims=True) / (centre**2).sum()
    return np.asarray(centre + away * (1 + radial * squares))


def _fit(px: Floats, mm: Floats) -> tuple[Floats, float]:
    """Returns the homography of least squares, and the root mean square of its errors in millimetres."""
    shift, scale = px.mean(axis=0), np.sqrt(2) / px.std()
    to_unit = np.array([[scale, 0, -scale * shift[0]], [0, scale, -scale * shift[1]], [0, 0, 1.0]])
    matrix, _ = cv2.findHomography(_apply(to_unit, px), mm, 0)
    matrix = np.asarray(matrix, np.float64) @ to_unit
    errors = _apply(matrix, px) - mm
    return matrix / matrix[2, 2], float(np.sqrt((errors**2).sum(axis=1).mean()))


def _apply(matrix: Floats, points: Floats) -> Floats:
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(mapped[:, :2] / mapped[:, 2:])
