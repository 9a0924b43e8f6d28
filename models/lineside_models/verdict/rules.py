"""`Rules` that turn candidates into a verdict, laid over a bundle's own; on a device they are signed.

Tables by type take ``"*"`` for every type that they don't name. Whatever sets a type's threshold ends the bundle's own
band of doubt for that type, which was chosen for the bundle's threshold; ``unsure_from`` sets another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from lineside_models.frame import UInt8Array
from lineside_models.identification.rules import MarkRule
from lineside_models.identification.rules import check_rules as check_mark_rules
from lineside_models.metrology.calibration import Calibration, scale_calibration
from lineside_models.metrology.locator import Locator
from lineside_models.metrology.measurement import Measurement, measure
from lineside_models.metrology.rules import MeasureRule, check_rules
from lineside_models.verdict.frame_check import MIN_CONTRAST, frame_problem
from lineside_models.verdict.regions import Region
from lineside_runtime.bundle import Slicing
from lineside_runtime.config_errors import config_error
from lineside_runtime.errors import ConfigError

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Length = Annotated[float, msgspec.Meta(ge=0)]
GreyValue = Annotated[float, msgspec.Meta(ge=0, le=255)]
Pixels = Annotated[int, msgspec.Meta(gt=0)]

OTHERS = "*"
"""In a table by type: every type that it doesn't name."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What counts as a defect.

    Attributes:
        confidence_threshold: Least score of a defect of any type, 0 to 1; unset: the bundle's own, by type.
        thresholds: Least score of a defect by type; comes before ``confidence_threshold``.
        unsure_from: By type: a candidate from this score to the threshold makes a part unsure instead of good.
        regions: Where defects count; empty for the whole frame.
        min_inside: Least share of a candidate's box that must lie in what is inspected.
        min_size_px: By type: least long side of a defect's box, in pixels of the frame; smaller ones don't count.
        min_size_mm: By type: least long side of a defect's box in millimetres of the part; needs ``px_per_mm`` or
            ``calibration``.
        px_per_mm: Pixels of the frame for one millimetre of the part.
        calibration: From pixels to millimetres with perspective and distortion, instead of ``px_per_mm``.
        locate: How the part is found, so that the rules in ``measure`` and ``read`` follow it; unset: they stay where
            they are.
        measure: What is measured of each part (`lineside_models.metrology.rules`); a value outside its limits makes
            the part bad.
        read: Codes on the part that are read, and what they must agree with (`lineside_models.identification.rules`).
        slicing: How large frames are looked at in pieces; ``off`` for never, unset: as the bundle says.
        min_contrast: Least contrast of a frame, in grey levels between its brighter and darker parts (standard
            deviation). One with less, as without light or with a covered lens, makes a part that would pass a fault.
            0 for parts that fill the frame with one grey value.
        brightness: Least and greatest mean value of a frame, 0 to 255. Outside of it a part that would pass is a fault;
            unset: any.
        frame_size: Width and height in pixels of the frames that lengths and regions in pixels, and ``px_per_mm``, are
            meant for. A part that would pass by a frame of another size is a fault; unset: that of ``calibration``, or
            any.
    """

    confidence_threshold: Share | None = None
    thresholds: dict[str, Share] = {}
    unsure_from: dict[str, Share] = {}
    regions: tuple[Region, ...] = ()
    min_inside: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    min_size_px: dict[str, Length] = {}
    min_size_mm: dict[str, Length] = {}
    px_per_mm: Positive | None = None
    slicing: Slicing | Literal["off"] | None = None
    calibration: Calibration | None = None
    locate: Locator | None = None
    measure: tuple[MeasureRule, ...] = ()
    read: tuple[MarkRule, ...] = ()
    min_contrast: Length = MIN_CONTRAST
    brightness: tuple[GreyValue, GreyValue] | None = None
    frame_size: tuple[Pixels, Pixels] | None = None

    def __post_init__(self) -> None:
        if self.brightness is not None and self.brightness[0] >= self.brightness[1]:
            raise ValueError("brightness is the least and the greatest value: the first must be the smaller one")
        if self.calibration is not None and self.px_per_mm is not None:
            raise ValueError("px_per_mm and calibration say the same: give one")
        if self.calibration is not None and self.frame_size not in (None, self.calibration.size):
            raise ValueError("frame_size differs from the size that calibration was made for: leave it out")
        if self.min_size_mm and self.scale is None:
            raise ValueError("min_size_mm needs px_per_mm: how many pixels one millimetre of the part has")
        check_rules(self.measure)
        check_mark_rules(self.read)
        if OTHERS in self.thresholds and self.confidence_threshold is not None:
            raise ValueError(f"confidence_threshold and thresholds.{OTHERS!r} say the same: give one")

    @property
    def scale(self) -> float | None:
        """Pixels for one millimetre of the part; ``None`` where that is not known."""
        return self.px_per_mm if self.calibration is None else self.calibration.px_per_mm

    def measured(self, image: UInt8Array) -> tuple[Measurement, ...]:
        """Measures a frame by the rules in ``measure``.

        Args:
            image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.

        Raises:
            MeasurementError: The rules don't fit the frame, or the calibration is missing or for another size.
        """
        calibration = self.calibration
        if calibration is None and self.px_per_mm is not None:
            calibration = scale_calibration(self.px_per_mm, (image.shape[1], image.shape[0]))
        return measure(image, self.measure, calibration, self.locate)

    def frame_problem(self, image: UInt8Array) -> str:
        """Returns why a frame can't be judged, by its size, contrast and brightness; empty if it can.

        Args:
            image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``.
        """
        size = (image.shape[1], image.shape[0])
        meant = self.frame_size if self.calibration is None else self.calibration.size
        if meant is not None and size != meant:
            found, expected = (f"{width} x {height}" for width, height in (size, meant))
            return f"the frame is {found} pixels, the rules are for {expected}; look at the camera's settings"
        return frame_problem(image, min_contrast=self.min_contrast, brightness=self.brightness)

    def slicing_of(self, own: Slicing | None) -> Slicing | None:
        """Returns the slicing, given the bundle's own."""
        if self.slicing is None:
            return own
        return None if self.slicing == "off" else self.slicing


BUNDLES_OWN = Rules()
"""Nothing but what the bundle says."""

AT_ROOT: Callable[[str], str] = "$.{}".format
"""Path of a rule that stands in no table."""


def check_types(rules: Rules, labels: Sequence[str], *, where: Callable[[str], str] = AT_ROOT) -> None:
    """Checks that a bundle has every type that rules name.

    Args:
        where: Returns the path of a rule by its key, for the message.

    Raises:
        ConfigError: It has not.
    """
    tables = ("thresholds", "unsure_from", "min_size_px", "min_size_mm")
    named = [(name, set(getattr(rules, name)) - {OTHERS}) for name in tables]
    for what, types in (*named, *(("regions", set(region.types)) for region in rules.regions)):
        if strange := types - set(labels):
            message = f"{where(what)}: the bundle has no type {min(strange)!r}"
            raise ConfigError(message, expected=f"of {', '.join(labels)}")


def read_rules(given: Mapping[str, Any]) -> Rules:
    """Reads rules from plain values, such as those of a TOML or JSON file.

    Args:
        given: By the names of `Rules`; a mask as base64 text or bytes.

    Raises:
        ConfigError: An unknown name, a wrong type or a value out of range; the message has the path.
    """
    try:
        return msgspec.convert(dict(given), Rules)
    except msgspec.ValidationError as error:
        raise config_error(error, Rules, dict(given), where="rules") from error
