"""Drawn verdicts: PNGs in a folder, one video, or one page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from lineside.inspection.page import VerdictPage
from lineside_models.draw import annotate
from lineside_models.frame import Frame
from lineside_models.inspection import Inspection
from lineside_runtime.errors import BadInputFormatError, ConfigError
from lineside_runtime.files import ensure_writable, write_atomic

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
"""Codecs that every build of OpenCV's wheel can write, by ending."""

NAME_BYTES = 200
"""Most bytes of a part's name in the file name of its picture. File systems allow 255, which also hold the number, the
ending and the temporary name."""

UInt8Array = npt.NDArray[np.uint8]


def picture_name(number: int, part: str) -> str:
    """Returns the file name of a drawn picture."""
    encoded = os.fsencode(part)
    cut = part if len(encoded) <= NAME_BYTES else encoded[:NAME_BYTES].decode(errors="ignore")
    return f"{number:05d}-{cut}.png"


class Drawer:
    """Draws verdicts on their frames.

    A video is written as ``NAME.part.mp4`` and renamed by `close`, so that a file under its name is complete.
    """

    def __init__(
        self, folder: Path | None, video: Path | None, *, rate_hz: float | None, page: VerdictPage | None = None
    ) -> None:
        """Checks the places to write to.

        Args:
            folder: For PNGs, created if missing; ``None`` for none.
            video: A file; ``None`` for none.
            rate_hz: Of the video's frames; ``None`` for photos.
            page: Written by `close`; ``None`` for none.

        Raises:
            ConfigError: The video's ending is unknown, the source has no rate, or a place is not writable.
        """
        if video is not None and (video.suffix.lower() not in CODECS or rate_hz is None):
            raise ConfigError(
                "--video",
                expected=f"a file that ends in {' or '.join(CODECS)}, and a video, camera or simulator as the source",
                actual=f"{video.name} of {'photos' if rate_hz is None else 'frames'}",
                action="Use --draw DIR for photos.",
            )
        self._folder, self._video, self._rate_hz, self._page = folder, video, rate_hz or 1.0, page
        self._part = None if video is None else video.with_name(f"{video.stem}.part{video.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._count = 0
        for place in (None if folder is None else folder / "frame.png", self._part):
            if place is not None:
                ensure_writable(place)

    def draw(self, frame: Frame, verdict: Inspection, heat: Callable[[Frame], npt.NDArray[np.float32] | None]) -> None:
        """Draws one verdict.

        Args:
            frame: As it was judged.
            heat: Returns the heat map of a frame, if there is one; called for anomaly models.

        Raises:
            BadInputFormatError: The video's frames differ in size.
            ConfigError: The video cannot be written.
        """
        if self._folder is None and self._video is None and self._page is None:
            return
        hot = None if verdict.anomaly_score is None else heat(frame)
        drawn = annotate(
            frame.image,
            verdict.detections,
            doubtful=verdict.doubtful,
            measurements=verdict.measurements,
            readings=verdict.readings,
            title=verdict.part_id,
            heat=hot,
        )
        if self._folder is not None:
            name = picture_name(self._count, Path(verdict.part_id or "frame").name)
            write_atomic(self._folder / name, cv2.imencode(".png", drawn)[1].tobytes())
        if self._part is not None:
            self._write(self._part, drawn)
        if self._page is not None:
            self._page.add(verdict, drawn)
        self._count += 1

    def close(self) -> None:
        """Completes video and page; may be called twice."""
        if self._page is not None:
            self._page.write()
            self._page = None
        if self._writer is not None and self._part is not None and self._video is not None:
            self._writer.release()
            self._writer = None
            self._part.replace(self._video)

    def __enter__(self) -> Drawer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, part: Path, drawn: UInt8Array) -> None:
        size = (drawn.shape[1], drawn.shape[0])
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*CODECS[part.suffix.lower()])
            self._writer, self._size = cv2.VideoWriter(str(part), codec, self._rate_hz, size), size
            if not self._writer.isOpened():
                raise ConfigError("--video", expected="a file that can be written", actual=str(part), action="")
        if size != self._size:
            raise BadInputFormatError(
                "frames of a video", expected=f"all of one size, {self._size}", actual=size, action="Use --draw DIR."
            )
        self._writer.write(drawn)
