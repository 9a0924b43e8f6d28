"""Frame sources of `lineside inspect`: photos and folders, a video file, a camera or the line simulator."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from lineside_models.frame import Frame
from lineside_models.image_file import SUFFIXES
from lineside_runtime.errors import BadInputFormatError, ConfigError, InputNotFoundError

if TYPE_CHECKING:
    from lineside_agent.cameras import Camera, LostFrame

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
SIMULATOR = "simulator"
RTSP = ("rtsp://", "rtsps://")
ARGUMENTS = "Change the arguments; see `lineside inspect --help`."
LIVE_RATE_HZ = 10.0
"""Rate of an annotated video if the source has none."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameSource:
    """A source of frames.

    Attributes:
        images: Photos as paths, or frames; read lazily.
        count: Number of frames; ``None`` if unknown.
        live: Whether frames arrive by themselves and are inspected one by one.
        endless: Whether the source has no end.
        rate_hz: Frames a second; ``None`` for photos.
        lost: Frames that the camera has lost so far.
    """

    images: Iterable[Path | Frame]
    count: int | None
    live: bool = False
    endless: bool = False
    rate_hz: float | None = None
    lost: list[LostFrame] = dataclasses.field(default_factory=list)

    def first(self, frames: int | None) -> FrameSource:
        """Returns at most so many of its frames; ``None`` for all."""
        if frames is None:
            return self
        count = None if self.count is None else min(self.count, frames)
        return dataclasses.replace(self, images=itertools.islice(self.images, frames), count=count, endless=False)


def open_source(given: Sequence[str]) -> FrameSource:
    """Opens the source that the arguments name.

    Args:
        given: Photos and folders, which may be several; or one video file, ``simulator`` or ``simulator:SEED``, an
            ``rtsp://`` address, or ``camera`` with its type and settings, such as ``camera v4l2 index=0``.

    Raises:
        InputNotFoundError: A path is missing, or a folder has no image.
        ConfigError: Sources that cannot be combined, or an unknown setting of the camera.
        BadInputFormatError: A file that is neither a photo nor a video.
    """
    first = given[0]
    if first == "camera" and not Path(first).exists():
        return _camera(given[1:])
    if first.startswith(RTSP) or _is_simulator(first) or Path(first).suffix.lower() in VIDEO_SUFFIXES:
        if len(given) > 1:
            raise ConfigError(
                "sources",
                expected="one video, camera or simulator at a time",
                actual=", ".join(given),
                action=ARGUMENTS,
            )
        if first.startswith(RTSP):
            return _camera(["rtsp", f"url={first}"])
        return _simulator(first) if _is_simulator(first) else _video(Path(first))
    photos = list(itertools.chain.from_iterable(_photos(Path(one)) for one in given))
    return FrameSource(photos, len(photos))


def _photos(path: Path) -> Iterator[Path]:
    """Yields a photo, or the photos of a folder and its subfolders, sorted."""
    if not path.exists():
        raise InputNotFoundError(f"{path} is not there", action="Give photos, folders, a video, a camera or simulator.")
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        if not found:
            raise InputNotFoundError(
                f"no image in {path} or the folders below", expected=f"files that end in {', '.join(sorted(SUFFIXES))}"
            )
        yield from found
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        raise ConfigError("sources", expected="a video alone", actual=str(path), action="Inspect it by itself.")
    elif path.suffix.lower() in SUFFIXES:
        yield path
    else:
        raise BadInputFormatError(
            f"{path} is neither a photo nor a video",
            expected=", ".join(sorted(SUFFIXES | VIDEO_SUFFIXES)),
            actual=path.suffix or "no ending",
            action="Give a photo, a folder of photos or a video.",
        )


def _video(path: Path) -> FrameSource:
    from lineside_agent.cameras.opencv import VideoCamera

    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Give a video file.")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    rate_hz, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    opened = capture.isOpened()
    capture.release()
    if not opened:
        raise BadInputFormatError(f"{path} is no video that can be read", action="Give a video file.")
    return _of(VideoCamera(path, name=str(path)), count=count if count > 0 else None, rate_hz=rate_hz or LIVE_RATE_HZ)


def _camera(words: Sequence[str]) -> FrameSource:
    from lineside_agent.cameras import open_camera
    from lineside_agent.cameras.probe import read_camera

    if not words:
        raise ConfigError(
            "camera", expected="its type and settings, such as: camera v4l2 index=0", actual="nothing", action=ARGUMENTS
        )
    camera = open_camera(read_camera(words[0], list(words[1:])))
    return _of(camera, live=not camera.finite, endless=not camera.finite)


def _is_simulator(word: str) -> bool:
    return word.partition(":")[0] == SIMULATOR and not Path(word).exists()


def _simulator(word: str) -> FrameSource:
    from lineside_agent.cameras.simulator import SimulatorCamera

    seed = word.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise ConfigError(
            "seed of the simulator", expected="a number from 0, such as simulator:7", actual=seed, action=ARGUMENTS
        )
    return _of(SimulatorCamera(int(seed)), endless=True)


def _of(
    camera: Camera,
    *,
    count: int | None = None,
    live: bool = False,
    endless: bool = False,
    rate_hz: float = LIVE_RATE_HZ,
) -> FrameSource:
    lost: list[LostFrame] = []
    return FrameSource(_frames(camera, lost), count, live=live, endless=endless, rate_hz=rate_hz, lost=lost)


def _frames(camera: Camera, lost: list[LostFrame]) -> Iterator[Frame]:
    from lineside_agent.cameras import LostFrame

    for shot in camera.frames():
        if isinstance(shot, LostFrame):
            lost.append(shot)
        else:
            yield shot
