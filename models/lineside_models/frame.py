"""`Frame`: one image with its source."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from lineside_runtime.errors import BadInputFormatError

UInt8Array = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One image from a camera, file or simulator.

    Attributes:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey; given as ``(H, W, 1)`` it becomes that.
        source: The camera's name, or the folder or file that the image came from.
        sequence: Number of the frame at its source; contiguous from 0.
        part_id: The inspected part: given by the line, or the file's name.
        captured_at_ns: Unix time of the capture in nanoseconds.
        read_id: Id that another camera or model has read from the part; empty if none has.
    """

    image: UInt8Array
    source: str = ""
    sequence: int = 0
    part_id: str = ""
    captured_at_ns: int = 0
    read_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", check_image(self.image))

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])


def check_image(image: object) -> UInt8Array:
    """Returns an array as a `Frame` holds it: itself, or of ``(H, W, 1)`` its only channel.

    Raises:
        BadInputFormatError: It is not ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W) uint8``, or it has no pixels.
    """
    expected = "an array (H, W, 3) uint8 BGR, or (H, W) or (H, W, 1) uint8 grey"
    if not isinstance(image, np.ndarray):
        raise BadInputFormatError("not an image", expected=expected, actual=type(image).__name__)
    grey_or_colour = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    if image.dtype != np.uint8 or not grey_or_colour or 0 in image.shape:
        raise BadInputFormatError("not an image", expected=expected, actual=f"{image.shape} {image.dtype}")
    return image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
