"""`Camera`: the plug point. A kind of camera writes ``_frames``; a live one writes ``_images`` and nothing else.

What holds for every kind, and what ``lineside camera conformance`` checks:

- Sequences are contiguous from ``start_at``, whatever the camera numbers itself.
- No image is changed after it was given.
- A live camera that gives nothing for its time-out raises `CameraError`; the reader opens it again with growing pauses.
- What a vendor's code raises becomes a `CameraError` here, with the vendor's own as its cause.
- Closing the iterator gives the device back, so that it can be opened again at once.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import xxhash

from lineside_models.frame import Frame, UInt8Array
from lineside_models.image_file import decode_image
from lineside_runtime.errors import CameraError

log = logging.getLogger("lineside.camera")


@dataclasses.dataclass(frozen=True, slots=True)
class LostFrame:
    """A frame that cannot be inspected, and still ends in a record."""

    source: str
    sequence: int
    part_id: str
    captured_at_ns: int
    reason: str


Shot = Frame | LostFrame


@dataclasses.dataclass(frozen=True, slots=True)
class EncodedFrame:
    """An image as in its file, decoded only when it is inspected: a tenth of the memory while it waits.

    Attributes:
        data: Bytes of the file: JPEG, PNG or another format that OpenCV reads.
    """

    data: UInt8Array
    source: str
    sequence: int
    part_id: str
    captured_at_ns: int

    def decoded(self) -> Shot:
        """Returns the image in colour; a lost frame, with the reason, if it cannot be decoded."""
        try:
            image = decode_image(self.data.tobytes(), how=cv2.IMREAD_COLOR)
        except ValueError as error:
            lost = f"{self.part_id}: not an image that can be decoded: {error}"
            return LostFrame(self.source, self.sequence, self.part_id, self.captured_at_ns, lost)
        return Frame(
            image=np.asarray(image, np.uint8),
            source=self.source,
            sequence=self.sequence,
            part_id=self.part_id,
            captured_at_ns=self.captured_at_ns,
        )


RawShot = Shot | EncodedFrame
"""What a camera's thread hands on."""


def decoded(shot: RawShot) -> Shot:
    """Decodes a shot, if it is encoded."""
    return shot.decoded() if isinstance(shot, EncodedFrame) else shot


class Camera(ABC):
    """The plug point: gives frames.

    Attributes:
        source: Name in the records; the agent goes on after its last record.
        finite: Whether it ends by itself and can wait: it then gives each frame once, also after a restart.
        shows: Set once it was opened and has given a sign of life.
        ending: Set when its frames are to end, also while it waits for its own trigger input.
        spoiled: Frames at the beginning of a free-running stream that came damaged: no part, and counted here.
    """

    def __init__(self, source: str, *, finite: bool) -> None:
        self.source = source
        self.finite = finite
        self.shows = threading.Event()
        self.ending = threading.Event()
        self.spoiled = 0

    def raw_frames(self, start_at: int = 0) -> Iterator[RawShot]:
        """Yields frames as `frames` does; a camera that reads files leaves the decoding to the receiver."""
        return self.frames(start_at)

    def frames(self, start_at: int = 0) -> Iterator[Shot]:
        """Yields frames in order of their sequence.

        Raises:
            CameraError: It gives no frames, or none any more.
        """
        shots = self._frames(start_at)
        try:
            for shot in shots:
                self.shows.set()
                yield shot
        except (OSError, cv2.error, ValueError) as error:
            raise CameraError(f"{self.source}: {error}", action="Look at the camera; it is opened again.") from error
        finally:
            if isinstance(shots, Generator):
                shots.close()  # which gives the camera back

    @abstractmethod
    def _frames(self, start_at: int) -> Iterator[Shot]:
        """Yields frames from ``start_at`` on; may raise `CameraError`, `OSError`, `cv2.error` or `ValueError`."""


class Grab(NamedTuple):
    """One image of a live camera.

    Attributes:
        image: As in `Frame`, not used again by the camera; ``None`` if it was lost on its way.
    """

    image: UInt8Array | None
    captured_at_ns: int
    reason: str = ""


class LiveCamera(Camera):
    """A camera that does not wait: numbers its images, keeps a rate, and notices a frozen camera.

    Args:
        rate_hz: Highest rate of images; ``None`` for no limit. Images in between get no number.
        same_image_max_s: Time without a change of a single bit after which the camera is frozen; ``None`` for never.
        free_running: Whether it sends without being asked. Its stream then begins in the middle of a frame, or behind
            the last packets of the stream before: a first frame that is damaged gets no number.
    """

    def __init__(
        self,
        source: str,
        *,
        rate_hz: float | None = None,
        same_image_max_s: float | None = None,
        free_running: bool = False,
    ) -> None:
        super().__init__(source, finite=False)
        self._free_running = free_running
        self._period_s = 0.0 if rate_hz is None else 1.0 / rate_hz
        self._due_s = 0.0
        self._same_max_s = same_image_max_s

    def _frames(self, start_at: int) -> Iterator[Shot]:
        sequence, freeze = start_at, _FreezeDetector(self._same_max_s)
        for number, (image, captured_at_ns, reason) in enumerate(self._images()):
            if not number and image is None and self._free_running:
                self.spoiled += 1
                log.warning("%s: the first frame of the stream is skipped: %s", self.source, reason)
                continue
            if not self._is_due():
                continue
            now_s = time.monotonic()
            self._due_s = (
                self._due_s + self._period_s if self._due_s + self._period_s > now_s else now_s + self._period_s
            )
            part_id = f"{self.source}-{sequence:08d}"
            if image is None:
                yield LostFrame(self.source, sequence, part_id, captured_at_ns, reason)
            else:
                freeze.check(image, now_s, self.source)
                yield Frame(image, self.source, sequence, part_id, captured_at_ns)
            sequence += 1
        raise CameraError(f"{self.source} gives no more frames", action="Check its cable; it is opened again.")

    def _is_due(self) -> bool:
        """Whether the next image would be used; a kind may ask before it makes one."""
        return not self._period_s or time.monotonic() >= self._due_s

    @abstractmethod
    def _images(self) -> Iterator[Grab]:
        """Opens the camera and yields what it sees; raises as `Camera._frames` if nothing comes for its time-out."""


class FoundCamera(NamedTuple):
    """A camera, or why cameras of a kind cannot be found.

    Attributes:
        settings: TOML that selects it in the configuration.
        problem: Why none can be found; empty otherwise.
    """

    type: str
    settings: str
    name: str = ""
    problem: str = ""


class _FreezeDetector:
    """Notices an image that does not change: a sensor's noise changes every one, frozen firmware repeats the last."""

    def __init__(self, max_s: float | None) -> None:
        self._max_s = max_s
        self._digest = b""
        self._since_s = 0.0

    def check(self, image: UInt8Array, now_s: float, source: str) -> None:
        if self._max_s is None:
            return
        digest = xxhash.xxh3_128_digest(np.ascontiguousarray(image).data)
        if digest != self._digest:
            self._digest, self._since_s = digest, now_s
        elif now_s - self._since_s > self._max_s:
            raise CameraError(
                f"{source} has shown the same picture for {now_s - self._since_s:.1f} s",
                action="The camera is frozen; it is opened again. If it shows a still scene, set same_image_max_s.",
            )
