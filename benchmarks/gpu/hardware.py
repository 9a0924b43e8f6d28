"""NVIDIA GPUs of this machine, asked of the driver's library: no package has to be installed for that."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import msgspec

from lineside_runtime.system.drivers import nvidia_driver

DRIVER_LIBRARY = "libcuda.so.1"
NODES = ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "dev/nvgpu", "dev/dxg")
"""Device files of desktop and server cards, Jetson and WSL."""

_NAME_BYTES = 256
_QUERY = "index,name,memory.total,driver_version,compute_cap,power.limit,clocks.max.sm"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU."""

    name: str
    memory_bytes: int


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs that CUDA's driver shows.

    Attributes:
        gpus: In CUDA's order.
        cuda: Newest CUDA version that the driver serves, such as ``13.0``; empty without a driver.
        driver: Version of the kernel driver; empty if unknown.
        reason: Why there are none; empty if there are some.
        nodes: Device files of GPUs.
        nvidia_smi: What the program says, one line a GPU; empty where it is absent.
    """

    gpus: tuple[Gpu, ...] = ()
    cuda: str = ""
    driver: str = ""
    reason: str = ""
    nodes: tuple[str, ...] = ()
    nvidia_smi: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether the kernel shows a GPU that CUDA's driver does not."""
        return bool(self.nodes) and not self.gpus


def find_gpus(root: Path = Path("/"), library: str = DRIVER_LIBRARY) -> Gpus:
    """Asks the driver.

    Args:
        root: Where ``dev`` and ``proc`` are.
    """
    nodes = tuple(str(path) for pattern in NODES for path in sorted(root.glob(pattern)))
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return Gpus(reason=f"{library} can't be loaded: {error}", nodes=nodes)
    status = cuda.cuInit(0)
    if status:
        return Gpus(reason=f"cuInit returned {status}", nodes=nodes)
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    found = tuple(_describe(cuda, index) for index in range(count.value))
    return Gpus(
        gpus=found,
        cuda=version,
        driver=nvidia_driver(root),
        reason="" if found else "the driver shows no GPU",
        nodes=nodes,
        nvidia_smi=_nvidia_smi(),
    )


def _describe(cuda: ctypes.CDLL, index: int) -> Gpu:
    name, size = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    device = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name=name.value.decode(errors="replace"), memory_bytes=size.value)


def _nvidia_smi() -> tuple[str, ...]:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.strip().splitlines()) if done.returncode == 0 else ()
