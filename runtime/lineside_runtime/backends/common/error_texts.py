"""Map the text of an engine's exception to an error class.

Engines wrap a driver's error in their own exceptions, so only the text tells "out of memory" from "device lost".
"""

from __future__ import annotations

from lineside_runtime.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    OutOfDeviceMemoryError,
)

MARKS: tuple[tuple[type[DeviceError], tuple[str, ...]], ...] = (
    (
        OutOfDeviceMemoryError,
        (
            "failed to allocate memory",  # onnxruntime, bfc_arena.cc
            "bad_alloc",  # C++
            "bad allocation",
            "out of memory",  # cudaErrorMemoryAllocation
            "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
            "out_of_host_memory",  # OpenCL and Level Zero status names
            "out_of_device_memory",
            "out_of_resources",  # CL_OUT_OF_RESOURCES
            "not enough memory",
            "cannot allocate memory",  # ENOMEM
        ),
    ),
    (DriverMismatchError, ("driver version is insufficient", "cannot load library", "cannot open shared object file")),
    (DeviceBusyError, ("devices are busy or unavailable", "device or resource busy")),
    (DeviceLostError, ("device_lost", "device lost", "no such device", "device not found")),
)
"""Lower-case parts of messages, in the order in which they are searched for. CUDA's are those of ``cudaError``."""


def error_kind(error: Exception) -> type[DeviceError] | None:
    """Returns the error class for an engine's exception, or ``None`` if its text is not known."""
    return OutOfDeviceMemoryError if isinstance(error, MemoryError) else device_error(str(error))


def device_error(text: str) -> type[DeviceError] | None:
    """Returns the error class for an engine's message, or ``None`` if it is not known."""
    lowered = text.lower()
    for kind, marks in MARKS:
        if any(mark in lowered for mark in marks):
            return kind
    return None
