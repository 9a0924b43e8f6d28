"""The few calls of CUDA's runtime that TensorRT needs: device memory, copies, a stream. Through ``ctypes``.

JetPack brings ``libcudart`` and TensorRT's Python module, and neither ``cuda-python`` nor ``cupy``, whose wheels would
have to match its CUDA; these calls have had the same C interface since CUDA 11:
https://docs.nvidia.com/cuda/cuda-runtime-api/ (groups DEVICE, ERROR, MEMORY, STREAM).
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from lineside_runtime.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    NoDeviceError,
    OutOfDeviceMemoryError,
)

MAJORS = (13, 12, 11)
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2

ERRORS: dict[int, type[DeviceError]] = {
    2: OutOfDeviceMemoryError,  # cudaErrorMemoryAllocation
    35: DriverMismatchError,  # cudaErrorInsufficientDriver
    46: DeviceBusyError,  # cudaErrorDevicesUnavailable
    100: NoDeviceError,  # cudaErrorNoDevice
    101: DeviceLostError,  # cudaErrorInvalidDevice
    209: DriverMismatchError,  # cudaErrorNoKernelImageForDevice
    214: DeviceLostError,  # cudaErrorECCUncorrectable
    700: DeviceLostError,  # cudaErrorIllegalAddress: the process's context is gone with it, as with the next two
    702: DeviceLostError,  # cudaErrorLaunchTimeout
    719: DeviceLostError,  # cudaErrorLaunchFailure
    803: DriverMismatchError,  # cudaErrorSystemDriverMismatch
    804: DriverMismatchError,  # cudaErrorCompatNotSupportedOnDevice
}
"""``cudaError_t`` (``driver_types.h``); the others are `EngineError`."""

_PROPERTIES_BYTES = 8192
_NAME_BYTES = 256
_MEMORY_AT = 288
"""``cudaDeviceProp`` begins with ``char name[256]; uuid[16]; luid[8]; unsigned luidDeviceNodeMask; size_t
totalGlobalMem``, in CUDA 10 to 13; the whole is about 1 KB."""


class CudaRuntime:
    """``libcudart``.

    Attributes:
        path: The library's file or name.
    """

    def __init__(self) -> None:
        """Loads the newest one that the driver can serve; several may be installed.

        Raises:
            OSError: There is none.
        """
        self.path, self._library = _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._library.cudaGetErrorName.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        """The runtime's version, such as ``12.6``."""
        return _version(self._number("cudaRuntimeGetVersion"))

    @property
    def driver(self) -> str:
        """Newest CUDA that the driver supports, such as ``12.6``; empty without a driver."""
        return _version(self._number("cudaDriverGetVersion"))

    def devices(self) -> int:
        """Returns how many GPUs there are.

        Raises:
            DriverMismatchError: There is no driver, or it is too old.
            DeviceError: The driver doesn't answer.
        """
        try:
            return self._number("cudaGetDeviceCount")
        except NoDeviceError:
            return 0

    def describe(self, device: int) -> tuple[str, int]:
        """Returns a GPU's name and its memory in bytes."""
        buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        second = "_v2" if hasattr(self._library, "cudaGetDeviceProperties_v2") else ""
        self._call(f"cudaGetDeviceProperties{second}", buffer, ctypes.c_int(device))
        name = buffer.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        return name, ctypes.c_size_t.from_buffer(buffer, _MEMORY_AT).value

    def use(self, device: int) -> None:
        """Makes a GPU the one that this thread's calls go to."""
        self._call("cudaSetDevice", ctypes.c_int(device))

    def allocate(self, size: int) -> int:
        """Returns the address of new device memory.

        Raises:
            OutOfDeviceMemoryError: There is no room.
        """
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        """Gives device memory back."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        """Copies when the stream comes to it."""
        pointers = (ctypes.c_void_p(target), ctypes.c_void_p(source))
        self._call(
            "cudaMemcpyAsync", *pointers, ctypes.c_size_t(size), ctypes.c_int(direction), ctypes.c_void_p(stream)
        )

    def stream(self) -> int:
        """Returns a new stream."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        return stream.value or 0

    def wait(self, stream: int) -> None:
        """Waits until a stream has done everything.

        Raises:
            DeviceError: Something in it failed.
        """
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def end(self, stream: int) -> None:
        """Gives a stream back."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def _number(self, name: str) -> int:
        number = ctypes.c_int()
        self._call(name, ctypes.byref(number))
        return number.value

    def _call(self, name: str, *arguments: object) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            words = self._library.cudaGetErrorString(code).decode(errors="replace")
            title = self._library.cudaGetErrorName(code).decode(errors="replace")
            raise ERRORS.get(code, EngineError)(f"{name}: {title} ({code}): {words}")


def _load() -> tuple[str, ctypes.CDLL]:
    """Returns the newest that the driver can serve, or without a driver the newest."""
    names = (*(f"libcudart.so.{major}" for major in MAJORS), *_files())
    found = [(name, library) for name in names if (library := _open(name)) is not None]
    if not found:
        raise OSError(f"CUDA's runtime isn't installed: no {' or '.join(names)}")
    return next((one for one in found if _served(one[1])), found[0])


def _served(library: ctypes.CDLL) -> bool:
    runtime, driver = ctypes.c_int(), ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(runtime))
    library.cudaDriverGetVersion(ctypes.byref(driver))
    return driver.value // 1000 >= runtime.value // 1000


def _open(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _files() -> list[str]:
    """Where it lies outside the linker's path: CUDA's own folder, and NVIDIA's wheels."""
    folders = [Path("/usr/local/cuda/lib64"), *(Path(place) / "nvidia" for place in sys.path if place)]
    found = [str(file) for folder in folders for file in folder.glob("**/libcudart.so.1?")]
    return sorted(found, key=lambda path: path.rpartition(".")[2], reverse=True)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""
