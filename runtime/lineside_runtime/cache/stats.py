"""Counters of the result cache."""

from __future__ import annotations

import dataclasses
from typing import Literal

LevelName = Literal["device", "memory", "sqlite", "redis"]


@dataclasses.dataclass(frozen=True, slots=True)
class LevelStats:
    """Counters of one level since the session's start.

    Attributes:
        name: ``device``, ``memory``, ``sqlite`` or ``redis``.
        up: Whether it answers; one that failed comes back by itself.
        hits: Calls that it answered.
        misses: Calls that it was asked for and couldn't answer.
        stored: Results that it took.
        evictions: Results that it gave up for room.
        expired: Results that it gave up for their age.
        drops: Results that it should have taken and did not: its queue was full, or it was down.
        errors: Failures of it, such as a dead server, a full disk or a damaged value.
        entries: Results that it holds; ``None`` where that isn't known.
        used_bytes: That they take; ``None`` where that isn't known.
        lookup_us: Moving mean of the time of a look-up, for the shared levels: it must be less than what hits save.
        reason: Of its last failure; empty if there was none.
    """

    name: LevelName
    up: bool = True
    hits: int = 0
    misses: int = 0
    stored: int = 0
    evictions: int = 0
    expired: int = 0
    drops: int = 0
    errors: int = 0
    entries: int | None = None
    used_bytes: int | None = None
    lookup_us: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters of the whole cache.

    Attributes:
        hits: Calls that some level answered.
        misses: Calls that a device had to answer.
        not_kept: Calls whose input or result is of a type or size that isn't kept.
        unstable: Results that weren't kept because the caller changed the input while it was computed.
        levels: One by one, in the order in which they are asked.
    """

    hits: int = 0
    misses: int = 0
    not_kept: int = 0
    unstable: int = 0
    levels: tuple[LevelStats, ...] = ()

    @property
    def hit_rate(self) -> float:
        """Share of the calls that the cache answered, 0 to 1; 0 before the first call."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0
