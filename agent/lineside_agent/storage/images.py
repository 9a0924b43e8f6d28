"""The image archive: which images are kept, where, and for how long.

- Images of parts that did not pass can be kept, or only those of unsure verdicts; of passes that were nearly rejected;
  and of one pass in so many.
- Verdicts come before images: with less than ``free_min_bytes`` on the disk, or without write budget, no image is kept,
  and that is counted.
- The archive is limited by bytes and by age; the oldest images are deleted first (`sweep`).
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
from lineside_link.age_limit import most_by_age
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_models.verdict.frame_check import MIN_CONTRAST, frame_problem
from lineside_runtime.errors import StoreError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.images")

DAY_S = 86400.0

SWEEP_TO = 0.9
"""A sweep by bytes goes on to this share of the limit, so that not every image causes one."""


@dataclasses.dataclass(slots=True)
class ImageCounts:
    """Counts since the start.

    Attributes:
        skipped: Images that were not written although the rules want them: no room, or no write budget.
        removed: Images that were deleted by the limits.
        bytes: Size of the archive now; ``None`` until the first sweep.
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
        problem: Why images are skipped now; empty if they are not.

    Args:
        may_write: Returns whether the write budget allows an image.
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
        """Applies other rules, from the next frame on."""
        self._rules = rules

    @property
    def keeps_passes(self) -> bool:
        """Whether the rules want images of passed parts."""
        rules = self._rules
        return rules.keep_images == "all" or rules.keep_good_every > 0 or rules.keep_unsure_from is not None

    def keep_no_passes(self, on: bool) -> None:
        """Keeps no images of passed parts, or those that the rules want again."""
        self._passes_off = on

    def path(self, source: str, sequence: int) -> Path:
        """Returns the path of a frame's image, whether it exists or not."""
        return self._folder / re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-.") / f"{sequence:08d}.png"

    def find(self, row: ResultRow) -> Path | None:
        """Returns the kept image of a record, with several cameras that of the decisive one; ``None`` without one."""
        verdict = "unsure" if row.unsure else row.verdict
        decided = [view.source for view in row.views if ("unsure" if view.unsure else view.verdict) == verdict]
        others = [view.source for view in row.views]
        paths = (self.path(source, row.sequence) for source in (*decided, *others, row.source))
        return next((path for path in paths if path.is_file()), None)

    def wants(self, row: ResultRow) -> bool:
        """Returns whether the image of a record is to be kept."""
        return not (self._passes_off and row.verdict == "pass") and wanted(row, self._rules)

    def save(self, frame: Frame, row: ResultRow, *, anyway: bool = False) -> Path | None:
        """Keeps a frame, if the rules want it and there is room; returns the file, or ``None``.

        Args:
            anyway: Whether to keep it although the rules do not want it, as for a person's mark.

        Raises:
            DiskFullError: There is no room.
            StoreError: The file could not be written.
        """
        if not (anyway or self.wants(row)) or not self._may_keep():
            return None
        may_drop = row.verdict == "fault" and not anyway and self._rules.keep_images != "all"
        if may_drop and frame_problem(frame.image, min_contrast=MIN_CONTRAST, brightness=None):
            return None  # nobody would see the fault on it, and a night without light takes no room from the rejects
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
        """Whether an image may take room from the verdicts; a change is logged."""
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
        """Deletes images beyond the limits, and as many as free ``need_bytes``, oldest first; returns how many."""
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
    """Returns whether the rules want the image of a record; always the same for the same record."""
    if rules.keep_images == "all":
        return True
    if row.unsure and (rules.keep_images == "unsure" or rules.keep_unsure_from is not None):
        return True
    if row.verdict != "pass":
        return rules.keep_images == "bad"
    near = rules.keep_unsure_from is not None and row.near_miss >= rules.keep_unsure_from
    return near or (rules.keep_good_every > 0 and row.sequence % rules.keep_good_every == 0)


def _images(folder: Path) -> Iterator[_Kept]:
    """Yields every file of the archive, except those that vanish meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                found = path.stat()
            except OSError:
                continue
            yield _Kept(found.st_mtime, found.st_size, path)


def _excess(kept: list[_Kept], rules: StoreConfig, need_bytes: int) -> list[_Kept]:
    """Returns the images to delete, from all in order of age."""
    total = sum(image.size for image in kept)
    allowed = total if total <= rules.images_max_bytes else int(SWEEP_TO * rules.images_max_bytes)
    allowed = max(0, min(allowed, total - need_bytes))
    oldest_s, most = 0.0, 0
    if rules.images_max_days is not None:
        oldest_s = time.time() - DAY_S * rules.images_max_days
        most = most_by_age(len(kept), rules.images_max_days)
    count = 0
    while count < len(kept) and (total > allowed or (kept[count].at_s < oldest_s and count < most)):
        total -= kept[count].size
        count += 1
    return kept[:count]
