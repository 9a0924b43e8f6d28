"""Pre-processing: image to tensor, by the manifest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from lineside_models.frame import UInt8Array, check_image
from lineside_runtime.bundle import Preprocess
from lineside_runtime.errors import ConfigError

Tensor = npt.NDArray[np.float32]

CHANNELS = {"grey": 1, "bgr": 3, "rgb": 3}
"""Channels of an input, by its colour."""

_NO_IMAGE = "The model takes no image: give its tensors to Session.predict."


@dataclasses.dataclass(frozen=True, slots=True)
class Letterbox:
    """Place of a frame in the model's input: scaled, at the top left; the rest is padding.

    Attributes:
        scale_x: Pixels of the input for one pixel of the frame.
        scale_y: The same for rows.
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.
        padded: ``(height, width)`` of the input with its padding, in pixels; ``None`` where there is no padding.
    """

    scale_x: float
    scale_y: float
    width: int
    height: int
    padded: tuple[int, int] | None = None

    @property
    def canvas(self) -> tuple[int, int]:
        """``(height, width)`` of the model's input in pixels."""
        return self.padded or (round(self.height * self.scale_y), round(self.width * self.scale_x))

    @property
    def whole(self) -> npt.NDArray[np.float32]:
        """The box ``(4,)`` of the whole frame, in pixels of the input."""
        return np.array([0, 0, self.width * self.scale_x, self.height * self.scale_y], np.float32)

    def to_frame(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps ``(N, 4)`` boxes ``x1, y1, x2, y2`` of the input to the frame, cut off at its edges."""
        scale, edges = _corners(self.scale_x, self.scale_y, self.width, self.height)
        placed = np.asarray(boxes / scale, np.float32)
        np.maximum(placed, 0, out=placed)
        return np.minimum(placed, edges, out=placed)


@functools.lru_cache(maxsize=16)
def _corners(
    scale_x: float, scale_y: float, width: int, height: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns scale and edges for boxes, ``(4,)`` each; cached, as a line's frames are of one size."""
    scale, edges = (np.array(pair * 2, np.float32) for pair in ((scale_x, scale_y), (width, height)))
    for each in (scale, edges):
        each.setflags(write=False)
    return scale, edges


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Frames whose tensors have one shape.

    Attributes:
        tensor: ``(N, C, H, W) float32``.
        indices: Places of the N images among those that were given.
    """

    tensor: Tensor
    letterboxes: tuple[Letterbox, ...]
    indices: tuple[int, ...]


def prepare(image: UInt8Array, how: Preprocess) -> tuple[Tensor, Letterbox]:
    """Turns one image into the model's input.

    Args:
        image: ``(H, W, 3) uint8`` BGR or ``(H, W) uint8`` grey.

    Returns:
        ``(1, C, H', W') float32``, contiguous, and how the frame lies in it.

    Raises:
        BadInputFormatError: It is no such image.
        ConfigError: ``how`` contradicts itself, such as two means for three channels.
    """
    image = check_image(image)
    if how.colour not in CHANNELS:
        raise ConfigError("preprocess.colour", expected=" or ".join(CHANNELS), actual=how.colour, action=_NO_IMAGE)
    tables = _tables(how.mean, how.std, CHANNELS[how.colour])
    coloured = _convert(image, how.colour)
    canvas, letterbox = _stretch(coloured, how) if how.resize == "stretch" else _fit(coloured, how)
    return _normalise(canvas, tables), letterbox


def prepare_batch(images: Sequence[UInt8Array], how: Preprocess) -> tuple[Batch, ...]:
    """Turns images into one tensor for each shape.

    Args:
        images: Each as for `prepare`; they may differ in size.

    Returns:
        One batch for every shape, in the order in which the shapes first appear.

    Raises:
        BadInputFormatError: One of them is no image.
        ConfigError: ``how`` contradicts itself.
    """
    groups: dict[tuple[int, ...], list[tuple[int, Tensor, Letterbox]]] = {}
    for index, image in enumerate(images):
        tensor, letterbox = prepare(image, how)
        groups.setdefault(tensor.shape, []).append((index, tensor, letterbox))
    return tuple(
        Batch(
            tensor=np.concatenate([tensor for _, tensor, _ in group]),
            letterboxes=tuple(letterbox for _, _, letterbox in group),
            indices=tuple(index for index, _, _ in group),
        )
        for group in groups.values()
    )


def to_grey(image: UInt8Array) -> UInt8Array:
    """Returns an image as ``(H, W) uint8``: itself if it is grey, else its luma.

    Raises:
        BadInputFormatError: It is no image.
    """
    image = check_image(image)
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _convert(image: UInt8Array, colour: str) -> UInt8Array:
    if colour == "grey":
        return to_grey(image)
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    return image if colour == "bgr" else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _stretch(image: UInt8Array, how: Preprocess) -> tuple[UInt8Array, Letterbox]:
    if how.size is None:
        raise ConfigError("preprocess.size", expected="(height, width) with resize = 'stretch'", actual=None)
    height, width = image.shape[:2]
    scaled = resized(image, how.size[0], how.size[1])
    return scaled, Letterbox(how.size[1] / width, how.size[0] / height, width, height)


def _fit(image: UInt8Array, how: Preprocess) -> tuple[UInt8Array, Letterbox]:
    height, width = image.shape[:2]
    new_height, new_width, canvas_height, canvas_width = _fit_sizes(height, width, how)
    scaled = resized(image, new_height, new_width)
    letterbox = Letterbox(new_width / width, new_height / height, width, height)
    if (new_height, new_width) == (canvas_height, canvas_width):
        return scaled, letterbox
    canvas = np.full((canvas_height, canvas_width, *image.shape[2:]), how.pad_value, np.uint8)
    canvas[:new_height, :new_width] = scaled
    return canvas, dataclasses.replace(letterbox, padded=(canvas_height, canvas_width))


def _fit_sizes(height: int, width: int, how: Preprocess) -> tuple[int, int, int, int]:
    """Returns height and width of the scaled frame, then of the canvas that it lies on."""
    if min(how.min_side, how.multiple_of) < 1 or how.max_side < how.min_side:
        raise ConfigError(
            "preprocess.min_side, max_side and multiple_of",
            expected="1 <= min_side <= max_side, and multiple_of of 1 or more",
            actual=(how.min_side, how.max_side, how.multiple_of),
        )
    long_side = max(height, width)
    scale = min(max(long_side, how.min_side), how.max_side) / long_side
    if how.size is not None:
        scale = min(how.size[0] / height, how.size[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if how.size is not None:
        return min(new_height, how.size[0]), min(new_width, how.size[1]), how.size[0], how.size[1]
    step = how.multiple_of
    return new_height, new_width, -(-new_height // step) * step, -(-new_width // step) * step


def resized(image: UInt8Array, height: int, width: int) -> UInt8Array:
    """Returns an image of another size, as every device computes it."""
    if image.shape[:2] == (height, width):
        return image
    # Linear looks at four pixels, so it skips some when reducing by more than half; it is ten times as fast as area.
    skips = height * 2 < image.shape[0] or width * 2 < image.shape[1]
    method = cv2.INTER_AREA if skips else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


@functools.lru_cache(maxsize=16)
def _tables(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> tuple[Tensor, ...]:
    """One table of 256 normalised values a channel: looking them up beats arithmetic on every pixel."""
    if len(mean) not in (1, channels) or len(std) not in (1, channels) or 0 in std:
        raise ConfigError(
            "preprocess.mean and std", expected=f"1 or {channels} numbers each, std not 0", actual=(mean, std)
        )
    grey = np.arange(256, dtype=np.float32)
    means, stds = mean * channels if len(mean) == 1 else mean, std * channels if len(std) == 1 else std
    return tuple(
        np.asarray((grey - np.float32(m)) / np.float32(s), np.float32) for m, s in zip(means, stds, strict=True)
    )


def _normalise(canvas: UInt8Array, tables: tuple[Tensor, ...]) -> Tensor:
    if canvas.ndim == 2:
        return np.asarray(cv2.LUT(canvas, tables[0]), np.float32)[None, None]
    tensor = np.empty((1, len(tables), *canvas.shape[:2]), np.float32)
    for channel, table in enumerate(tables):
        tensor[0, channel] = cv2.LUT(np.ascontiguousarray(canvas[..., channel]), table)
    return tensor
