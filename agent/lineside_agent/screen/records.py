"""One record for the screen: why it was rejected, its image and heat map, and marks of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lineside_agent.screen.feed import in_order, page_jpeg, part_fields, verdict_of
from lineside_agent.screen.good_parts import SimilarPart
from lineside_agent.screen.heat_map import heat_picture
from lineside_agent.screen.marks import MarkedBox, MarkKind, kind_of, note_of
from lineside_agent.screen.state import ScreenState
from lineside_agent.storage.record_files import database
from lineside_agent.storage.records import NAME as RECORDS
from lineside_agent.storage.verdict_marks import add_to_record, read_marks
from lineside_link.messages import Mark, ResultRow
from lineside_models.frame import UInt8Array
from lineside_runtime.errors import InputNotFoundError

FLUSH_S = 2.0
"""How long a mark waits for its record to be on disk."""


class ScreenRecords:
    """Reads and marks records; in the worker thread."""

    def __init__(self, screen: ScreenState) -> None:
        self._screen = screen

    def details(self, source: str, sequence: int) -> dict[str, Any]:
        """Returns a record, with what it was judged by where that is still loaded.

        Raises:
            InputNotFoundError: There is no such record.
        """
        row, mark = self._find(source, sequence)
        thresholds = self._thresholds(row)
        views = [view.source for view in row.views] or [row.source]
        with self._screen.active.use() as loaded:
            labels = () if loaded is None else loaded.bundle.manifest.labels
            is_current = loaded is not None and loaded.bundle.digest == row.bundle_sha256
            has_heat = is_current and loaded is not None and loaded.has_heat_map
        held = self._screen.feed.hold(source, sequence)
        kept = [self._screen.archive.path(name, sequence).is_file() for name in views]
        has_image = any(kept) or (held is not None and bool(held.frames))
        return {
            **part_fields(row),
            "thresholds": thresholds,
            "labels": labels,
            "has_image": has_image,
            "has_heat": has_heat and has_image,
            "mark": mark,
        }

    def _find(self, source: str, sequence: int) -> tuple[ResultRow, str]:
        """The record and what was said of it."""
        feed = self._screen.feed
        if (reject := feed.reject(source, sequence)) is not None:
            return reject.row, reject.mark
        folder = self._screen.agent.folder
        found = None
        if (folder / RECORDS).is_file():
            with database.reading(folder / RECORDS) as connection:
                found = database.record_of(connection, folder / RECORDS, source, sequence)
        if found is None:
            if (part := feed.hold(source, sequence)) is not None:
                return part.row, ""  # it is not on disk yet
            raise InputNotFoundError("no such record here", action="It may have made way.")
        epoch, row = found
        notes = [
            mark.note for mark in read_marks(folder) if (mark.epoch, mark.seq, mark.wrong) == (epoch, row.seq, True)
        ]
        return row, kind_of(notes[-1]) if notes else ""

    def _thresholds(self, row: ResultRow) -> dict[str, float] | None:
        """Least score of each type; ``None`` where another bundle or recipe judged."""
        with self._screen.active.use() as loaded:
            if loaded is None or loaded.bundle.digest != row.bundle_sha256 or loaded.recipe != row.recipe:
                return None
            return loaded.cameras.get(row.source, loaded.inspector).thresholds

    def image(self, source: str, sequence: int, view: int) -> Path | None:
        """Returns the kept image of a record; ``None`` without one."""
        row, _ = self._find(source, sequence)
        names = [one.source for one in row.views] or [row.source]
        if not 0 <= view < len(names):
            return None
        path = self._screen.archive.path(names[view], sequence)
        return path if path.is_file() else None

    def recent_image(self, source: str, sequence: int, view: int) -> bytes | None:
        """Returns the image of a part that has just come, as JPEG; ``None`` if it has made way."""
        image = self._recent(source, sequence, view)
        return None if image is None else page_jpeg(image)

    def _recent(self, source: str, sequence: int, view: int) -> UInt8Array | None:
        part = self._screen.feed.hold(source, sequence)
        frames = [] if part is None else in_order(part)
        return frames[view].image if 0 <= view < len(frames) else None

    def heat(self, source: str, sequence: int, view: int) -> bytes:
        """Returns a record's image under its heat map, as JPEG. The model runs once more for it.

        Raises:
            InputNotFoundError: The image was not kept.
            ConfigError: As `lineside_agent.screen.heat_map.heat_picture`.
        """
        row, _ = self._find(source, sequence)
        return heat_picture(self._screen, row, view, self._full_image(source, sequence, view))

    def similar(self, source: str, sequence: int, view: int) -> SimilarPart | None:
        """Returns the good part that looks most like a record's image; ``None`` if there is none to compare with.

        Raises:
            InputNotFoundError: There is no such record, or it has no image.
        """
        row, _ = self._find(source, sequence)
        return self._screen.good_parts.most_similar(self._full_image(source, sequence, view), row, view)

    def _full_image(self, source: str, sequence: int, view: int) -> UInt8Array:
        """The image of a record, as it was kept or as the camera gave it."""
        path = self.image(source, sequence, view)
        if path is not None and (image := cv2.imread(str(path), cv2.IMREAD_COLOR)) is not None:
            return np.asarray(image, np.uint8)
        recent = self._recent(source, sequence, view)
        if recent is None:
            raise InputNotFoundError("the image of this part was not kept", action="See keep_images under [store].")
        return recent

    def mark(
        self, source: str, sequence: int, kind: MarkKind | None, box: MarkedBox | None, *, by: str
    ) -> dict[str, Any]:
        """Marks a verdict; it is on disk when this returns.

        Raises:
            LinesideError: As `lineside_agent.storage.verdict_marks.add_to_record`.
        """
        self._screen.flush(FLUSH_S)
        row, _ = self._find(source, sequence)
        note = ""
        if kind is not None:
            camera = row.views[box.view].source if box is not None and box.view < len(row.views) else ""
            note = note_of(kind, box, camera=camera, by=by)
        marked = add_to_record(self._screen.agent.folder, source, sequence, wrong=kind is not None, note=note)
        reject = self._screen.feed.reject(source, sequence)
        if reject is not None:
            reject.mark = kind or ""
        if kind is not None and self._screen.archive.find(row) is None:
            self._keep_image(row, marked.mark)
        return {
            "mark": kind or "",
            "note": note,
            "verdict": verdict_of(row),
            "seq": marked.mark.seq,
            "has_image": self._screen.archive.find(row) is not None,
            "has_hub": self._screen.agent.link is not None,
        }

    def _keep_image(self, row: ResultRow, mark: Mark) -> None:
        """Keeps the images of a part that has just come, so that the hub gets the decisive one."""
        part = self._screen.feed.hold(row.source, row.sequence)
        frames = () if part is None else part.frames
        kept = [self._screen.archive.save(frame, row, anyway=True) for frame in frames]
        if kept and kept[0] is not None:
            self._screen.send_image(mark.epoch, mark.seq, kept[0])
