"""Measurement of a frame by rules: `measure` gives one `Measurement` for each rule.

A rule whose edges are not found gives a measurement without a value and with the error, so that the part can never
pass by it. Rules that do not fit the frame or the calibration are an error for every frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.metrology.calibration import Calibration
from lineside_models.metrology.edges import (
    LEAST_SHARE,
    STEP_PX,
    fit_circle,
    fit_line,
    least_squares_circle,
    near,
    scan_edges,
)
from lineside_models.metrology.locator import Locator, following
from lineside_models.metrology.rules import (
    CountRule,
    DiameterRule,
    GapRule,
    LengthRule,
    MeasureRule,
    PresenceRule,
    needs_mm,
)
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import MeasurementError

Floats = npt.NDArray[np.float64]

SCANS_LINE_MAX = 64
"""Scans of a band; a wider one has them further apart than one pixel."""

SCANS_CIRCLE = 96
"""Scans of a circle."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One measured feature of a part.

    Attributes:
        type: ``length``, ``gap``, ``diameter``, ``presence`` or ``count``.
        value: In ``unit``; ``None`` if it could not be measured.
        unit: ``mm``, ``px``, ``share`` or empty for a count.
        min: Lower limit; ``None`` for none.
        max: Upper limit; ``None`` for none.
        line: Where it was measured, ``(x1, y1, x2, y2)`` in pixels of the frame: from edge to edge, a diameter of the
            circle, or the corners of the area's box.
        in_tolerance: Whether the value is known and within its limits; a value at a limit is in tolerance.
        error: Why it could not be measured; empty if it was.
    """

    name: str
    type: str
    value: float | None = None
    unit: str = ""
    min: float | None = None
    max: float | None = None
    line: tuple[float, float, float, float]
    in_tolerance: bool = False
    error: str = ""

    @property
    def label(self) -> str:
        """Name and value, such as ``bore 12.0031 mm``."""
        if self.value is None:
            return f"{self.name} not measured"
        return f"{self.name} {self.value:.{DECIMALS.get(self.unit, 0)}f} {self.unit}".rstrip()

    @property
    def text(self) -> str:
        """Name, value and how it lies to its limits."""
        if self.value is None:
            return f"{self.label}: {self.error}"
        low = "-∞" if self.min is None else f"{self.min:g}"
        high = "∞" if self.max is None else f"{self.max:g}"
        return f"{self.label} {'in' if self.in_tolerance else 'OUT OF'} [{low}, {high}]"


DECIMALS = {"mm": 4, "px": 3, "share": 3}
"""Decimals that are shown of a value by its unit."""


def measure(
    image: UInt8Array,
    rules: Sequence[MeasureRule],
    calibration: Calibration | None = None,
    locator: Locator | None = None,
) -> tuple[Measurement, ...]:
    """Measures a frame.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.
        rules: In pixels of this frame, or with a locator of the frame for which they were drawn.
        calibration: Of the camera; needed by rules in millimetres.
        locator: Finds the part, which the rules then follow.

    Returns:
        One a rule, in their order.

    Raises:
        MeasurementError: A rule lies outside the frame, or is in millimetres without a calibration for this size.
    """
    if not rules:
        return ()
    for rule in rules:
        _check_inside(rule, (image.shape[1], image.shape[0]))
        _check_calibrated(rule, (image.shape[1], image.shape[0]), calibration)
    grey = to_grey(image)
    try:
        placed = rules if locator is None else following(rules, locator, grey)
    except MeasurementError as failure:
        return tuple(_result(rule, None, "", _place(rule), str(failure)) for rule in rules)
    return tuple(_measured(grey, rule, calibration) for rule in placed)


def _measured(grey: UInt8Array, rule: MeasureRule, calibration: Calibration | None) -> Measurement:
    value, unit, line, error = None, getattr(rule, "unit", ""), _place(rule), ""
    try:
        _check_inside(rule, (grey.shape[1], grey.shape[0]))
        if isinstance(rule, PresenceRule | CountRule):
            value, unit = _area(grey, rule)
        else:
            scale = _Scale(calibration if rule.unit == "mm" else None)
            value, line = _circle(grey, rule, scale) if isinstance(rule, DiameterRule) else _band(grey, rule, scale)
    except MeasurementError as failure:
        error = str(failure)
    return _result(rule, value, unit, line, error)


def _result(
    rule: MeasureRule, value: float | None, unit: str, line: tuple[float, float, float, float], error: str
) -> Measurement:
    return Measurement(
        name=rule.name,
        type=str(rule.__struct_config__.tag),
        value=value,
        unit=unit,
        min=rule.min,
        max=rule.max,
        line=line,
        in_tolerance=value is not None and _within(value, rule),
        error=error,
    )


def _within(value: float, rule: MeasureRule) -> bool:
    return (rule.min is None or value >= rule.min) and (rule.max is None or value <= rule.max)


def _check_inside(rule: MeasureRule, size: tuple[int, int]) -> None:
    width, height = size
    left, top, right, bottom = _reach(rule)
    if min(left, top) < 0 or right > width - 1 or bottom > height - 1:
        raise MeasurementError(
            f"the rule {rule.name} lies outside the frame",
            expected=f"x from 0 to {width - 1}, y from 0 to {height - 1}, with its width or search",
            actual=f"x from {left:.0f} to {right:.0f}, y from {top:.0f} to {bottom:.0f}",
            action="Draw the rule for this camera's frames, or keep the part further inside them.",
        )


def _check_calibrated(rule: MeasureRule, size: tuple[int, int], calibration: Calibration | None) -> None:
    if not needs_mm(rule):
        return
    if calibration is None:
        raise MeasurementError(
            f"the rule {rule.name} is in mm, and the camera is not calibrated",
            expected="a calibration or px_per_mm",
            action='Make one with lineside gauge calibrate, or set unit = "px".',
        )
    if calibration.size != size:
        raise MeasurementError(
            "the calibration is for another camera size",
            expected=f"frames of {calibration.size[0]} x {calibration.size[1]} pixels",
            actual=f"{size[0]} x {size[1]}",
            action="Calibrate again with this camera's size: lineside gauge calibrate.",
        )


class _Scale:
    """Maps edge points to the unit of a rule."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration
        self.per_px = 1.0 if calibration is None else 1 / calibration.px_per_mm

    def __call__(self, points: Floats) -> Floats:
        return points if self._calibration is None else self._calibration.to_mm(points)


def _band(
    grey: UInt8Array, rule: LengthRule | GapRule, scale: _Scale
) -> tuple[float, tuple[float, float, float, float]]:
    """Measures between two edges along a line."""
    begin, end = np.array(rule.line)
    along = (end - begin) / np.hypot(*(end - begin))
    count = min(SCANS_LINE_MAX, max(3, round(rule.width)))
    aside = np.linspace(-rule.width / 2, rule.width / 2, count)[:, None] * np.array([-along[1], along[0]])
    entering = {"dark": -1, "bright": 1, "any": 0}[rule.inside]
    middle, ends = (begin + end) / 2 + aside, (begin + aside, end + aside)
    from_begin, from_end = [(one, middle) for one in ends]
    if isinstance(rule, GapRule):  # from the middle to both ends
        (from_begin, from_end), entering = [(middle, one) for one in ends], -entering
    sides = []
    for what, (start, stop) in (("begin", from_begin), ("end", from_end)):
        places, found, _ = scan_edges(grey, start, stop, sign=entering, contrast=rule.contrast, which="first")
        _check_share(found, f"the edge at the line's {what}", rule.contrast)
        centre, direction, kept = fit_line(scale(places[found]), near(scale.per_px))
        _check_share(_spread(found, kept), f"the edge at the line's {what} is not straight: it", rule.contrast)
        sides.append((centre, direction, places[found][kept].mean(axis=0)))
    (first, along_first, from_px), (second, along_second, to_px) = sides
    value = (_distance(second, first, along_first) + _distance(first, second, along_second)) / 2
    if math.dist(from_px, to_px) < 2 * STEP_PX:
        raise MeasurementError(
            "one edge was found twice",
            expected="two edges along the line",
            actual="one",
            action="Say what lies between the edges: inside = dark or bright.",
        )
    return value, (float(from_px[0]), float(from_px[1]), float(to_px[0]), float(to_px[1]))


def _circle(grey: UInt8Array, rule: DiameterRule, scale: _Scale) -> tuple[float, tuple[float, float, float, float]]:
    """Measures the diameter of a disc or hole."""
    angles = np.arange(SCANS_CIRCLE) * (2 * np.pi / SCANS_CIRCLE)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = np.array(rule.centre)
    near_end, far_end = centre + (rule.radius - rule.reach) * rays, centre + (rule.radius + rule.reach) * rays
    leaving = {"dark": 1, "bright": -1, "any": 0}[rule.inside]
    places, found, blurs = scan_edges(grey, near_end, far_end, sign=leaving, contrast=rule.contrast, which="strongest")
    _check_share(found, "the circle's edge", rule.contrast)
    _, radius, kept = fit_circle(scale(places[found]), near(scale.per_px))
    _check_share(_spread(found, kept), "the edge is not a circle: it", rule.contrast)
    middle, radius_px = least_squares_circle(places[found][kept])
    x, y = float(middle[0]), float(middle[1])
    # Blur of variance v moves a curved edge inwards by v / 2r (Bouma et al. 2005, "Correction for the dislocation of
    # curved surfaces caused by the PSF"): 0.11 pixels of a bore of 120 pixels at a blur of 2.5, before the correction.
    radius *= 1 + float(np.median(blurs[found][kept])) / (2 * radius_px**2)
    return 2 * radius, (x - radius_px, y, x + radius_px, y)


def _area(grey: UInt8Array, rule: PresenceRule | CountRule) -> tuple[float, str]:
    """Returns the share of an area, or the number of spots in it, with the unit."""
    left, top, right, bottom = _place(rule)
    x, y = int(left), int(top)
    cut = grey[y : math.ceil(bottom) + 1, x : math.ceil(right) + 1]  # corners are rounded, up too
    mask = np.zeros(cut.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(np.array(rule.polygon) - (x, y)).astype(np.int32)], 1)
    marked = ((cut < rule.level) if rule.inside == "dark" else (cut >= rule.level)).astype(np.uint8) & mask
    if isinstance(rule, PresenceRule):
        return float(marked.sum()) / float(mask.sum()), "share"
    spots = cv2.connectedComponentsWithStats(marked, connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return float((spots >= rule.min_area_px).sum()), ""


def _place(rule: MeasureRule) -> tuple[float, float, float, float]:
    """Returns where a rule looks, as in `Measurement.line`."""
    if isinstance(rule, LengthRule | GapRule):
        return (*rule.line[0], *rule.line[1])
    if isinstance(rule, DiameterRule):
        (x, y), radius = rule.centre, rule.radius
        return x - radius, y, x + radius, y
    xs, ys = zip(*rule.polygon, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _reach(rule: MeasureRule) -> tuple[float, float, float, float]:
    """Returns the box in which a rule reads pixels."""
    if isinstance(rule, PresenceRule | CountRule):
        return _place(rule)
    if isinstance(rule, DiameterRule):
        (x, y), reach = rule.centre, rule.radius + rule.reach
        return x - reach, y - reach, x + reach, y + reach
    begin, end = np.array(rule.line)
    along = (end - begin) / np.hypot(*(end - begin))
    aside = np.array([-along[1], along[0]]) * rule.width / 2
    corners = np.stack([begin - aside, begin + aside, end - aside, end + aside])
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _distance(point: Floats, on_line: Floats, direction: Floats) -> float:
    away = point - on_line
    return abs(float(away[0] * direction[1] - away[1] * direction[0]))


def _spread(found: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Returns which of all scans agree, given those that found an edge and which of them agree."""
    agree = np.zeros(len(found), bool)
    agree[found] = kept
    return agree


def _check_share(good: npt.NDArray[np.bool_], what: str, contrast: float) -> None:
    if good.mean() < LEAST_SHARE:
        raise MeasurementError(
            f"{what} is seen by {int(good.sum())} of {len(good)} scans",
            expected=f"an edge of {contrast:g} grey levels on {LEAST_SHARE:.0%} of them",
        )
