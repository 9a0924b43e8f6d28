"""Whether this machine may have an accelerator, from the kernel's files.

Importing an engine costs up to tens of megabytes; looking for a file costs microseconds. A file that is there only
means that the engines are worth importing; `accelerators` says what exactly is here. Engines that `Config.engines`
names are imported in any case.
"""

from __future__ import annotations

from pathlib import Path

from lineside_runtime.devices import DeviceKind

SIGNS: dict[DeviceKind, tuple[str, ...]] = {
    "npu": (
        "dev/accel/*",  # Linux' accel subsystem: Intel and AMD NPUs, Rockchip's open driver
        "dev/hailo*",
        "dev/apex_*",  # Coral on PCIe
        "dev/rknpu*",
        "sys/class/devfreq/*.npu",  # Rockchip's vendor driver
        "sys/kernel/debug/rknpu",
        "dev/adsprpc-smd*",  # Qualcomm Hexagon
        "dev/fastrpc-*",
        "dev/nvhost-ctrl-nvdla*",  # Jetson's DLA
    ),
    "gpu": (
        "dev/dri/render*",  # every open driver
        "dev/nvidia[0-9]*",
        "dev/nvidiactl",
        "proc/driver/nvidia",
        "dev/nvhost-gpu",  # Jetson, up to JetPack 5
        "dev/nvgpu",  # Jetson, from JetPack 6
        "dev/nvmap",
        "dev/kfd",  # AMD
        "dev/mali*",
        "dev/kgsl-3d0",  # Qualcomm Adreno
        "dev/dxg",  # Windows' subsystem for Linux
    ),
}
"""Paths that hint at a device of each kind, from https://docs.kernel.org/accel/introduction.html and the drivers."""


def may_have(kind: DeviceKind, root: Path = Path("/")) -> bool:
    """Returns whether a device of this kind may be here; another ``root`` asks for another machine's files."""
    if kind == "cpu":
        return True
    return any(next(root.glob(pattern), None) is not None for pattern in SIGNS[kind])
