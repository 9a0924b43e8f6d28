"""Images of a caller as frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Union

import numpy as np

from lineside_models.frame import Frame
from lineside_models.image_file import SUFFIXES, decode_image
from lineside_runtime.errors import BadInputFormatError, InputNotFoundError

Image = Union[str, Path, "np.typing.NDArray[np.uint8]", Frame]

_ACCEPTED = "a path, a folder, an array (H, W, 3) or (H, W) uint8, a Frame, or a list of these"


@dataclasses.dataclass(frozen=True, slots=True)
class InputImage:
    """An image of a caller, read lazily.

    Attributes:
        image: A file, an array or a frame.
        source: The file's path; empty for an array.
        part_id: The file's name without its ending.
        sequence: Its number among those that were given.
    """

    image: Path | Frame | np.typing.NDArray[np.uint8]
    source: str
    part_id: str
    sequence: int

    def frame(self) -> Frame:
        """Reads it.

        Raises:
            InputNotFoundError: The file is not there.
            BadInputFormatError: The file is no image, or the array is of another kind.
        """
        if isinstance(self.image, Frame):
            return self.image
        pixels = read_image(self.image) if isinstance(self.image, Path) else self.image
        return Frame(
            image=pixels,
            source=self.source,
            sequence=self.sequence,
            part_id=self.part_id,
            captured_at_ns=time.time_ns(),
        )


def input_images(images: Image | Iterable[Image]) -> Iterator[InputImage]:
    """Yields the images of a caller without reading a file.

    Args:
        images: As for `frames`.

    Raises:
        InputNotFoundError: A folder holds no image.
        BadInputFormatError: An object of another kind was given.
    """
    for sequence, (image, source, part_id) in enumerate(_flat(images)):
        yield InputImage(image, source, part_id, sequence)


def frames(images: Image | Iterable[Image]) -> Iterator[Frame]:
    """Yields a frame for each image; files are read lazily.

    Args:
        images: A path, a folder, an array, a `Frame`, or an iterable of these. Of a folder the images in it are
            taken, sorted by name, without those in folders below. An array ``(N, H, W, 3)`` is ``N`` images.

    Raises:
        InputNotFoundError: A path is not there, or a folder holds no image.
        BadInputFormatError: A file is no image, or an array or object of another kind was given.
    """
    return (each.frame() for each in input_images(images))


def read_image(path: Path) -> np.typing.NDArray[np.uint8]:
    """Reads an image file.

    Returns:
        ``(H, W, 3) uint8`` BGR, or ``(H, W) uint8`` for a grey file.

    Raises:
        InputNotFoundError: There is no such file, or the system can't read it.
        BadInputFormatError: It is no image that OpenCV reads.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputNotFoundError(f"{path} is not there", action="Give a photo or a folder of photos.") from error
    except OSError as error:  # no permission, or a failing drive: the other photos can be read
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Check the file, its rights and drive.") from error
    try:
        image = decode_image(data)
    except ValueError as error:
        raise BadInputFormatError(
            f"{path} is not an image that can be read: {error}",
            expected=f"a readable {', '.join(sorted(SUFFIXES))}",
            action="Give a photo.",
        ) from error
    return np.asarray(image, np.uint8)


def image_files(folder: Path) -> list[Path]:
    """Returns the image files in a folder, sorted by name.

    Raises:
        InputNotFoundError: There is none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputNotFoundError(f"no image in {folder}", expected=f"files that end in {', '.join(sorted(SUFFIXES))}")
    return found


def photo_files(folder: Path) -> list[Path]:
    """Returns the photos in a folder, sorted by name: image files without the PNG masks that have a photo's name.

    Raises:
        InputNotFoundError: There is none.
    """
    found = image_files(folder)
    photos = {path.stem for path in found if path.suffix.lower() != ".png"}
    return [path for path in found if path.suffix.lower() != ".png" or path.stem not in photos]


def _flat(images: object) -> Iterator[tuple[Path | Frame | np.typing.NDArray[np.uint8], str, str]]:
    if isinstance(images, Frame):
        yield images, images.source, images.part_id
    elif isinstance(images, (str, Path)):
        path = Path(images)
        for file in image_files(path) if path.is_dir() else [path]:
            yield file, str(file), file.stem
    elif isinstance(images, np.ndarray) and images.ndim <= 3:
        yield images, "", ""
    elif isinstance(images, Iterable):
        for image in images:
            yield from _flat(image)
    else:
        raise BadInputFormatError("not an image", expected=_ACCEPTED, actual=type(images).__name__, action="")
