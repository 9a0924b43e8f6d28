"""`Locator`: finds the part in a frame, so that rules follow its shift and rotation.

The part is the largest spot that is darker or brighter than a level. Its centre of area and the axis of its second
moments are compared with those in the frame for which the rules were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array
from lineside_models.metrology.rules import DiameterRule, GapRule, LengthRule, MeasureRule, Point, Tone
from lineside_runtime.errors import MeasurementError

Floats = npt.NDArray[np.float64]

SIDE_PX = 640
"""Long side to which larger frames are shrunk to find the part: its place need only be right to a pixel or two."""

ROUND = 0.02
"""Relative difference of the second moments below which a part has no axis."""


class Locator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the part is found; made by ``lineside gauge locate``.

    Attributes:
        inside: Whether the part is ``dark`` or ``bright`` against the ground.
        level: Grey level that divides dark pixels (below) from bright ones.
        centre: Centre of the part's area, in the frame for which the rules were drawn.
        angle: Direction of its long axis there, in degrees, -90 to 90; unset: the rules follow the shift alone, as for
            round parts.
        area: Pixels of the part there; a spot of less than half or more than twice of it is not the part.
    """

    inside: Tone
    level: Annotated[float, msgspec.Meta(gt=0, lt=255)]
    centre: Point
    angle: Annotated[float, msgspec.Meta(ge=-90, le=90)] | None = None
    area: Annotated[float, msgspec.Meta(gt=0)]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.centre)):
            raise ValueError("the centre of locate is not finite")


class PartPose(msgspec.Struct, frozen=True, kw_only=True):
    """Where a part lies: centre and area in pixels, the axis in degrees; ``None`` for one without an axis."""

    centre: Point
    angle: float | None
    area: float


def find_part(grey: UInt8Array, inside: Tone, level: float) -> PartPose:
    """Finds the largest spot.

    Args:
        grey: ``(H, W) uint8``.
        inside: Whether it is dark or bright.
        level: Grey level between both.

    Raises:
        MeasurementError: There is none, or the frame cuts it off.
    """
    height, width = grey.shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = grey if scale == 1 else cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    marked = ((small < level) if inside == "dark" else (small >= level)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    if len(stats) < 2:
        action = "Correct level or inside, or the light."
        raise MeasurementError("no part is in the frame", expected=f"pixels {inside} at level {level:g}", action=action)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    left, top, wide, high = stats[largest, :4].tolist()
    if left == 0 or top == 0 or left + wide == small.shape[1] or top + high == small.shape[0]:
        raise MeasurementError("the frame cuts the part off", expected="ground around the part", action="")
    moments = cv2.moments((labels == largest).astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    x, y = moments["m10"] / area, moments["m01"] / area
    across, down, mixed = moments["mu20"], moments["mu02"], moments["mu11"]
    length = math.hypot(across - down, 2 * mixed)
    angle = None if length < ROUND * (across + down) else math.degrees(math.atan2(2 * mixed, across - down)) / 2
    to_frame = width / small.shape[1], height / small.shape[0]
    centre = ((x + 0.5) * to_frame[0] - 0.5, (y + 0.5) * to_frame[1] - 0.5)
    return PartPose(centre=centre, angle=angle, area=area * to_frame[0] * to_frame[1])


def following(rules: Sequence[MeasureRule], locator: Locator, grey: UInt8Array) -> tuple[MeasureRule, ...]:
    """Returns the rules where the part lies in a frame.

    Raises:
        MeasurementError: As `placed`.
    """
    moved = placed(locator, grey)
    return tuple(_moved(rule, moved) for rule in rules)


def placed(locator: Locator, grey: UInt8Array) -> Callable[[Point], Point]:
    """Finds the part in a frame, and returns what moves a place of the frame for which rules were drawn to it.

    Raises:
        MeasurementError: The part is not found, or what is found has another area.
    """
    found = find_part(grey, locator.inside, locator.level)
    if not locator.area / 2 <= found.area <= 2 * locator.area:
        raise MeasurementError(
            "what is in the frame is not the part",
            expected=f"a spot of {locator.area / 2:.0f} to {2 * locator.area:.0f} pixels",
            actual=f"{found.area:.0f}",
        )
    rotation = 0.0
    if locator.angle is not None and found.angle is not None:
        rotation = (found.angle - locator.angle + 90) % 180 - 90  # an axis has no direction: the smaller rotation
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    (from_x, from_y), (to_x, to_y) = locator.centre, found.centre

    def moved(point: Point) -> Point:
        x, y = point[0] - from_x, point[1] - from_y
        return to_x + x * cos - y * sin, to_y + x * sin + y * cos

    return moved


def _moved(rule: MeasureRule, moved: Callable[[Point], Point]) -> MeasureRule:
    if isinstance(rule, LengthRule | GapRule):
        return msgspec.structs.replace(rule, line=tuple(map(moved, rule.line)))
    if isinstance(rule, DiameterRule):
        return msgspec.structs.replace(rule, centre=moved(rule.centre))
    return msgspec.structs.replace(rule, polygon=tuple(map(moved, rule.polygon)))
