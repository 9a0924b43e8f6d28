"""Source of the demo's frames, and the list of them for the counts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from lineside.demo.options import DemoOptions
from lineside_models.datasets.base import evenly_spread
from lineside_models.frame import Frame
from lineside_models.image_file import SUFFIXES
from lineside_models.simulator import stream
from lineside_runtime.errors import InputError, InputNotFoundError
from lineside_runtime.files import write_atomic

RUN_S = 24.0
"""Duration of the frames: long enough for two pushes and a restart of the broker."""

RATE_MAX_HZ = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoSource:
    """The frames of one demo.

    Attributes:
        kind: ``simulator``, ``folder``, ``v4l2`` or ``video``.
        camera: The agent's ``[camera]`` table.
        part_ids: Of all frames, in order; empty for a camera or a video.
    """

    kind: str
    title: str
    camera: dict[str, Any]
    part_ids: tuple[str, ...]
    frames: int


def choose(options: DemoOptions, folder: Path) -> DemoSource:
    """Chooses the source and, for a folder, links the chosen photos under ``folder``.

    Args:
        options: At most one of ``images``, ``camera`` and ``video`` is given.
        folder: Of the links; created here.

    Raises:
        InputNotFoundError: The folder or file is missing, or has no image.
        InputError: More than one source was given, or no frames are wanted.
    """
    given = [value for value in (options.images, options.camera, options.video) if value is not None]
    if len(given) > 1:
        raise InputError("more than one source", expected="one of --images, --camera, --video", actual=len(given))
    if options.frames < 1:
        raise InputError("too few frames", expected="--frames of at least 1", actual=options.frames)
    if options.images is not None:
        return _folder(options.images, options.frames, folder)
    if options.camera is not None:
        camera = {"type": "v4l2", "index": options.camera, "frames": options.frames}
        return DemoSource(
            kind="v4l2", title=f"camera {options.camera}", camera=camera, part_ids=(), frames=options.frames
        )
    if options.video is not None:
        return _video(options.video, options.frames)
    return _simulator(options.seed, options.frames)


def _rate_hz(frames: int) -> float:
    return round(min(RATE_MAX_HZ, max(1.0, frames / RUN_S)), 3)


def _folder(images: Path, frames: int, folder: Path) -> DemoSource:
    if not images.is_dir():
        raise InputNotFoundError(f"{images} is not a folder", action="Give --images a folder of photos.")
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputNotFoundError(
            f"{images} holds no image", expected=", ".join(sorted(SUFFIXES)), action="Give another folder."
        )
    chosen = evenly_spread(found, frames)
    count = len(chosen)
    folder.mkdir(parents=True)
    names = ["__".join(path.relative_to(images).parts) for path in chosen]
    for name, path in zip(names, chosen, strict=True):
        (folder / name).symlink_to(path.resolve())
    camera = {"type": "folder", "path": str(folder), "frames": count, "rate_hz": _rate_hz(count)}
    title = f"{count} of {len(found)} photos of {images}"
    return DemoSource(kind="folder", title=title, camera=camera, part_ids=tuple(sorted(names)), frames=count)


def _video(video: Path, frames: int) -> DemoSource:
    if not video.is_file():
        raise InputNotFoundError(f"{video} is not a file", action="Give --video a video file.")
    capture = cv2.VideoCapture(str(video))
    held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if held < 1:
        raise InputNotFoundError(f"{video} holds no frame that can be decoded", action="Give another video file.")
    count = min(frames, held)
    camera = {"type": "video", "path": str(video.resolve()), "frames": count, "rate_hz": _rate_hz(count)}
    return DemoSource(kind="video", title=f"video {video.name}", camera=camera, part_ids=(), frames=count)


def _simulator(seed: int, frames: int) -> DemoSource:
    camera = {"type": "simulator", "seed": seed, "frames": frames, "rate_hz": _rate_hz(frames)}
    part_ids = tuple(frame.part_id for frame in simulated(seed, frames))
    return DemoSource(
        kind="simulator", title=f"line simulator, seed {seed}", camera=camera, part_ids=part_ids, frames=frames
    )


def simulated(seed: int, count: int) -> Iterator[Frame]:
    """Yields the same frames as the agent's simulator camera."""
    for sequence, simulated_frame in zip(range(count), stream(seed), strict=False):
        part_id = f"sim-{simulated_frame.kind}-{simulated_frame.seed}"
        yield Frame(image=simulated_frame.image, source="simulator", sequence=sequence, part_id=part_id)


def photos(folder: Path, count: int) -> list[Frame]:
    """Reads up to ``count`` photos of a folder, evenly spread."""
    paths = sorted(folder.iterdir())
    step = max(1, len(paths) // count)
    images = ((path, cv2.imread(str(path), cv2.IMREAD_COLOR)) for path in paths[::step][:count])
    return [
        Frame(image=image, source=str(folder), sequence=sequence, part_id=path.name)
        for sequence, (path, image) in enumerate(images)
        if image is not None
    ]


def write_list(source: DemoSource, path: Path) -> None:
    """Writes the list of source frames, for an independent count."""
    listed = {"kind": source.kind, "frames": source.frames, "part_ids": source.part_ids}
    write_atomic(path, json.dumps(listed, indent=1).encode())
