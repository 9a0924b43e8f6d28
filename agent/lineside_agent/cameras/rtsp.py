"""RTSP by PyAV: network cameras. A server that froze blocked OpenCV's own reading for 30 s; PyAV's has a time-out.

Exposure and gain are set in the camera's own pages: RTSP knows neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from lineside_agent.cameras.base import Grab, LiveCamera
from lineside_agent.config.cameras import RtspCameraConfig
from lineside_runtime.errors import CameraError, MissingExtraError

if TYPE_CHECKING:
    import av

OPEN_TIMEOUT_S = 5.0
"""For the connection and the stream's description; a camera that is there needs a tenth of it."""


DRIFT = 1e-3
"""Largest difference in speed between the clocks of a camera and of this machine."""


class RtspCamera(LiveCamera):
    """Gives the frames of an RTSP server."""

    def __init__(self, config: RtspCameraConfig) -> None:
        super().__init__(
            config.name or f"rtsp:{_place(config.url)}",
            rate_hz=config.rate_hz,
            same_image_max_s=config.same_image_max_s,
        )
        self._url = config.url
        self._options = {"rtsp_transport": config.transport, "fflags": "nobuffer", "flags": "low_delay"}
        self._timeout_s = config.timeout_s

    def _images(self) -> Iterator[Grab]:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("RTSP needs PyAV", action="pip install 'lineside[rtsp]'") from error
        try:
            with av.open(self._url, options=self._options, timeout=(OPEN_TIMEOUT_S, self._timeout_s)) as container:
                if not container.streams.video:
                    raise CameraError(f"{self.source} sends no picture", action="Correct $.camera.url.")
                container.streams.video[0].thread_type = "SLICE"  # FRAME holds frames back: 68 ms instead of 35
                yield from self._decoded(container, container.streams.video[0])
        except av.FFmpegError as error:
            raise CameraError(
                f"{self.source}: {self._explain(error)}", action="Check the camera, its cable and $.camera.url."
            ) from error

    def _decoded(self, container: av.container.InputContainer, stream: Any) -> Iterator[Grab]:
        import av

        last_s, has_begun, lag = time.monotonic(), False, _StreamLag()
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                if has_begun:  # before the first whole picture there is nothing to lose
                    yield Grab(None, time.time_ns(), f"damaged on its way: {error.strerror}")
                continue
            for frame in frames:
                last_s, has_begun = time.monotonic(), True
                if (late_s := lag.of(frame.time, last_s)) > self._timeout_s:
                    raise CameraError(
                        f"{self.source} shows what was {late_s:.1f} s ago: its stream comes slower than it is sent",
                        action="Choose a stream with fewer or smaller frames, or a faster network; it is opened again.",
                    )
                if self._is_due():
                    yield Grab(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8), time.time_ns())
            if time.monotonic() - last_s > self._timeout_s:
                raise CameraError(f"{self.source} sends data and no picture", action="Look at the camera's settings.")

    def _explain(self, error: av.FFmpegError) -> str:
        if "exit" in type(error).__name__.lower():  # how FFmpeg calls the end by a time-out
            return f"nothing came for {self._timeout_s:g} s"
        return str(error.strerror)


class _StreamLag:
    """Measures how much later than the quickest frame the frames of a stream arrive, by their own time."""

    def __init__(self) -> None:
        self._least_s = math.inf
        self._seen_s = 0.0

    def of(self, sent_s: float | None, now_s: float) -> float:
        """Returns the lag of a frame in seconds; 0 for one without a time."""
        if sent_s is None:
            return 0.0
        self._least_s = min(now_s - sent_s, self._least_s + DRIFT * (now_s - self._seen_s))
        self._seen_s = now_s
        return now_s - sent_s - self._least_s


def _place(url: str) -> str:
    """Returns the address without user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
