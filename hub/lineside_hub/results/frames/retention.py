"""Which frames are deleted: those that are too old, then the oldest of the device with most.

So a device that sends without measure pushes out its own frames and nobody else's. Rows go before their content: a kill
in between leaves a file that belongs to nothing, which `orphans` finds later.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from lineside_hub.config import FramesConfig
from lineside_hub.repository.chunks import ChunkPlace
from lineside_hub.results.frames.rows import Kept, Rows

BATCH = 200

ENOUGH = 0.95
"""Of ``max_bytes``: down to there, so that not every new frame costs a look."""


class Dropped(msgspec.Struct, frozen=True):
    """What went.

    Attributes:
        size: Of them, in bytes.
    """

    count: int
    size: int
    why: str


def sweep(rows: Rows, place: ChunkPlace, config: FramesConfig, now_ns: int) -> list[Dropped]:
    """Removes what is too old or too much.

    Args:
        place: Where the content lies.
        now_ns: Unix time.

    Returns:
        What went, by reason.
    """
    gone = [_too_old(rows, place, config, now_ns), *_over_quota(rows, place, config), _too_many(rows, place, config)]
    return [dropped for dropped in gone if dropped.count]


def _too_old(rows: Rows, place: ChunkPlace, config: FramesConfig, now_ns: int) -> Dropped:
    count = size = 0
    before_ns = now_ns - int(config.max_age_days * 86400e9)
    while found := rows.oldest(BATCH, before_ns=before_ns):
        count, size = count + len(found), size + _remove(rows, place, found)
    return Dropped(count, size, f"older than {config.max_age_days:g} days")


def _too_many(rows: Rows, place: ChunkPlace, config: FramesConfig) -> Dropped:
    count = size = 0
    _, total = rows.total()
    if total > config.max_bytes:
        while total - size > ENOUGH * config.max_bytes and (device := rows.heaviest()) is not None:
            gone = _remove_oldest(rows, place, device, int(total - size - ENOUGH * config.max_bytes))
            count, size = count + gone[0], size + gone[1]
    return Dropped(count, size, f"more than {config.max_bytes / 1e9:g} GB in all")


def _over_quota(rows: Rows, place: ChunkPlace, config: FramesConfig) -> Iterator[Dropped]:
    for device, total in rows.heavier_than(config.device_max_bytes):
        count = size = 0
        while total - size > ENOUGH * config.device_max_bytes:
            gone = _remove_oldest(rows, place, device, int(total - size - ENOUGH * config.device_max_bytes))
            count, size = count + gone[0], size + gone[1]
        yield Dropped(count, size, f"more than {config.device_max_bytes / 1e9:g} GB of {device}")


def _remove_oldest(rows: Rows, place: ChunkPlace, device: str, needed: int) -> tuple[int, int]:
    """Removes a device's oldest frames, at least so many bytes but one batch at most; returns their count and bytes."""
    found = rows.oldest(BATCH, device=device)
    sums = itertools.accumulate((kept.size for kept in found), initial=0)
    enough = [kept for kept, before in zip(found, sums, strict=False) if before < needed]
    return len(enough), _remove(rows, place, enough)


def _remove(rows: Rows, place: ChunkPlace, found: list[Kept]) -> int:
    rows.remove(kept.key for kept in found)
    for sha256 in {kept.sha256 for kept in found}:
        if not rows.is_used(sha256):
            place.remove(sha256)
    return sum(kept.size for kept in found)


def orphans(rows: Rows, place: ChunkPlace) -> Iterator[bool]:
    """Removes content that belongs to no result, one file a step, since there may be a million of them.

    Yields:
        For each file, whether it was removed.
    """
    for name in place.names():
        orphaned = not rows.is_used(name)
        if orphaned:
            place.remove(name)
        yield orphaned
