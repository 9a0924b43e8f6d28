"""The image archive: which frames are kept, where, and for how long.

- Frames that were not passed can be kept, or only those of which the verdict was unsure; passes that nearly weren't;
  and one pass in so many.
- Verdicts come before pictures: where the disk has less than ``free_min_bytes``, or the day's budget of writes is used
  up, no image is kept, and that is counted.
- The archive is bounded by bytes and by age; the oldest images go first (`sweep`).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2

from lineside_agent.config import StoreConfig
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import StoreError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.images")

DAY_S = 86400.0

SWEEP_TO = 0.9
"""A sweep for room goes on to this share of the bound, so that not every image makes one."""


@dataclasses.dataclass(slots=True)
class ImageCounts:
    """What became of images since the start.

    Attributes:
        kept: Written.
        skipped: Not written although the rules say so: no room, or the day's budget of writes is used up.
        removed: Deleted by the bounds.
        bytes: That lie in the archive now; ``None`` until the first sweep has counted them.
    """

    kept: int = 0
    skipped: int = 0
    removed: int = 0
    bytes: int | None = None


class _Kept(NamedTuple):
    at_s: float
    size: int
    path: Path


class ImageArchive:
    """Keeps frames as PNG under ``<folder>/images/<source>/<sequence>.png``.

    Attributes:
        counts: What happened since the start.
        problem: Why images are skipped now; empty while they aren't.

    Args:
        folder: The agent's state folder.
        rules: The ``[store]`` table.
        may_write: Whether the day's budget of writes allows an image.
    """

    def __init__(self, folder: Path, rules: StoreConfig, *, may_write: Callable[[], bool] = lambda: True) -> None:
        self.counts = ImageCounts()
        self.problem = ""
        self._folder = folder / "images"
        self._rules = rules
        self._may_write = may_write
        self._passes_off = False
        self._sweeping = threading.Lock()

    def use(self, rules: StoreConfig) -> None:
        """Takes other rules, from the next frame on."""
        self._rules = rules

    @property
    def keeps_passes(self) -> bool:
        """Whether the rules want images of parts that were passed, so that there is something to give up."""
        rules = self._rules
        return rules.keep_images == "all" or rules.keep_good_every > 0 or rules.keep_unsure_from is not None

    def keep_no_passes(self, on: bool) -> None:
        """Keeps images of parts that were passed no more, or again; of the others as the rules say."""
        self._passes_off = on

    def path(self, source: str, sequence: int) -> Path:
        """Returns where the image of a frame is, or would be."""
        return self._folder / re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.") / f"{sequence:08d}.png"

    def wants(self, row: ResultRow) -> bool:
        """Returns whether the rules want the image of a record."""
        return not (self._passes_off and row.verdict == "pass") and wanted(row, self._rules)

    def save(self, frame: Frame, row: ResultRow) -> Path | None:
        """Keeps a frame, if the rules say so and there is room.

        Returns:
            The file, or ``None`` if it is not kept.

        Raises:
            DiskFullError: There is no room.
            StoreError: The file could not be written.
        """
        if not self.wants(row) or not self._may_keep():
            return None
        path = self.path(frame.source, frame.sequence)
        done, png = cv2.imencode(".png", frame.image)
        if not done:
            raise StoreError(f"frame {frame.sequence} of {frame.source} can't be written as PNG")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, png.tobytes())
        except OSError as error:
            raise StoreError(f"{path}: {error}") from error
        self.counts.kept += 1
        if self.counts.bytes is not None:
            self.counts.bytes += len(png)
        return path

    def _may_keep(self) -> bool:
        """Whether an image may take room from the verdicts; said when that changes."""
        free = shutil.disk_usage(self._folder.parent).free
        problem = ""
        if free < self._rules.free_min_bytes:
            problem = f"only {free >> 20} MiB are free, and verdicts need them"
        elif not self._may_write():
            problem = "the day's budget of writes is used up"
        if bool(problem) != bool(self.problem):
            log.warning("images are not kept: %s" if problem else "images are kept again%s", problem)
        self.problem = problem
        self.counts.skipped += bool(problem)
        return not problem

    def sweep(self, *, need_bytes: int = 0) -> int:
        """Deletes what the bounds don't allow, the oldest first; from any thread.

        Returns:
            How many were deleted.
        """
        with self._sweeping:
            kept = sorted(_images(self._folder))
            excess = _excess(kept, self._rules, need_bytes)
            for image in excess:
                image.path.unlink(missing_ok=True)
            self.counts.bytes = sum(image.size for image in kept) - sum(image.size for image in excess)
            self.counts.removed += len(excess)
        if excess:
            log.info("%d images were deleted, %d MiB", len(excess), sum(image.size for image in excess) >> 20)
        return len(excess)

    @property
    def is_over(self) -> bool:
        """Whether a sweep by bytes is due."""
        return self.counts.bytes is None or self.counts.bytes > self._rules.images_max_bytes


def wanted(row: ResultRow, rules: StoreConfig) -> bool:
    """Returns whether the image of a record is to be kept; the same for the same record, after a restart too."""
    if rules.keep_images == "all":
        return True
    if row.unsure and (rules.keep_images == "unsure" or rules.keep_unsure_from is not None):
        return True
    if row.verdict != "pass":
        return rules.keep_images == "bad"
    near = rules.keep_unsure_from is not None and row.near_miss >= rules.keep_unsure_from
    return near or (rules.keep_good_every > 0 and row.sequence % rules.keep_good_every == 0)


def _images(folder: Path) -> Iterator[_Kept]:
    """Every file of the archive; what vanishes meanwhile isn't there."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                found = path.stat()
            except OSError:
                continue
            yield _Kept(found.st_mtime, found.st_size, path)


def _excess(kept: list[_Kept], rules: StoreConfig, need_bytes: int) -> list[_Kept]:
    """The images that must go, of all in order of age."""
    total = sum(image.size for image in kept)
    allowed = total if total <= rules.images_max_bytes else int(SWEEP_TO * rules.images_max_bytes)
    allowed = max(0, min(allowed, total - need_bytes))
    oldest_s = 0.0 if rules.images_max_days is None else time.time() - DAY_S * rules.images_max_days
    count = 0
    while count < len(kept) and (total > allowed or kept[count].at_s < oldest_s):
        total -= kept[count].size
        count += 1
    return kept[:count]
