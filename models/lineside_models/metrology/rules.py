"""Rules that measure a part: what is measured, where in the frame, and between which limits the value must lie.

Places are in pixels of the frame; the centre of the first pixel is (0, 0). ``inside`` says whether what is measured is
darker or brighter than what lies around it, so that only edges of this kind count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from lineside_runtime.errors import ConfigError

Point = tuple[float, float]
Limit = float | None
Tone = Literal["dark", "bright"]
RuleName = Annotated[str, msgspec.Meta(pattern="^[!-~]([ -~]{0,62}[!-~])?$")]

RULES_MAX = 64
"""Rules of one frame."""

CONTRAST = 20.0
"""Least step of an edge in grey levels, unless a rule sets another."""


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What all rules have.

    Attributes:
        name: Name of the measured feature in records, 1 to 64 printable ASCII characters.
        min: Least value that is in tolerance; unset: no lower limit.
        max: Largest value that is in tolerance; unset: no upper limit.
    """

    name: RuleName
    min: Limit = None
    max: Limit = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.min, self.max) if limit is not None]
        if not given:
            raise ValueError(f"the rule {self.name} needs min, max or both, else it can't reject a part")
        if not all(math.isfinite(limit) for limit in given) or given != sorted(given):
            raise ValueError(f"the rule {self.name} needs finite limits, min not above max")


class _EdgeRule(_Rule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What rules on edges have.

    Attributes:
        inside: Whether what is measured is ``dark`` or ``bright`` against its surroundings; ``any`` takes every edge.
        contrast: Least step of an edge in grey levels, 1 to 255.
        unit: ``mm``, which needs a calibration, or ``px``.
    """

    inside: Literal["dark", "bright", "any"] = "any"
    contrast: Annotated[float, msgspec.Meta(ge=1, le=255)] = CONTRAST
    unit: Literal["mm", "px"] = "mm"


class _LineRule(_EdgeRule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A measurement between two edges along a line.

    Attributes:
        line: Begin and end ``[[x1, y1], [x2, y2]]`` of the line, across both edges, one in each half.
        width: Width of the band around the line in pixels. Each edge is fitted over it, so that a wider band gives a
            more exact value, as long as the edges are straight there.
    """

    line: tuple[Point, Point]
    width: Annotated[float, msgspec.Meta(ge=3, le=1000)] = 21.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _finite(self.line) or math.dist(*self.line) < 5:
            raise ValueError(f"the line of the rule {self.name} needs at least 5 pixels")


class LengthRule(_LineRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="length"):
    """Distance between the outermost two edges: the line begins and ends beside what is measured and crosses it in its
    middle."""


class GapRule(_LineRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="gap"):
    """Distance between the two edges that are nearest to the line's middle, which lies in the gap."""


class DiameterRule(_EdgeRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="diameter"):
    """Diameter of a disc or hole, by a circle that is fitted to its edge.

    Attributes:
        centre: Where the centre is expected.
        radius: Expected radius in pixels.
        search: How far from the expected circle its edge may lie, in pixels; it covers the part's shift too. Unset: a
            quarter of the radius.
    """

    centre: Point
    radius: Annotated[float, msgspec.Meta(ge=3)]
    search: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _finite((self.centre, (self.radius, self.search or 1.0))):
            raise ValueError(f"the circle of the rule {self.name} is not finite")
        if self.search is not None and self.search > self.radius - 1:
            raise ValueError(f"search of the rule {self.name} must stay below the radius")

    @property
    def reach(self) -> float:
        """Distance from the expected circle within which its edge is searched for, in pixels."""
        return max(2.0, self.radius / 4) if self.search is None else self.search


class _AreaRule(_Rule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What rules on an area have.

    Attributes:
        polygon: Corners ``[x, y]`` of the area, three or more.
        inside: Whether ``dark`` or ``bright`` pixels are what is looked for.
        level: Grey level that divides dark pixels (below) from bright ones, 0 to 255.
    """

    polygon: tuple[Point, ...]
    inside: Tone
    level: Annotated[float, msgspec.Meta(gt=0, lt=255)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.polygon) < 3 or not _finite(self.polygon):
            raise ValueError(f"the polygon of the rule {self.name} needs three corners or more")


class PresenceRule(_AreaRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="presence"):
    """Share of an area that is dark or bright, 0 to 1: whether something is there."""


class CountRule(_AreaRule, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="count"):
    """Number of dark or bright spots in an area.

    Attributes:
        min_area_px: Least area of a spot in pixels; smaller ones do not count.
    """

    min_area_px: Annotated[float, msgspec.Meta(ge=1)] = 9.0


MeasureRule = LengthRule | GapRule | DiameterRule | PresenceRule | CountRule


def needs_mm(rule: MeasureRule) -> bool:
    """Returns whether a rule is in millimetres."""
    return isinstance(rule, _EdgeRule) and rule.unit == "mm"


def rule_named(rules: Sequence[MeasureRule], name: str) -> MeasureRule:
    """Returns a rule by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    for rule in rules:
        if rule.name == name:
            return rule
    raise ConfigError(f"no rule {name}", expected=", ".join(rule.name for rule in rules), action="Name one of these.")


def check_rules(rules: tuple[MeasureRule, ...]) -> None:
    """Checks rules against each other.

    Raises:
        ValueError: Two have one name, or there are too many.
    """
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules in measure have the name {twice[0]}")
    if len(rules) > RULES_MAX:
        raise ValueError(f"measure has {len(rules)} rules, at most {RULES_MAX} are allowed")


def _finite(points: tuple[Point, ...]) -> bool:
    return all(math.isfinite(side) and abs(side) < 1e5 for point in points for side in point)
