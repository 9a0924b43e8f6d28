"""Arrays in memory that two processes share.

An anonymous memory file (``memfd``) has no name, so that nothing of it can stay behind in ``/dev/shm``: the kernel
frees it with its last user, however that one ends. ``multiprocessing.shared_memory`` has names, and a tracker
process that would have to outlive a kill.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping

import numpy as np

from lineside_runtime.engine_process.messages import TensorAt
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import Array

ALIGN = 64
"""Bytes; what SIMD kernels like best, and a cache line."""

SMALLEST_BYTES = 1 << 16


class OutgoingArrays:
    """The sender's side: grows when it has to, and then has a new file to hand over."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._size = 0

    def place(self, arrays: Mapping[str, Array]) -> tuple[tuple[TensorAt, ...], int | None]:
        """Copies arrays into the memory.

        Returns:
            Where they lie, and the descriptor of the memory file if it is a new one: the receiver must get it, and the
            caller closes it.

        Raises:
            BadInputFormatError: An array holds Python objects.
            OSError: There is no memory left.
        """
        placed: list[TensorAt] = []
        end = 0
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise BadInputFormatError(
                    f"tensor {name!r} cannot go to an engine's process", expected="numbers", actual=array.dtype
                )
            placed.append(TensorAt(name, array.dtype.str, array.shape, end))
            end += -(-array.nbytes // ALIGN) * ALIGN
        descriptor = self._grow(end) if end > self._size or self._memory is None else None
        for where, array in zip(placed, arrays.values(), strict=True):
            np.copyto(view(self._memory, where), array)
        return tuple(placed), descriptor

    def _grow(self, needed: int) -> int:
        size = max(SMALLEST_BYTES, 1 << (needed - 1).bit_length()) if needed else SMALLEST_BYTES
        descriptor = os.memfd_create("lineside-tensors")
        try:
            os.posix_fallocate(descriptor, 0, size)  # or a write would end in SIGBUS where memory is short
            self._memory = mmap.mmap(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        self._size = size
        return descriptor


class IncomingArrays:
    """The receiver's side."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    def adopt(self, descriptor: int) -> None:
        """Takes a new memory file, and closes the descriptor."""
        try:
            self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def views(self, tensors: tuple[TensorAt, ...]) -> dict[str, Array]:
        """Returns arrays that lie in the memory: good until the sender's next message."""
        return {where.name: view(self._memory, where) for where in tensors}

    def copies(self, tensors: tuple[TensorAt, ...]) -> dict[str, Array]:
        """Returns arrays of the caller's own."""
        return {where.name: view(self._memory, where).copy() for where in tensors}


def view(memory: mmap.mmap | None, where: TensorAt) -> Array:
    """Returns the array that lies there; it keeps the memory mapped.

    Raises:
        ValueError: It doesn't lie inside.
    """
    if memory is None:
        raise ValueError("no memory was handed over yet")
    try:
        array: Array = np.ndarray(where.shape, where.dtype, memory, where.offset)
    except TypeError as error:  # numpy's word for a buffer that is too small
        raise ValueError(str(error)) from error
    return array
