"""The good part that looks most like a rejected one.

Good parts are those of the last minutes, of which one in `EVERY_S` is kept as a small JPEG in memory, and those whose
images ``[store]`` keeps. They are compared when somebody asks, for `SEARCH_S` at most.

Likeness is the correlation of two small pictures at the best of some shifts, less the difference of their mean color.
The features of an anomaly model are no output of its graph, and a second network would take more memory than the whole
screen may.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_agent.config import AgentConfig
from lineside_agent.screen.feed import from_jpeg
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.record_queries import CHALLENGE, RecordQuery, rows
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame, UInt8Array
from lineside_models.image_file import encode_jpeg
from lineside_runtime.errors import InputNotFoundError

KEPT = 32
"""Good parts in memory: some 60 kB each."""

EVERY_S = 10.0
"""Time between two good parts that are kept in memory."""

SIDE_MAX, QUALITY = 640, 80

SEARCH_S = 3.0
"""How long stored images are read for one answer."""

STORED_MAX = 100
"""Stored images that are compared, the newest."""

STORED_ROWS_MAX = 5000
"""Records of good parts that are looked at for a stored image, the newest."""

_SIDE, _SHIFT = 36, 4
"""Cells on a side of the small pictures, and by how many two of them may be shifted."""


class GoodPart(NamedTuple):
    """A good part with one of its images, as JPEG."""

    row: ResultRow
    source: str
    jpeg: bytes


class SimilarPart(msgspec.Struct, frozen=True, kw_only=True):
    """The good part that looks most like another one.

    Attributes:
        view: Index of the camera.
        likeness: 1 for the same picture, 0 or less for one without any likeness.
    """

    source: str
    sequence: int
    part_id: str
    captured_at_ns: int
    view: int
    likeness: float
    compared: int


class RecentGoodParts:
    """The good parts of the last minutes, and those whose images are stored."""

    def __init__(self, agent: AgentConfig, archive: ImageArchive) -> None:
        self._agent = agent
        self._archive = archive
        self._lock = threading.Lock()
        self._waiting: tuple[ResultRow, Sequence[Frame]] | None = None
        self._kept: collections.deque[GoodPart] = collections.deque(maxlen=KEPT)
        self._due_s = 0.0

    def add(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record and its images, of which `encode` keeps one in `EVERY_S`."""
        if row.verdict != "pass" or not frames or row.part_id.startswith(CHALLENGE):
            return
        now_s = time.monotonic()
        with self._lock:
            if now_s >= self._due_s and self._waiting is None:
                self._due_s, self._waiting = now_s + EVERY_S, (row, frames)

    def encode(self) -> None:
        """Encodes the part that waits, if one does; in one thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        row, frames = waiting
        made = [GoodPart(row, frame.source, encode_jpeg(frame.image, QUALITY, side_max=SIDE_MAX)) for frame in frames]
        with self._lock:
            self._kept.extend(made)

    def image(self, source: str, sequence: int, view: int) -> bytes | None:
        """Returns the JPEG of a good part of the last minutes, by source and number of its record."""
        with self._lock:
            kept = [one for one in self._kept if (one.row.source, one.row.sequence) == (source, sequence)]
        return next((one.jpeg for one in kept if one.source == _camera(one.row, view)), None)

    def most_similar(self, image: UInt8Array, row: ResultRow, view: int) -> SimilarPart | None:
        """Returns the good part that looks most like another part; ``None`` if there is none to compare with.

        Args:
            row: Its record; only parts of the same recipe are compared.
        """
        name = _camera(row, view)
        wanted, best, compared = _small(image), None, 0
        seen: set[int] = set()
        for good, picture in self._candidates(name, row):
            if good.sequence in seen or good.recipe != row.recipe:
                continue
            seen.add(good.sequence)
            compared += 1
            likeness = _likeness(wanted, _small(picture))
            if best is None or likeness > best[1]:
                best = (good, likeness)
        if best is None:
            return None
        good, likeness = best
        named: dict[str, Any] = {key: getattr(good, key) for key in ("source", "sequence", "part_id", "captured_at_ns")}
        return SimilarPart(**named, view=view, likeness=round(likeness, 3), compared=compared)

    def _candidates(self, name: str, row: ResultRow) -> Iterator[tuple[ResultRow, UInt8Array]]:
        with self._lock:
            kept = [one for one in self._kept if one.source == name]
        for one in kept:
            yield one.row, from_jpeg(one.jpeg)
        until_s, count = time.monotonic() + SEARCH_S, 0
        query = RecordQuery(verdict="pass", limit=STORED_ROWS_MAX)
        try:
            for number, (_, good) in enumerate(rows(self._agent, query)):
                if number >= STORED_ROWS_MAX or count >= STORED_MAX or time.monotonic() > until_s:
                    return
                path = self._archive.path(name, good.sequence)
                if good.source != row.source or not path.is_file():
                    continue
                picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
                if picture is not None:
                    count += 1
                    yield good, np.asarray(picture, np.uint8)
        except InputNotFoundError:
            return  # no record is on the disk yet


def _camera(row: ResultRow, view: int) -> str:
    """Name of the camera of a view; empty if there is none."""
    names = [one.source for one in row.views] or [row.source]
    return names[view] if 0 <= view < len(names) else ""


def _small(image: UInt8Array) -> npt.NDArray[np.float32]:
    """Returns a small picture, ``(_SIDE, _SIDE, 3) float32`` from 0 to 1."""
    color = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
    return np.asarray(cv2.resize(color, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) / 255, np.float32)


def _likeness(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    inner = one[_SHIFT:-_SHIFT, _SHIFT:-_SHIFT]
    found = float(cv2.matchTemplate(other, inner, cv2.TM_CCOEFF_NORMED).max())
    alike = found if np.isfinite(found) and float(inner.std()) > 1e-3 else 0.0  # nothing to compare on a blank picture
    return alike - float(np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).mean())
