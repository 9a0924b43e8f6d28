"""Frames of good parts from photos, a dataset, a video or a camera."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import cast, get_args

from lineside.console import inform
from lineside_agent.cameras import Shot, open_camera
from lineside_agent.cameras.probe import read_camera
from lineside_agent.config import CameraConfig, VideoCameraConfig
from lineside_models.anomaly.defect_head import MarkedFrame
from lineside_models.datasets import load_dataset
from lineside_models.datasets.base import ALL, Sample, choose, evenly_spread, sample_of
from lineside_models.datasets.folds import check_fold, groups_of
from lineside_models.datasets.part_images import has_good, load_part_images
from lineside_models.frame import Frame, UInt8Array
from lineside_models.image_file import SUFFIXES
from lineside_models.vision.images import photo_files, read_image
from lineside_runtime.errors import CameraError, ConfigError, InputNotFoundError, LinesideError
from lineside_runtime.wording import counted


class PhotoReader:
    """Reads photos; one that cannot be read is printed, counted and left out.

    Attributes:
        unreadable: Why photos could not be read, in their order.
        copies: How many good frames were left out as they show the same pixels as one before.
    """

    def __init__(self) -> None:
        self.unreadable: list[LinesideError] = []
        self.copies = 0

    @property
    def notes(self) -> list[str]:
        """What was left out, for a person."""
        unread = [f"{counted(len(self.unreadable), 'photo')} not read and left out"] * bool(self.unreadable)
        return unread + [f"{counted(self.copies, 'frame')} left out: copies of others"] * bool(self.copies)

    def distinct(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yields frames without copies: one says nothing of how parts differ, and would count as a further part."""
        known = set()
        for frame in frames:
            digest = hashlib.sha256(frame.image.tobytes()).digest()
            if digest in known:
                self.copies += 1
                continue
            known.add(digest)
            yield frame

    def read(self, paths: Iterable[Path]) -> Iterator[tuple[int, UInt8Array]]:
        """Yields the number and the image of each photo that can be read.

        Raises:
            InputNotFoundError: None is there.
            BadInputFormatError: None is an image.
        """
        count = 0
        for number, path in enumerate(paths):
            try:
                image = read_image(path)
            except LinesideError as error:
                inform(f"not read: {error}")
                self.unreadable.append(error)
                continue
            count += 1
            yield number, image
        if not count and self.unreadable:
            raise self.unreadable[-1]


def good_frames(
    source: Sequence[str], count: int, photos: PhotoReader, *, fold: str = ALL, parts: str = ""
) -> Iterator[Frame]:
    """Yields frames lazily, without copies of one picture.

    Args:
        source: One path, or a camera's type and settings, such as ``("rtsp", "url=rtsp://10.0.0.9/a")``.
        count: How many; evenly spread over photos and videos.
        photos: Leaves out photos that cannot be read.
        fold: Of a data set.
        parts: Regular expression on a photo's path below the folder that names its part, as for `groups_of`; empty: a
            column of ``folds.csv``, else each photo shows a part of its own.

    Raises:
        ConfigError: Fewer than one frame is asked for, the camera's settings are wrong, or a fold or parts are given
            for something else than a folder.
        InputNotFoundError: There is no such path, or a folder holds no image.
        BadInputFormatError: No photo is an image.
        DatasetError: The data set has no such fold, or no good part in it.
        CameraError: The camera or the video gives no frames.
    """
    if count < 1:
        raise ConfigError("frames", expected="at least 1", actual=count)
    path = Path(source[0])
    if not path.is_dir() and (fold != ALL or parts):
        name, value = ("--fold", fold) if fold != ALL else ("--parts", parts)
        raise ConfigError(name, expected="a folder as --source", actual=f"{value} with {' '.join(source)}")
    if len(source) > 1 or not (path.exists() or path.suffix or "/" in source[0]):
        return photos.distinct(_of_camera(source, count))
    if path.is_dir():
        return photos.distinct(_of_files(_photos(path, fold), count, photos, groups_of(path, parts)))
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not there", action="Give a folder, a video, a data set or a camera.")
    if path.suffix.lower() in SUFFIXES:
        return _of_files([path], count, photos)
    return photos.distinct(_of_video(path, count))


def check_bad_folders(folders: Sequence[Path]) -> None:
    """Raises `InputNotFoundError` if a folder is not there, before anything is learned."""
    for folder in folders:
        if not folder.is_dir():
            raise InputNotFoundError(f"no folder of bad parts at {folder}", action="Give a folder of photos.")


def bad_frames(folders: Sequence[Path], photos: PhotoReader) -> Iterator[Frame]:
    """Yields every photo of bad parts.

    Raises:
        InputNotFoundError: A folder holds no image.
        BadInputFormatError: No photo of a folder is an image.
    """
    for folder in folders:
        yield from _of_files(files := photo_files(folder), len(files), photos)


def marked_frames(folders: Sequence[Path], photos: PhotoReader) -> Iterator[MarkedFrame]:
    """Yields bad parts with boxes and types of their defects: of annotated data sets, or of photos, which have none.

    Raises:
        InputNotFoundError: A folder holds no image.
        DatasetError: An annotation is damaged.
        BadInputFormatError: No photo of a folder is an image.
    """
    for folder in folders:
        marked = _marked(folder)
        for sequence, image in photos.read(sample.path for sample, _ in marked):
            sample, types = marked[sequence]
            frame = Frame(image=image, source=str(sample.path), sequence=sequence, part_id=sample.part_id)
            yield MarkedFrame(frame, sample.boxes, types)


def _marked(folder: Path) -> list[tuple[Sample, tuple[str, ...]]]:
    """Returns the bad parts, and the type of each of their boxes; without boxes, that of the frame."""
    if all(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir()):
        return [(sample_of(file, [], []), ()) for file in photo_files(folder)]
    dataset = load_dataset(folder)
    found = [sample for sample in dataset.samples if len(sample.labels)]
    if has_good(folder) and not any(len(sample.boxes) for sample in found):
        bad = [part for part in load_part_images(folder).images if not part.good]
        return [(sample_of(part.path, [], []), (part.kind,)) for part in bad]
    return [(sample, tuple(dataset.vocabulary[label] for label in sample.labels)) for sample in found]


def _photos(folder: Path, fold: str) -> list[Path]:
    if has_good(folder):
        return [part.path for part in load_part_images(folder, fold).images if part.good]
    check_fold(folder, fold)
    return choose(folder, fold, photo_files(folder), folder)


def _of_files(
    files: Sequence[Path], count: int, photos: PhotoReader, part_of: Callable[[Sample], str] | None = None
) -> Iterator[Frame]:
    taken = evenly_spread(files, count)
    for sequence, image in photos.read(taken):
        file = taken[sequence]
        part = file.stem if part_of is None else part_of(sample_of(file, [], []))
        yield Frame(image=image, source=str(file), sequence=sequence, part_id=part)


def _of_camera(source: Sequence[str], count: int) -> Iterator[Frame]:
    kinds = [kind.type_name() for kind in get_args(CameraConfig)]
    if len(source) == 1 and source[0] not in kinds:
        raise InputNotFoundError(
            f"{source[0]} is not there, and no kind of camera",
            expected=f"a path, or a camera of {', '.join(kinds)}",
            action="Correct --source.",
        )
    return islice(_shots(read_camera(source[0], list(source[1:]))), count)


def _shots(config: CameraConfig) -> Iterator[Frame]:
    with closing(cast("Generator[Shot]", open_camera(config).frames())) as shots:  # which closes the camera
        yield from (shot for shot in shots if isinstance(shot, Frame))


def _of_video(path: Path, count: int) -> Iterator[Frame]:
    """Reads the video twice: its number of frames is known only at its end."""
    config = VideoCameraConfig(path=path)
    total = sum(1 for _ in _shots(config))
    if not total:
        raise CameraError(f"{path} gives no frames", action="Give a video that OpenCV reads.")
    taken = min(count, total)
    wanted = {number * total // taken for number in range(taken)}
    yield from (frame for number, frame in enumerate(_shots(config)) if number in wanted)
