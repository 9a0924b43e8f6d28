"""What OpenCV reads: a video file, or a camera of the kernel."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from lineside_agent.cameras.base import Camera, Shot
from lineside_models.frame import Frame
from lineside_runtime.errors import CameraError


class VideoCamera(Camera):
    """Gives each frame of a video file once.

    Args:
        path: The file.
        name: What the records call the source; empty for ``video:<path>``.
        loop: Whether the first frame follows the last.
    """

    def __init__(self, path: Path, *, name: str = "", loop: bool = False) -> None:
        super().__init__(name or f"video:{path}", finite=True)
        self._path = path
        self._loop = loop

    def _frames(self, start_at: int) -> Iterator[Shot]:
        sequence = 0
        while True:
            first = sequence
            with _capture(str(self._path), cv2.CAP_FFMPEG) as capture:
                # Frames before `start_at` are grabbed one by one: a seek in a compressed file may miss by some.
                while capture.grab():
                    if sequence >= start_at:
                        yield _retrieved(capture, self.source, sequence, f"{self._path.name}-{sequence:06d}")
                    sequence += 1
            if sequence == first:
                raise CameraError(f"{self._path} holds no frame that can be decoded", action="Correct $.camera.path.")
            if not self._loop:
                return


class V4l2Camera(Camera):
    """Gives what a camera of the kernel sees, as fast as it comes.

    Args:
        index: Number of the device, as in ``/dev/video0``.
        name: What the records call the source; empty for ``v4l2:<index>``.
        size: ``(height, width)`` asked of the camera in pixels, or ``None``.
    """

    def __init__(self, index: int, *, name: str = "", size: tuple[int, int] | None = None) -> None:
        super().__init__(name or f"v4l2:{index}", finite=False)
        self._index = index
        self._size = size

    def _frames(self, start_at: int) -> Iterator[Shot]:
        sequence = start_at
        with _capture(self._index, cv2.CAP_V4L2) as capture:
            if self._size is not None:
                capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[0])
                capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[1])
            while capture.grab():
                yield _retrieved(capture, self.source, sequence, f"{self.source}-{sequence:08d}")
                sequence += 1
        raise CameraError(f"{self.source} gives no more frames", action="Check its cable; it is opened again.")


@contextlib.contextmanager
def _capture(source: str | int, backend: int) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(source, backend)
    try:
        if not capture.isOpened():
            raise CameraError(f"{source} can't be opened", action="Check $.camera; `v4l2-ctl --list-devices` lists.")
        yield capture
    finally:
        capture.release()


def _retrieved(capture: cv2.VideoCapture, source: str, sequence: int, part_id: str) -> Frame:
    captured_at_ns = time.time_ns()
    done, image = capture.retrieve()
    if not done or image is None:
        raise CameraError(f"{source}: frame {sequence} can't be decoded")
    return Frame(
        image=np.asarray(image, np.uint8),
        source=source,
        sequence=sequence,
        part_id=part_id,
        captured_at_ns=captured_at_ns,
    )
