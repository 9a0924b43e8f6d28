"""Regions of ``[inspect]``, drawn at the screen.

Regions decide what counts as a defect, so they follow the same rules as thresholds (ADR 0008, 0026):

- A device without a hub applies them as a configuration of its own, which lies over ``agent.toml`` as the hub's would:
  loaded beside what runs, health-checked, rolled back.
- A device with a hub never changes what the hub has signed: the editor gives the TOML to sign and push.
- Where a recipe or one of several cameras has regions of its own, only ``agent.toml`` can hold them: the editor gives
  that table's TOML to put there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import tomli_w

from lineside_agent.config import CameraConfig, with_settings
from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_models.verdict.regions import Region, RegionMasks
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import ConfigError

REGIONS_MAX = 32
CORNERS_MAX = 64

Corner = tuple[float, float]
Place = Literal["device", "hub", "file"]
"""Where regions go: applied here, signed by the hub, or put into ``agent.toml`` by a person."""


class EditedRegion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A region as the page edits it.

    Attributes:
        polygon: Corners in shares of the frame; empty for a mask, which can be kept or removed.
        kept: Place among the regions that hold now, of which a mask and the types are kept; ``None`` for a new one.
    """

    kind: Literal["inspect", "ignore"]
    polygon: Annotated[tuple[Corner, ...], msgspec.Meta(max_length=CORNERS_MAX)] = ()
    kept: int | None = None


class RegionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of edited regions.

    Attributes:
        toml: What a person must hand in; empty if they are being applied.
        file: Name of the file for that.
    """

    place: Place
    toml: str = ""
    file: str = ""


class RegionEditor:
    """Reads and changes the regions of one camera; in the screen's worker thread.

    Args:
        has_hub: Whether a hub may set the device's configuration.
    """

    def __init__(self, access: SetUpAccess, camera: CameraConfig, *, several: bool, has_hub: bool) -> None:
        self._access = access
        self._camera = camera
        self._several = several
        self._has_hub = has_hub

    def regions(self) -> tuple[Region, ...]:
        """Returns the regions that hold for the camera now."""
        inspect = self._access.recipes.apply_to(self._access.configuration.effective.inspect)
        own = self._camera.inspect.get("regions") if self._several else None
        return inspect.regions if own is None else msgspec.convert(own, tuple[Region, ...])

    def status(self, size: tuple[int, int] | None) -> dict[str, Any]:
        """Returns what the page edits.

        Args:
            size: ``(height, width)`` of the camera's frames, for regions in pixels.
        """
        return {
            "place": self._place()[0],
            "regions": [
                {"kind": one.kind, "polygon": _in_shares(one, size), "is_mask": bool(one.mask), "types": one.types}
                for one in self.regions()
            ],
        }

    def save(self, edited: Sequence[EditedRegion], size: tuple[int, int], by: str) -> RegionResult:
        """Applies regions, or returns the TOML to hand in.

        Args:
            size: ``(height, width)`` of the camera's frames.

        Raises:
            ConfigError: They leave nothing to inspect, or are malformed.
            StoreError: They can't be written.
        """
        regions = tuple(self._region(one) for one in edited)
        RegionMasks(regions, ("",), size)  # for parts of every type
        plain = [_plain(one) for one in regions]
        place, table = self._place()
        if place == "file":
            text = f"# For agent.toml, in place of the regions of {table}\n{tomli_w.dumps({'regions': plain})}"
            return RegionResult(place=place, toml=text, file="regions.toml")
        settings = self._followed()
        settings["inspect"] = {**settings.get("inspect", {}), "regions": plain}
        text = tomli_w.dumps(settings)
        with_settings(self._access.configuration.local, text.encode())  # as the device will read it
        if place == "hub":
            return RegionResult(place=place, toml=text, file="regions.toml")
        event = self._access.requests.add_configuration(
            text.encode(), by, after=self._access.configuration.machine.hub_desired
        )
        self._access.deploy(event)
        return RegionResult(place=place)

    def _place(self) -> tuple[Place, str]:
        """Where regions of this camera go, and for ``file`` the table."""
        if self._several and "regions" in self._camera.inspect:
            return "file", f"[camera.inspect] of {self._camera.name}"
        name = self._access.recipes.name
        recipe = next((one for one in self._access.configuration.local.recipe if one.name == name), None)
        if recipe is not None and "regions" in recipe.inspect:
            return "file", f"[recipe.inspect] of {name}"
        return ("hub", "") if self._has_hub else ("device", "")

    def _followed(self) -> dict[str, Any]:
        """The configuration that lies over ``agent.toml`` now: another one replaces it whole."""
        machine, configuration = self._access.configuration.machine, self._access.configuration
        if machine.installed_slot is None:
            return {}
        found: dict[str, Any] = decode_toml(configuration.content(machine.installed_slot))
        return found

    def _region(self, edited: EditedRegion) -> Region:
        known = self.regions()
        old = known[edited.kept] if edited.kept is not None and 0 <= edited.kept < len(known) else None
        types = () if old is None else old.types
        try:
            if not edited.polygon:
                if old is None or not old.mask:
                    raise ConfigError("a region", expected="three corners or more", actual="none")
                return Region(kind=edited.kind, mask=old.mask, types=types)
            corners = tuple((round(x, 5), round(y, 5)) for x, y in edited.polygon)
            return Region(kind=edited.kind, polygon=corners, types=types)
        except ValueError as error:
            raise ConfigError(f"a region: {error}", action="Draw it inside the picture.") from error


def _in_shares(region: Region, size: tuple[int, int] | None) -> list[Corner]:
    if region.units == "share" or size is None:
        return list(region.polygon)
    height, width = size
    return [(min(1.0, x / width), min(1.0, y / height)) for x, y in region.polygon]


def _plain(region: Region) -> dict[str, Any]:
    """Returns a region as TOML holds it."""
    plain: dict[str, Any] = msgspec.to_builtins(region)
    return plain
