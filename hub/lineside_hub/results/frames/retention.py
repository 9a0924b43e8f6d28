"""Delete frames that are too old, then the oldest of the device with most bytes.

So a device that sends too much only displaces its own frames. Rows are deleted before their content: a kill in between
leaves a file without a row, which `orphans` finds later.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from lineside_hub.blobs import BlobStore
from lineside_hub.config import FramesConfig
from lineside_hub.results.frames.rows import FrameRows, StoredFrame
from lineside_link.age_limit import most_by_age

BATCH = 200

TARGET_SHARE = 0.95
"""Frames are deleted down to this share of the limit, so that not every new frame causes a sweep."""


class RemovedFrames(msgspec.Struct, frozen=True):
    """Frames that were deleted for one reason.

    Attributes:
        size: Of them, in bytes.
    """

    count: int
    size: int
    why: str


def sweep(rows: FrameRows, blobs: BlobStore, config: FramesConfig, now_ns: int) -> list[RemovedFrames]:
    """Deletes frames that are too old or too many; returns them by reason.

    Args:
        now_ns: Unix time.

    """
    removed = [
        _remove_old(rows, blobs, config, now_ns),
        *_over_quota(rows, blobs, config),
        _remove_excess(rows, blobs, config),
    ]
    return [each for each in removed if each.count]


def _remove_old(rows: FrameRows, blobs: BlobStore, config: FramesConfig, now_ns: int) -> RemovedFrames:
    count = size = 0
    before_ns = now_ns - int(config.max_age_days * 86400e9)
    most = most_by_age(rows.total()[0], config.max_age_days)
    while found := rows.oldest(min(BATCH, most - count), before_ns=before_ns):
        count, size = count + len(found), size + _remove(rows, blobs, found)
    return RemovedFrames(count, size, f"older than {config.max_age_days:g} days")


def _remove_excess(rows: FrameRows, blobs: BlobStore, config: FramesConfig) -> RemovedFrames:
    count = size = 0
    _, total = rows.total()
    if total > config.max_bytes:
        while total - size > TARGET_SHARE * config.max_bytes and (device := rows.largest_device()) is not None:
            removed = _remove_oldest(rows, blobs, device, int(total - size - TARGET_SHARE * config.max_bytes))
            count, size = count + removed[0], size + removed[1]
    return RemovedFrames(count, size, f"more than {config.max_bytes / 1e9:g} GB in all")


def _over_quota(rows: FrameRows, blobs: BlobStore, config: FramesConfig) -> Iterator[RemovedFrames]:
    for device, total in rows.devices_above(config.device_max_bytes):
        count = size = 0
        while total - size > TARGET_SHARE * config.device_max_bytes:
            removed = _remove_oldest(rows, blobs, device, int(total - size - TARGET_SHARE * config.device_max_bytes))
            count, size = count + removed[0], size + removed[1]
        yield RemovedFrames(count, size, f"more than {config.device_max_bytes / 1e9:g} GB of {device}")


def _remove_oldest(rows: FrameRows, blobs: BlobStore, device: str, needed: int) -> tuple[int, int]:
    """Removes a device's oldest frames, at least so many bytes but one batch at most; returns their count and bytes."""
    found = rows.oldest(BATCH, device=device)
    sums = itertools.accumulate((kept.size for kept in found), initial=0)
    enough = [kept for kept, before in zip(found, sums, strict=False) if before < needed]
    return len(enough), _remove(rows, blobs, enough)


def _remove(rows: FrameRows, blobs: BlobStore, found: list[StoredFrame]) -> int:
    rows.remove(kept.key for kept in found)
    for sha256 in {kept.sha256 for kept in found}:
        if not rows.is_used(sha256):
            blobs.remove(sha256)
    return sum(kept.size for kept in found)


def orphans(rows: FrameRows, blobs: BlobStore) -> Iterator[bool]:
    """Deletes content without a row, one file a step, since there may be a million of them.

    Yields:
        For each file, whether it was removed.
    """
    for name in blobs.names():
        orphaned = not rows.is_used(name)
        if orphaned:
            blobs.remove(name)
        yield orphaned
