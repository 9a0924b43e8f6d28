"""A camera's thread, and the queue between it and the pipeline.

A finite source waits when the queue is full. A live camera doesn't: the frame that finds no room becomes a
`LostFrame`, so that it ends in a record (verdict ``fault``) and never vanishes. A live camera that is lost or frozen
makes one such record as well, which is how the line hears of it, and is opened again with growing pauses.

`FrameQueue` is our own because `queue.Queue` bounds everything alike: here images are bounded tightly, and the
lost frames, which are small, keep their place in the order among them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Protocol

from lineside_agent.cameras import Camera, LostFrame, RawShot
from lineside_runtime.errors import CameraError

log = logging.getLogger("lineside.camera")

LOST_MAX = 10_000
"""Lost frames that may wait for their record; beyond that the camera's thread waits."""

PAUSE_LEAST_S = 0.5
PAUSE_MAX_S = 30.0

WATCH_S = 30.0
"""Time for which the newest frame is kept after somebody has looked at it."""

PAUSE_JITTER = 0.7
"""Shortest pause as a share of its length: cameras that were lost with one switch must not come back in step."""


class FrameQueue:
    """Frames between a camera and the pipeline.

    Args:
        images: How many images may wait.
        ahead: Limit for a finite source, if it is lower: more would only use memory.
        begin: Takes the number of each frame of a live camera before it is appended.
    """

    def __init__(
        self,
        images: int,
        stop: threading.Event,
        *,
        ahead: int | None = None,
        begin: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._begin = begin
        self._images_max = images
        self._ahead = images if ahead is None else min(ahead, images)
        self._stop = stop
        self._shots: collections.deque[RawShot] = collections.deque()
        self._images = 0
        self._ended = False
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._filled = threading.Condition(self._lock)

    def put(self, shot: RawShot, *, wait: bool) -> bool:
        """Appends a frame.

        Args:
            wait: Whether to wait for room; otherwise a frame that finds none is appended as lost.

        Returns:
            Whether it was appended with its image.
        """
        if not wait:
            self._begin(shot.sequence)
        with self._lock:
            if wait or len(self._shots) >= LOST_MAX + self._images_max:
                room = self._ahead if wait else self._images_max
                self._wait(self._room, lambda: self._images < room)
            if wait and self._stop.is_set():
                return True  # a finite source gives it again after the next start
            keep = isinstance(shot, LostFrame) or self._images < self._images_max
            kept = shot if keep else _without_image(shot, f"{self._images} frames were waiting for the engine")
            self._shots.append(kept)
            self._images += not isinstance(kept, LostFrame)
            self._filled.notify()
            return keep

    def get(self) -> RawShot | None:
        """Takes the oldest frame; ``None`` at the end, or when stopped."""
        with self._lock:
            self._wait(self._filled, lambda: bool(self._shots) or self._ended)
            if self._stop.is_set() or not self._shots:
                return None
            shot = self._shots.popleft()
            self._images -= not isinstance(shot, LostFrame)
            self._room.notify()
            return shot

    def drain(self) -> list[RawShot]:
        """Takes everything that is left, also when stopped."""
        with self._lock:
            left = list(self._shots)
            self._shots.clear()
            self._images = 0
            return left

    def end(self) -> None:
        """Marks the end: no frame follows."""
        with self._lock:
            self._ended = True
            self._filled.notify_all()

    def _wait(self, changed: threading.Condition, condition: Callable[[], bool]) -> None:
        while not condition() and not self._stop.is_set():
            changed.wait(0.2)


def _without_image(shot: RawShot, reason: str) -> LostFrame:
    return LostFrame(shot.source, shot.sequence, shot.part_id, shot.captured_at_ns, reason)


@dataclasses.dataclass(slots=True)
class ReaderCounts:
    """Counts of a camera's thread, the only writer.

    Attributes:
        dropped: Frames that found no room.
        camera_errors: Failures of the camera, with those of opening it again.
        outages: Losses of the camera, however many tries each took.
        spoiled: Damaged first frames of free-running streams, which are no parts.
    """

    frames: int = 0
    dropped: int = 0
    camera_errors: int = 0
    outages: int = 0
    spoiled: int = 0


class FrameSink(Protocol):
    """Takes the frames of a camera's thread: `FrameQueue`, or a source of `lineside_agent.inspection.frame_sources`."""

    def put(self, shot: RawShot, *, wait: bool) -> bool:
        """As `FrameQueue.put`."""

    def end(self) -> None:
        """As `FrameQueue.end`."""


class Reader:
    """Reads a camera in a thread of its own.

    Attributes:
        problem: Why the camera gives nothing; ``None`` while it does.
        waiting_since_s: When the current wait for a frame began, on the monotonic clock; ``None`` between two waits.

    Args:
        rate_hz: Highest rate of frames; ``None`` for no limit.
        frames: Sequence at which to end; ``None`` for no end.
        retry: Whether a camera that fails is opened again, with growing pauses.
    """

    def __init__(
        self,
        camera: Camera,
        queue: FrameSink,
        stop: threading.Event,
        *,
        rate_hz: float | None = None,
        frames: int | None = None,
        retry: bool = True,
    ) -> None:
        self.counts = ReaderCounts()
        self.problem: CameraError | None = None
        self.waiting_since_s: float | None = None
        self._camera = camera
        self._queue = queue
        self._stop = stop
        self._period_s = 0.0 if rate_hz is None else 1.0 / rate_hz
        self._end_at = frames
        self._retry = retry
        self._due_s = 0.0
        self._outage_since_s = 0.0
        self._next = 0
        self._replacement: Camera | None = None
        self._interrupt = threading.Event()
        self._begun = self._ended = False
        self._watched_until_s = 0.0
        self._newest: RawShot | None = None

    def watch(self) -> RawShot | None:
        """Returns the newest frame, whether it is a part or not, and keeps newer ones for `WATCH_S`.

        Returns:
            ``None`` if none came since somebody began to watch.
        """
        if time.monotonic() > self._watched_until_s:
            self._newest = None
        self._watched_until_s = time.monotonic() + WATCH_S
        return self._newest

    def replace_camera(self, camera: Camera, timeout_s: float) -> None:
        """Goes on with another camera of the same source, after the current one has released its device.

        Args:
            timeout_s: Longest wait until it shows an image.

        Raises:
            CameraError: It shows nothing in time; the reader goes on trying.
        """
        old, self._replacement = self._camera, camera
        old.ending.set()
        self._interrupt.set()
        if self._is_running and not camera.shows.wait(timeout_s):
            raise CameraError(f"{camera.source} shows nothing {timeout_s:g} s after its settings were changed")

    def end(self) -> None:
        """Ends a camera that waits for its own trigger input; the caller has set ``stop``."""
        self._camera.ending.set()
        self._interrupt.set()

    @property
    def source(self) -> str:
        """Name of the camera in the records."""
        return self._camera.source

    @property
    def _is_running(self) -> bool:
        return self._begun and not self._ended

    def run(self, start_at: int) -> None:
        """Reads until the source ends, the limit is reached or it is stopped; then ends the queue."""
        self._next, self._begun = start_at, True
        pause_s = PAUSE_LEAST_S
        while not self._stop.is_set():
            before = self.counts.frames
            self._take_replacement()
            try:
                self._read()
                if self._replacement is None:
                    break
                continue
            except CameraError as error:
                if self._replacement is not None:
                    continue  # it ended for its replacement
                self.counts.camera_errors += 1
                log.error("%s", error)
                if self.problem is None:
                    self._report_outage(error)
                self.problem = error
            if not self._retry:
                break
            pause_s = PAUSE_LEAST_S if self.counts.frames > before else min(PAUSE_MAX_S, 2 * pause_s)
            self._pause(pause_s * random.uniform(PAUSE_JITTER, 1.0))
        if not self._stop.is_set():
            log.info("%s: no more frames; %d were taken", self._camera.source, self.counts.frames)
        self._ended = True
        self._queue.end()

    def _take_replacement(self) -> None:
        self._interrupt.clear()
        camera, self._replacement = self._replacement, None
        if camera is not None:
            self._camera = camera

    def _pause(self, pause_s: float) -> None:
        """Waits; another camera ends the wait at once, a stop within 0.2 s."""
        until_s = time.monotonic() + pause_s
        while not self._stop.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if self._interrupt.wait(min(left_s, 0.2)):
                return

    def _report_outage(self, error: CameraError) -> None:
        """Queues one lost frame for an outage, so that the line hears of it. A finite source only waits."""
        self.counts.outages += 1
        self._outage_since_s = time.monotonic()
        if self._camera.finite or self._at_end():
            return
        source, sequence = self._camera.source, self._next
        part_id = f"{source}-{sequence:08d}"
        self._queue.put(LostFrame(source, sequence, part_id, time.time_ns(), f"camera lost: {error}"), wait=False)
        self._next = sequence + 1

    def _report_recovery(self) -> None:
        if self.problem is not None:
            log.warning(
                "%s gives frames again, after %.1f s", self._camera.source, time.monotonic() - self._outage_since_s
            )
            self.problem = None

    def _read(self) -> None:
        if self._at_end():
            return
        camera = self._camera
        spoiled_before = camera.spoiled - self.counts.spoiled
        with contextlib.closing(self._shots()) as shots:  # which gives the camera back
            for shot in shots:
                self.counts.spoiled = camera.spoiled - spoiled_before
                if not self._pace():
                    return
                self._report_recovery()
                self.counts.frames += 1
                self._newest = shot if time.monotonic() < self._watched_until_s else None
                self.counts.dropped += not self._queue.put(shot, wait=self._camera.finite)
                self._next = shot.sequence + 1
                if self._at_end() or self._replacement is not None:
                    return

    def _shots(self) -> Generator[RawShot, None, None]:
        """Yields the camera's frames, and shows when one is waited for."""
        shots = self._camera.raw_frames(self._next)
        try:
            while True:
                self.waiting_since_s = time.monotonic()
                try:
                    shot = next(shots, None)
                finally:
                    self.waiting_since_s = None
                if shot is None:
                    return
                yield shot
        finally:
            if isinstance(shots, Generator):
                shots.close()

    def _at_end(self) -> bool:
        return self._stop.is_set() or (self._end_at is not None and self._next >= self._end_at)

    def _pace(self) -> bool:
        """Waits until the next frame is due; false when stopped. A live camera keeps its own time."""
        if self._camera.finite and self._period_s:
            now_s = time.monotonic()
            if self._stop.wait(max(0.0, self._due_s - now_s)):
                return False
            self._due_s = max(self._due_s, now_s) + self._period_s
        return not self._stop.is_set()
