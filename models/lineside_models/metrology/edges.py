"""Sub-pixel edges along scan lines, and the lines and circles that fit them.

A scan is sampled between pixels, and its derivative at a Gaussian's scale has a peak at each edge; a parabola through
the peak and its neighbours gives the place (Steger 1998, "An unbiased detector of curvilinear structures", section 2).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Which = Literal["first", "strongest"]

SIGMA_PX = 1.2
"""Scale of the derivative."""

STEP_PX = 0.5
"""Distance between two samples of a scan."""

LEAST_SHARE = 0.6
"""Share of the scans that must agree on an edge."""

_MARGIN = math.ceil(3 * SIGMA_PX / STEP_PX)
_OFFSETS = np.arange(-_MARGIN, _MARGIN + 1) * STEP_PX
_KERNEL = -_OFFSETS * np.exp(-(_OFFSETS**2) / (2 * SIGMA_PX**2))
_KERNEL = _KERNEL / np.abs(np.cumsum(_KERNEL)).max()  # a sharp step of one grey level gives a peak of 1
_STARTS = 32
_NEAR_PX = 0.25
"""Distance from a fit below which no point is an outlier."""


def scan_edges(
    image: UInt8Array, begins: Floats, ends: Floats, *, sign: int, contrast: float, which: Which
) -> tuple[Floats, Bools, Floats]:
    """Finds one edge on each scan line.

    Args:
        image: ``(H, W) uint8``.
        begins: ``(K, 2)`` begins of the scans, as ``x, y`` in pixels inside the frame; all scans have one length.
        ends: ``(K, 2)`` ends.
        sign: 1 for edges that get brighter along the scan, -1 for darker, 0 for both.
        contrast: Least step in grey levels.
        which: The first edge from the begin, or the strongest.

    Returns:
        ``(K, 2)`` places, ``(K,)`` whether the scan has an edge, and ``(K,)`` the variance of the picture's own blur
        across the edge, in square pixels.
    """
    length = float(np.hypot(*(ends[0] - begins[0])))
    count = max(3, round(length / STEP_PX) + 1)
    shares = np.arange(-_MARGIN, count + _MARGIN)[None, :, None] / (count - 1)  # the kernel reaches beyond both ends
    profiles = _sampled(image, begins[:, None] + (ends - begins)[:, None] * shares)
    slopes = np.lib.stride_tricks.sliding_window_view(profiles, len(_KERNEL), axis=1) @ _KERNEL[::-1]
    places, found, bends = _peaks(slopes * sign if sign else np.abs(slopes), contrast, which)
    along = places / (count - 1)
    blurs = np.maximum(bends * STEP_PX**2 - SIGMA_PX**2, 0)
    return np.asarray(begins + (ends - begins) * along[:, None]), found, blurs


def _sampled(image: UInt8Array, points: Floats) -> Floats:
    """Returns the grey levels between pixels, bilinear; outside the frame those at its edge.

    OpenCV rounds places to 1/32 pixel, so this is numpy.
    """
    height, width = image.shape
    x, y = np.clip(points[..., 0], 0, width - 1), np.clip(points[..., 1], 0, height - 1)
    left = np.minimum(x.astype(np.int64), width - 2)
    top = np.minimum(y.astype(np.int64), height - 2)
    across, down = x - left, y - top
    flat, start = image.ravel(), top * width + left
    upper = flat[start] * (1 - across) + flat[start + 1] * across
    lower = flat[start + width] * (1 - across) + flat[start + width + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


def _peaks(slopes: Floats, contrast: float, which: Which) -> tuple[Floats, Bools, Floats]:
    """Returns the place of one peak of each row, in samples, whether there is one, and its variance as a Gaussian."""
    inner = slopes[:, 1:-1]
    is_peak = (inner >= slopes[:, :-2]) & (inner > slopes[:, 2:]) & (inner >= contrast)
    found = np.asarray(is_peak.any(axis=1))
    at = (np.argmax(is_peak, axis=1) if which == "first" else np.argmax(np.where(is_peak, inner, 0), axis=1)) + 1
    rows = np.arange(len(slopes))
    before, here, after = slopes[rows, at - 1], slopes[rows, at], slopes[rows, at + 1]
    bend = before - 2 * here + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)
    return at + np.clip(shift, -0.5, 0.5), found, np.where(bend < 0, -here / np.where(bend < 0, bend, -1), 0)


def fit_line(points: Floats, tolerance: float) -> tuple[Floats, Floats, Bools]:
    """Fits a line by total least squares, without outliers.

    The start is the line through two of the points from which half of all points are nearest (least median of squares),
    so that dirt on a third of an edge does not turn the line.

    Args:
        points: ``(N, 2)`` in the order of the scans, 2 or more.
        tolerance: Distance below which no point is an outlier.

    Returns:
        A point on the line, its direction of length 1, and ``(N,)`` which points agree.
    """
    first, second = _spaced(len(points), (2, 4), 2)
    centres, along = points[first], points[second] - points[first]
    normals = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-12)[:, None]
    distances = np.abs(points @ normals.T - (centres * normals).sum(axis=1))
    kept = _agreeing(_best(distances), tolerance)
    for _ in range(4):
        centre = points[kept].mean(axis=0)
        direction = np.linalg.svd(points[kept] - centre, full_matrices=False)[2][0]
        now = _agreeing(np.abs((points - centre) @ np.array([-direction[1], direction[0]])), tolerance)
        if (now == kept).all():
            break
        kept = now
    return centre, direction, kept


def fit_circle(points: Floats, tolerance: float) -> tuple[Floats, float, Bools]:
    """Fits a circle by geometric least squares, without outliers; the start is as for `fit_line`.

    Args:
        points: ``(N, 2)`` in the order of the scans, 3 or more.
        tolerance: Distance below which no point is an outlier.

    Returns:
        Centre, radius, and ``(N,)`` which points agree.
    """
    corners = points[np.stack(_spaced(len(points), (3, 5), 3))]
    centres, radii = _through(corners)
    kept = _agreeing(_best(np.abs(np.hypot(*(points[:, None] - centres).T).T - radii)), tolerance)
    for _ in range(4):
        centre, radius = least_squares_circle(points[kept])
        now = _agreeing(np.abs(np.hypot(*(points - centre).T) - radius), tolerance)
        if (now == kept).all():
            break
        kept = now
    return centre, radius, kept


def _spaced(count: int, parts: tuple[int, ...], size: int) -> list[npt.NDArray[np.int64]]:
    """Returns indices of ``size`` points each, which are apart by each of the given parts of all."""
    starts = np.arange(0, count, max(1, count // _STARTS))
    groups = [[(starts + step * max(1, count // part)) % count for part in parts] for step in range(size)]
    return [np.concatenate(group) for group in groups]


def _best(distances: Floats) -> Floats:
    """Returns the distances ``(N,)`` to the candidate of ``(N, M)`` with the least median."""
    return np.asarray(distances[:, np.argmin(np.median(distances, axis=0))])


def _through(corners: Floats) -> tuple[Floats, Floats]:
    """Returns centres and radii of the circles through three points each, ``(3, M, 2)``."""
    a, b, c = corners[0], corners[1] - corners[0], corners[2] - corners[0]
    cross = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    cross = np.where(np.abs(cross) < 1e-12, 1e-12, cross)
    b2, c2 = (b**2).sum(axis=1), (c**2).sum(axis=1)
    away = np.stack([c[:, 1] * b2 - b[:, 1] * c2, b[:, 0] * c2 - c[:, 0] * b2], axis=1) / cross[:, None]
    return a + away, np.hypot(*away.T)


def least_squares_circle(points: Floats) -> tuple[Floats, float]:
    """Returns centre and radius of the circle of least squares: Kasa's as the start, then Gauss-Newton."""
    middle = points.mean(axis=0)
    away = points - middle
    system = np.column_stack([2 * away, np.ones(len(points))])
    x, y, rest = np.linalg.lstsq(system, (away**2).sum(axis=1), rcond=None)[0]
    centre, radius = np.array([x, y]), math.sqrt(max(rest + x * x + y * y, 0.0))
    for _ in range(5):
        rays = away - centre
        distances = np.maximum(np.hypot(*rays.T), 1e-12)
        slopes = np.column_stack([-rays / distances[:, None], -np.ones(len(points))])
        step = np.linalg.lstsq(slopes, radius - distances, rcond=None)[0]
        centre, radius = centre + step[:2], radius + step[2]
    return middle + centre, float(radius)


def _agreeing(distances: Floats, tolerance: float) -> Bools:
    """Points within three robust standard deviations of the fit."""
    return np.asarray(distances <= max(3 * 1.4826 * float(np.median(distances)), tolerance))


def near(per_px: float) -> float:
    """Returns the tolerance of a fit in the unit of which a pixel has ``per_px``."""
    return _NEAR_PX * per_px
