"""Try a camera without an agent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from lineside_agent.cameras.base import Camera, LostFrame
from lineside_agent.config import CameraConfig, parse_camera
from lineside_models.frame import Frame
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import CameraError, ConfigError
from lineside_runtime.files import write_atomic


def read_camera(kind: str, pairs: list[str]) -> CameraConfig:
    """Makes a ``[camera]`` table from words such as ``rtsp url=rtsp://10.0.0.9/a timeout_s=2``.

    Args:
        pairs: ``key=value`` each; a value is read as TOML, and as a string where it is none.

    Raises:
        ConfigError: A word without ``=``, an unknown key, a wrong type or a value out of range.
    """
    table: dict[str, Any] = {"type": kind}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"{pair!r} is no setting", expected="key=value")
        try:
            table[key] = decode_toml(f"value = {value}")["value"]
        except msgspec.DecodeError:
            table[key] = value
    return parse_camera(table)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CameraTrial:
    """Figures of a camera that was tried.

    Attributes:
        source: Name that the records would use.
        lost: Frames without an image.
        height: Of the last image, in pixels.
        width: Of the last image, in pixels.
        colour: Whether the last image has colour.
        first_ms: From the call to the first frame.
        rate_hz: Of the frames after the first.
        gap_max_ms: The longest wait for a frame.
        latency_ms: Median age of a frame at its arrival. With aravis and picamera2 the camera or its driver gives the
            time of the capture; with rtsp and v4l2 it is the time of arrival, so the figure says little.
        brightness: Mean of the last image, 0 to 255.
    """

    source: str
    frames: int
    lost: int
    height: int
    width: int
    colour: bool
    first_ms: float
    rate_hz: float
    gap_max_ms: float
    latency_ms: float
    brightness: float


def try_camera(
    camera: Camera, *, frames: int, progress: Callable[[int], object] = lambda count: None
) -> tuple[CameraTrial, Frame]:
    """Takes ``frames`` frames, and calls ``progress`` with the number that has come.

    Returns:
        The figures, and the last frame that has an image.

    Raises:
        CameraError: The camera gives none.
    """
    arrivals_s, ages_ms, lost, last = [time.monotonic()], [], 0, None
    with closing(cast(Any, camera.frames())) as shots:
        for shot in shots:
            arrivals_s.append(time.monotonic())
            ages_ms.append((time.time_ns() - shot.captured_at_ns) / 1e6)
            lost += isinstance(shot, LostFrame)
            last = shot if isinstance(shot, Frame) else last
            progress(len(arrivals_s) - 1)
            if len(arrivals_s) > frames:
                break
    if last is None:
        raise CameraError(f"{camera.source} gave {lost} frames, and none with an image")
    gaps_s = np.diff(arrivals_s)
    later_s = gaps_s[1:] if len(gaps_s) > 1 else gaps_s
    height, width = last.size
    tried = CameraTrial(
        source=camera.source,
        frames=len(gaps_s),
        lost=lost,
        height=height,
        width=width,
        colour=last.image.ndim == 3,
        first_ms=round(float(1000 * gaps_s[0]), 1),
        rate_hz=round(float(len(later_s) / max(later_s.sum(), 1e-9)), 2),
        gap_max_ms=round(float(1000 * later_s.max()), 1),
        latency_ms=round(float(np.median(ages_ms)), 2),
        brightness=round(float(last.image.mean()), 1),
    )
    return tried, last


def write_jpeg(frame: Frame, path: Path) -> None:
    """Writes a frame as a JPEG."""
    from lineside_models.image_file import encode_jpeg

    try:
        write_atomic(path, encode_jpeg(frame.image, 90))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", action="Give another --out.") from error
