"""Live picture of one camera, with figures of focus, exposure and rate."""

from __future__ import annotations

import time
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from lineside_agent.cameras import LostFrame, decoded
from lineside_agent.cameras.reader import Reader
from lineside_agent.screen.feed import page_jpeg
from lineside_models.frame import Frame, UInt8Array
from lineside_models.preprocess import to_grey
from lineside_runtime.errors import InputNotFoundError

Area = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in shares of the frame."""

WHOLE: Area = (0.0, 0.0, 1.0, 1.0)

FOCUS_SIDE_MAX = 1024
"""Of the piece in whose middle focus is measured, in pixels: a larger one is cut, never made smaller."""

OVER, UNDER = 250, 5
"""Grey values from which on, and to which, a pixel has no detail left."""

BINS = 64

RATE_OVER = 20
"""Looks over which the frame rate is taken."""


class CameraFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a frame.

    Attributes:
        focus: Mean square of the gradient (Tenengrad) over the squared mean grey value, so that light hardly moves it;
            only its changes at one scene say something.
        mean: Grey value, 0 to 255.
        over: Share of pixels that are too bright in a channel.
        under: Share of pixels that are too dark in all channels.
        histogram: Shares of pixels by grey value.
    """

    focus: float
    mean: float
    over: float
    under: float
    histogram: tuple[float, ...]


class CameraLook(msgspec.Struct, frozen=True, kw_only=True):
    """A look at a camera.

    Attributes:
        problem: Why the camera gives nothing; empty if it does.
        number: Of the frame, for its picture.
        captured_at_ns: Unix time.
        rate_hz: Frames a second; ``None`` before the second one.
        figures: ``None`` without a frame.
    """

    source: str
    problem: str = ""
    number: int = 0
    captured_at_ns: int = 0
    width: int = 0
    height: int = 0
    rate_hz: float | None = None
    figures: CameraFigures | None = None


class _Seen(NamedTuple):
    number: int
    at_ns: int


class CameraView:
    """Looks at the frames of one camera; in the screen's worker thread.

    Frames are parts or not: looking at them changes nothing for the line.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._frame: Frame | None = None
        self._seen: list[_Seen] = []

    def look(self, area: Area) -> CameraLook:
        """Looks at the newest frame.

        Args:
            area: In which focus is measured.
        """
        reader = self._reader
        problem = "" if reader.problem is None else str(reader.problem)
        shot = reader.watch()
        frame = None if shot is None else decoded(shot)
        if isinstance(frame, LostFrame):
            problem, frame = problem or frame.reason, None
        if frame is None:
            self._frame, self._seen = None, []
            return CameraLook(source=reader.source, problem=problem)
        self._frame = frame
        height, width = frame.size
        return CameraLook(
            source=reader.source,
            problem=problem,
            number=frame.sequence,
            captured_at_ns=frame.captured_at_ns,
            width=width,
            height=height,
            rate_hz=self._rate(frame),
            figures=figures_of(frame.image, area),
        )

    def picture(self, number: int) -> bytes:
        """Returns the frame of the last look, as JPEG.

        Raises:
            InputNotFoundError: It has made way.
        """
        frame = self._frame
        if frame is None or frame.sequence != number:
            raise InputNotFoundError("this picture has made way", action="")
        return page_jpeg(frame.image)

    @property
    def size(self) -> tuple[int, int] | None:
        """``(height, width)`` of the frame of the last look."""
        return None if self._frame is None else self._frame.size

    def _rate(self, frame: Frame) -> float | None:
        seen = _Seen(frame.sequence, frame.captured_at_ns)
        if self._seen and (seen.number < self._seen[-1].number or time.time_ns() - self._seen[-1].at_ns > 30 * 10**9):
            self._seen = []
        if not self._seen or seen.number > self._seen[-1].number:
            self._seen = [*self._seen, seen][-RATE_OVER:]
        first, last = self._seen[0], self._seen[-1]
        if last.at_ns <= first.at_ns:
            return None
        return round((last.number - first.number) / ((last.at_ns - first.at_ns) / 1e9), 2)


def figures_of(image: UInt8Array, area: Area = WHOLE) -> CameraFigures:
    """Returns the figures of an image, ``(H, W, 3) uint8`` BGR or ``(H, W) uint8``."""
    grey = to_grey(image)
    peak = image.max(axis=2) if image.ndim == 3 else image
    counts = np.bincount(grey.ravel() >> 2, minlength=BINS) / grey.size
    return CameraFigures(
        focus=round(focus_of(_piece(grey, area)), 4),
        mean=round(float(grey.mean()), 1),
        over=round(float((peak >= OVER).mean()), 4),
        under=round(float((peak <= UNDER).mean()), 4),
        histogram=tuple(np.round(counts, 4).tolist()),
    )


def focus_of(grey: npt.NDArray[np.uint8]) -> float:
    """Returns the focus figure of a grey image."""
    values = grey.astype(np.float32)
    across, down = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
    mean = float(values.mean())
    return float((across * across + down * down).mean()) / max(1.0, mean * mean)


def _piece(grey: npt.NDArray[np.uint8], area: Area) -> npt.NDArray[np.uint8]:
    """Cuts an area out, and of a large one its middle."""
    piece = grey
    for axis, (low, high) in enumerate(((area[1], area[3]), (area[0], area[2]))):
        size = grey.shape[axis]
        first, last = (min(size, max(0, round(share * size))) for share in sorted((low, high)))
        first = min(first, size - 8) if size >= 8 else 0
        last = max(last, first + 8)
        if last - first > FOCUS_SIDE_MAX:
            middle = (first + last) // 2
            first, last = middle - FOCUS_SIDE_MAX // 2, middle + FOCUS_SIDE_MAX // 2
        piece = piece[first:last] if axis == 0 else piece[:, first:last]
    return piece
