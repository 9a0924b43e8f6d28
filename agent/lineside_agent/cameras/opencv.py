"""Video files and the kernel's cameras, by OpenCV."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from lineside_agent.cameras.base import Camera, FoundCamera, Grab, LiveCamera, Shot
from lineside_agent.config.cameras import V4l2CameraConfig
from lineside_boards import machine_state as board_state
from lineside_models.frame import Frame
from lineside_runtime.errors import CameraError

log = logging.getLogger("lineside.camera")

EXPOSURE_MANUAL = 1
"""``V4L2_EXPOSURE_MANUAL``: https://docs.kernel.org/userspace-api/media/v4l/ext-ctrls-camera.html"""

EXPOSURE_UNIT_US = 100.0
"""Unit of ``V4L2_CID_EXPOSURE_ABSOLUTE``, on the same page."""


class VideoCamera(Camera):
    """Gives each frame of a video file once.

    Args:
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


class V4l2Camera(LiveCamera):
    """Gives the frames of a camera of the kernel."""

    def __init__(self, config: V4l2CameraConfig) -> None:
        super().__init__(
            config.name or f"v4l2:{config.index}", rate_hz=config.rate_hz, same_image_max_s=config.same_image_max_s
        )
        self._config = config

    def _images(self) -> Iterator[Grab]:
        # OpenCV reads it once a process, in whole seconds, and has no property for it: the first camera's counts.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(self._config.timeout_s)))
        with _capture(self._config.index, cv2.CAP_V4L2) as capture:
            for key, value in _settings(self._config):
                if not capture.set(key, value):
                    log.warning("%s has no such setting: OpenCV's property %d", self.source, key)
            while capture.grab():
                captured_at_ns = time.time_ns()
                if self._is_due():
                    done, image = capture.retrieve()
                    if not done or image is None:
                        yield Grab(None, captured_at_ns, "it can't be decoded")
                    else:
                        yield Grab(np.asarray(image, np.uint8), captured_at_ns)


def find_v4l2() -> list[FoundCamera]:
    """Lists the kernel's cameras."""
    found = [one for one in board_state.cameras() if "video" in one.device]
    if not found:
        return [FoundCamera("v4l2", "", problem="the kernel has no /dev/video*")]
    return [FoundCamera("v4l2", f"index = {one.device.removeprefix('/dev/video')}", one.name) for one in found]


def _settings(config: V4l2CameraConfig) -> Iterator[tuple[int, float]]:
    if config.width and config.height:
        yield cv2.CAP_PROP_FRAME_HEIGHT, config.height
        yield cv2.CAP_PROP_FRAME_WIDTH, config.width
    if config.rate_hz is not None:
        yield cv2.CAP_PROP_FPS, config.rate_hz
    if config.exposure_us is not None:
        yield cv2.CAP_PROP_AUTO_EXPOSURE, EXPOSURE_MANUAL
        yield cv2.CAP_PROP_EXPOSURE, max(1.0, round(config.exposure_us / EXPOSURE_UNIT_US))
    if config.gain is not None:
        yield cv2.CAP_PROP_GAIN, config.gain


@contextlib.contextmanager
def _capture(source: str | int, backend: int) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(source, backend)
    try:
        if not capture.isOpened():
            place = f"/dev/video{source}" if isinstance(source, int) else source
            hint = "`lineside camera ls` lists cameras" if isinstance(source, int) else "it must be a video file"
            action = f"Check $.camera: {hint}."
            raise CameraError(f"{place} can't be opened", action=action)
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
