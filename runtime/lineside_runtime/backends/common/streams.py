"""Inputs and outputs of compiled files whose names are not the model's: find which is which, and turn images.

Accelerators that compile ahead have images channels last; ``NCHW`` is turned here. What can't be told by name or shape
goes by order, and the bundle's golden output proves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lineside_runtime.errors import BadInputFormatError, UnsupportedModelError
from lineside_runtime.tensors import Array, TensorSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """An input or output as the compiled file names it.

    Attributes:
        name: The compiler's name, such as ``net/conv20``.
        origins: The model's own layer names that it comes from.
        shape: Of one frame, without the batch; images are (height, width, channels).
    """

    name: str
    origins: tuple[str, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its name in the bundle, and its form in the accelerator.

    Attributes:
        stream: The compiler's name.
        shape: Of one frame on the accelerator.
        dtype: Of the bundle's array, where it is an input.
        turned: Whether the bundle has channels first (NCHW) and the accelerator last.
        rank: Dimensions of the bundle's array.
    """

    name: str
    stream: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    turned: bool = False
    rank: int = 0

    def frames(self, array: Array) -> list[Array]:
        """Returns a batch as the accelerator takes it: one contiguous array a frame.

        Raises:
            BadInputFormatError: A frame has another size or type.
        """
        if array.dtype != self.dtype:  # it would read the bytes as another type
            raise BadInputFormatError(f"input {self.name!r}", expected=self.dtype, actual=array.dtype)
        moved = np.moveaxis(array, 1, -1) if self.turned and array.ndim == 4 else array
        if moved.ndim == 0 or moved[0:1].size != np.prod(self.shape):
            raise BadInputFormatError(
                f"input {self.name!r} does not fit", expected=f"a batch of {self.shape}", actual=array.shape
            )
        return [np.ascontiguousarray(frame).reshape(self.shape) for frame in moved]

    def batch(self, frames: Sequence[Array]) -> Array:
        """Returns frames of the accelerator as the bundle's array."""
        array = np.stack(frames)
        if self.turned:
            return np.ascontiguousarray(np.moveaxis(array, -1, 1))
        while self.rank and array.ndim > self.rank and 1 in array.shape[1:]:
            array = array.squeeze(1 + array.shape[1:].index(1))  # a vector comes as an image of one pixel
        return array


def pair_up(streams: Sequence[Stream], specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Finds which of the file's streams is which of the bundle's tensors.

    By name or origin, then by shape where only one has it, then by order.

    Args:
        streams: In the compiler's order.
        specs: Of the manifest; empty if it isn't known, and then the compiler's names are kept.

    Raises:
        UnsupportedModelError: There are more of one than of the other.
    """
    if not specs:
        return tuple(Tensor(stream.name, stream.name, stream.shape) for stream in streams)
    if len(streams) != len(specs):
        raise UnsupportedModelError(
            "the compiled file has other inputs or outputs than the bundle",
            expected=[spec.name for spec in specs],
            actual=[stream.name for stream in streams],
        )
    left = list(streams)
    chosen: dict[str, Stream] = {}
    for fits in (_same_name, _same_shape):
        for spec in specs:
            found = [stream for stream in left if spec.name not in chosen and fits(stream, spec)]
            rivals = [other for other in specs if other.name not in chosen and found and fits(found[0], other)]
            if len(found) == 1 and len(rivals) == 1:
                chosen[spec.name] = found[0]
                left.remove(found[0])
    for spec in specs:
        if spec.name not in chosen:
            chosen[spec.name] = left.pop(0)
    return tuple(_tensor(spec, chosen[spec.name]) for spec in specs)


def _tensor(spec: TensorSpec, stream: Stream) -> Tensor:
    turned = spec.layout == "NCHW" and len(stream.shape) == 3
    return Tensor(spec.name, stream.name, stream.shape, spec.dtype, turned, len(spec.shape))


def _same_name(stream: Stream, spec: TensorSpec) -> bool:
    return spec.name in (stream.name, stream.name.rpartition("/")[2], *stream.origins)


def _same_shape(stream: Stream, spec: TensorSpec) -> bool:
    shape = spec.shape[1:]
    if spec.layout == "NCHW" and len(shape) == 3:
        shape = (shape[1], shape[2], shape[0])
    return [size for size in shape if size != 1] == [size for size in stream.shape if size != 1]
