"""The id of a part that several cameras or models have looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from lineside_models.identification.rules import GIVEN_ID


class _Reading(Protocol):
    """A `MarkReading`, or the same reading in a record."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def agrees_with(self) -> str: ...
    @property
    def accepted(self) -> bool: ...
    @property
    def is_part_id(self) -> bool: ...


Reading = TypeVar("Reading", bound=_Reading)


def read_ids(readings: Iterable[_Reading]) -> list[str]:
    """Returns the different ids that were read from a part, sorted."""
    return sorted({one.text for one in readings if one.is_part_id and one.accepted})


def with_id_faults(readings: Sequence[Reading], used_id: str, ids: Sequence[str]) -> tuple[Reading, ...]:
    """Returns the readings; one that contradicts the part ids that were read is a fault.

    Args:
        readings: Of one camera or model.
        used_id: By which it found expected values.
        ids: Read by all cameras and models.
    """
    if len(ids) > 1:
        why = f"different part ids were read: {', '.join(ids)}"
        return tuple(_fault(one, why) if one.is_part_id and one.accepted else one for one in readings)
    if not ids or used_id == ids[0]:
        return tuple(readings)
    names = {GIVEN_ID, "", *(one.name for one in readings)}
    why = f"was compared with the values of part {used_id}, but {ids[0]} was read from the part"
    return tuple(_fault(one, why) if one.accepted and one.agrees_with not in names else one for one in readings)


def _fault(one: Reading, why: str) -> Reading:
    return msgspec.structs.replace(one, accepted=False, failure="fault", error=why)  # type: ignore[type-var]
