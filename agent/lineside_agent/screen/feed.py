"""The parts that the screen shows: the last one with its images, and the last ones that did not pass."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from lineside_agent.line_io.codes import defect_types
from lineside_link.messages import ResultRow, View
from lineside_models.frame import Frame, UInt8Array
from lineside_models.image_file import encode_jpeg

REJECTS_MAX = 50

REJECTS_KEPT = 60
"""With those that a page may still ask for, since it shows an older list."""

REJECTS_WAITING_MAX = 16
"""Parts whose thumbnail is not made yet; of further ones there is none."""

RECENT_MAX = 10
RECENT_BYTES_MAX = 4 << 20
"""Parts whose images are still as the camera gave them, for a person who says that a defect was missed. The newest is
kept whatever its size."""

PARTS_KEPT = 8
"""Published parts whose images are kept, for browsers that fetch late."""

IMAGE_SIDE_MAX, IMAGE_QUALITY = 1024, 85
THUMBNAIL_SIDE_MAX, THUMBNAIL_QUALITY = 240, 75

BOXES_MAX = 100
"""Boxes of an image that are drawn, the surest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part, as it was recorded.

    Attributes:
        number: Grows with each part, over restarts too.
        frames: Its images until they are encoded.
    """

    number: int
    row: ResultRow
    frames: tuple[Frame, ...] = ()


@dataclasses.dataclass(slots=True)
class Reject:
    """A part that did not pass.

    Attributes:
        thumbnail: JPEG; ``None`` without an image.
        mark: What a person said of it, as in `lineside_agent.screen.marks.KINDS`; empty for nothing.
    """

    number: int
    row: ResultRow
    thumbnail: bytes | None = None
    mark: str = ""


class PartFeed:
    """Takes records from the pipeline, and has them encoded by one other thread.

    Args:
        wake: Called when `encode` has something to do; from any thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._number = int(time.time()) * 100  # fewer than 100 parts a second: a restart goes on above
        self._latest: Part | None = None
        self._waiting: collections.deque[Part] = collections.deque(maxlen=REJECTS_WAITING_MAX)
        self._shown: collections.OrderedDict[int, tuple[ResultRow, tuple[bytes, ...]]] = collections.OrderedDict()
        self._rejects: collections.deque[Reject] = collections.deque(maxlen=REJECTS_KEPT)
        self._reject_count = 0
        self._recent: collections.deque[Part] = collections.deque(maxlen=RECENT_MAX)
        self._held: Part | None = None
        self.published: Part | None = None

    def add(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record and its images, which nobody changes any more."""
        with self._lock:
            self._number += 1
            part = Part(self._number, row, tuple(frames))
            self._latest = part
            self._recent.append(part)
            while len(self._recent) > 1 and sum(map(_size, self._recent)) > RECENT_BYTES_MAX:
                self._recent.popleft()
            if row.verdict != "pass" and not row.unknown:
                self._waiting.append(part)
        self._wake()

    def hold(self, source: str, sequence: int) -> Part | None:
        """Returns a part that has just come, with its images, and keeps it until another one is held."""
        with self._lock:
            for part in (*self._recent, self._held):
                if part is not None and (part.row.source, part.row.sequence) == (source, sequence):
                    self._held = part
                    return part
        return None

    def add_older(self, found: Iterable[tuple[ResultRow, UInt8Array | None, str]]) -> None:
        """Takes parts of the time before this start, newest first, with their image and mark."""
        for row, image, mark in found:
            thumbnail = None if image is None else thumbnail_jpeg(image)
            with self._lock:
                if len(self._rejects) >= REJECTS_MAX:
                    return
                number = self._rejects[0].number - 1 if self._rejects else self._number - REJECTS_MAX
                self._rejects.appendleft(Reject(number, row, thumbnail, mark))
                self._reject_count += 1

    def encode(self, *, has_viewers: bool) -> None:
        """Encodes what waits: thumbnails always, the last part's images where somebody looks; in one thread."""
        while True:
            with self._lock:
                part = self._waiting.popleft() if self._waiting else None
            if part is None:
                break
            image = part.frames[0].image if part.frames else None
            thumbnail = None if image is None else thumbnail_jpeg(image)
            with self._lock:
                self._rejects.append(Reject(part.number, part.row, thumbnail))
                self._reject_count += 1
        latest = self._latest
        if not has_viewers or latest is None or (self.published and self.published.number == latest.number):
            return
        images = tuple(page_jpeg(frame.image) for frame in in_order(latest))
        with self._lock:
            self._shown[latest.number] = (latest.row, images)
            while len(self._shown) > PARTS_KEPT:
                self._shown.popitem(last=False)
            if self._latest is latest:
                self._latest = dataclasses.replace(latest, frames=())  # an image is megabytes
        self.published = dataclasses.replace(latest, frames=())

    @property
    def reject_count(self) -> int:
        """How many parts have come into the list of rejects: it changes with each."""
        return self._reject_count

    def image(self, number: int, view: int) -> bytes | None:
        """Returns the JPEG of a part's view; ``None`` if it is not kept any more."""
        with self._lock:
            _, images = self._shown.get(number, (None, ()))
        return images[view] if view < len(images) else None

    def picture(self, number: int, view: int) -> tuple[ResultRow, UInt8Array | bytes] | None:
        """Returns the record of one of the last parts and an image of it, as the camera gave it if that is still here.

        Returns:
            The image or, where it has made way, the JPEG that pages are shown; ``None`` if that has made way too.
        """
        with self._lock:
            recent = next((part for part in self._recent if part.number == number), None)
            row, images = self._shown.get(number, (None, ()))
        if recent is not None and view < len(recent.frames):
            return recent.row, in_order(recent)[view].image
        return (row, images[view]) if row is not None and view < len(images) else None

    def thumbnail(self, number: int) -> bytes | None:
        """Returns the JPEG of a reject."""
        with self._lock:
            return next((one.thumbnail for one in self._rejects if one.number == number), None)

    def rejects(self, after: int = 0) -> list[Reject]:
        """Returns the last `REJECTS_MAX` rejects, of them those with higher numbers, newest first."""
        with self._lock:
            last = itertools.islice(reversed(self._rejects), REJECTS_MAX)
            return [one for one in last if one.number > after]

    def reject(self, source: str, sequence: int) -> Reject | None:
        """Returns the reject of a frame; ``None`` if it is not among the last ones."""
        with self._lock:
            found = (one for one in self._rejects if (one.row.source, one.row.sequence) == (source, sequence))
            return next(found, None)


def _size(part: Part) -> int:
    return sum(frame.image.nbytes for frame in part.frames)


def in_order(part: Part) -> list[Frame]:
    """Returns the frames of a part in the order of its views."""
    order = {view.source: index for index, view in enumerate(part.row.views)}
    return sorted(part.frames, key=lambda frame: order.get(frame.source, 0))


def page_jpeg(image: UInt8Array) -> bytes:
    """Encodes the image of a part for a page."""
    return encode_jpeg(image, IMAGE_QUALITY, side_max=IMAGE_SIDE_MAX)


def thumbnail_jpeg(image: UInt8Array) -> bytes:
    """Encodes the thumbnail of a part for a list."""
    return encode_jpeg(image, THUMBNAIL_QUALITY, side_max=THUMBNAIL_SIDE_MAX)


def from_jpeg(data: bytes) -> UInt8Array:
    """Decodes a JPEG of this program to ``(H, W, 3) uint8`` BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def verdict_of(row: ResultRow) -> str:
    """Returns ``pass``, ``reject``, ``unsure`` or ``fault``."""
    return "unsure" if row.unsure else row.verdict


def part_fields(row: ResultRow) -> dict[str, Any]:
    """Returns what a page needs of a record: findings, and those of each camera where several saw the part."""
    seen: Sequence[ResultRow | View] = row.views or (row,)
    return {
        "source": row.source,
        "sequence": row.sequence,
        "part_id": row.part_id,
        "verdict": verdict_of(row),
        "types": sorted(defect_types(row)) if row.verdict != "pass" else [],
        "captured_at_ns": row.captured_at_ns,
        "latency_ms": row.latency_ms,
        "recipe": row.recipe,
        "bundle": row.bundle,
        "used_device": row.used_device,
        "error": row.error,
        "measurements": row.measurements,
        "readings": [
            {"name": one.name, "text": one.text, "accepted": one.accepted, "outline": one.outline}
            for one in row.readings
        ],
        "views": [_view_fields(view) for view in seen],
    }


def _view_fields(view: ResultRow | View) -> dict[str, Any]:
    return {
        "source": view.source,
        "verdict": "unsure" if view.unsure else view.verdict,
        "width": view.width,
        "height": view.height,
        "detections": view.detections[:BOXES_MAX],
        "doubtful": view.doubtful[:BOXES_MAX],
    }
