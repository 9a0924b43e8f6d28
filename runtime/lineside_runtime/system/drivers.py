"""Versions of drivers and vendor libraries, read from the kernel's files and the libraries' own names.

No vendor's program is started and no package manager is asked, so that it works the same on every board and can't hang
in a driver. All paths are below a ``root``, so that tests can describe every board.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lineside_runtime.backend import Compatibility

LIBRARY_FOLDERS = (
    "usr/lib",
    "usr/local/lib",
    "usr/local/cuda/lib64",
    "lib",
)
"""Where shared libraries lie; of each also the folder of the machine's triplet, such as ``aarch64-linux-gnu``."""

CUDA_DRIVERS: Mapping[int, int] = {11: 450, 12: 525, 13: 580}
"""CUDA's major version to the oldest driver that it runs on, by NVIDIA's table of minor version compatibility
(https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html). Newer drivers run older CUDA."""

_NUMBERS = re.compile(r"\d+(?:\.\d+)+")


def read_text(path: Path) -> str:
    """Returns a file's text without blanks and NULs around it; empty where it is absent or closed to us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def kernel(root: Path | str = "/") -> str:
    """Returns the kernel's release, such as ``6.12.34+rpt-rpi-2712``."""
    return read_text(Path(root) / "proc/sys/kernel/osrelease")


def module_version(*names: str, root: Path | str = "/") -> str:
    """Returns the version of the first of these kernel modules that is loaded and has one."""
    for name in names:
        version = read_text(Path(root) / "sys/module" / name / "version")
        if version:
            return version.removeprefix("v")
    return ""


def nvidia_driver(root: Path | str = "/") -> str:
    """Returns the version of NVIDIA's kernel driver, such as ``580.95.05``; on a Jetson that of its module."""
    text = read_text(Path(root) / "proc/driver/nvidia/version")
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]+)", text)
    return found[1] if found else module_version("nvidia", root=root)


def jetson_release(root: Path | str = "/") -> str:
    """Returns the release of Jetson Linux, such as ``36.4.3``; empty elsewhere."""
    text = read_text(Path(root) / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def rknpu_driver(root: Path | str = "/") -> str:
    """Returns the version of Rockchip's NPU driver, such as ``0.9.8``; root alone may read it on most kernels."""
    text = read_text(Path(root) / "sys/kernel/debug/rknpu/version") or read_text(Path(root) / "proc/rknpu/version")
    found = _NUMBERS.search(text)
    return found[0] if found else module_version("rknpu", root=root)


def library_file(stem: str, *, root: Path | str = "/") -> Path | None:
    """Returns the file that a shared library's name leads to."""
    for folder in LIBRARY_FOLDERS:
        base = Path(root) / folder
        for where in (base, *sorted(base.glob("*-linux-gnu*"))):
            files = sorted(where.glob(f"{stem}.so*"))
            if files:
                return max(files, key=lambda file: len(_number(file.name)))
    return None


def library_version(stem: str, *, root: Path | str = "/") -> str:
    """Returns a shared library's version by its file name: ``libnvinfer.so.10`` leads to ``libnvinfer.so.10.3.0``.

    Returns:
        The version, or an empty text where the library isn't there or its name says nothing.
    """
    file = library_file(stem, root=root)
    return _number(os.path.realpath(file).rpartition("/")[2]) if file else ""


def text_version(stem: str, mark: str, *, root: Path | str = "/") -> str:
    """Returns the version that stands behind ``mark`` in a shared library, where its name says nothing."""
    file = library_file(stem, root=root)
    if file is None:
        return ""
    try:
        data = file.read_bytes()
    except OSError:
        return ""
    found = re.search(re.escape(mark.encode()) + rb"\D{0,3}(\d+(?:\.\d+)+)", data)
    return found[1].decode() if found else ""


def cuda_fits(cuda: str, driver: str, *, versions: Mapping[str, str]) -> Compatibility:
    """Says whether NVIDIA's driver is new enough for the CUDA that an engine was built for.

    Args:
        cuda: Such as ``12.6``; empty if the engine doesn't tell.
        driver: Such as ``535.129.03``; empty where there is none.
        versions: What `Compatibility.versions` is to hold.
    """
    if not cuda or not driver:
        missing = "the CUDA version that it was built for" if not cuda else "an NVIDIA driver"
        return Compatibility(versions, None if driver else False, f"{missing} isn't found here")
    least = CUDA_DRIVERS.get(int(cuda.split(".")[0]))
    if least is None:
        return Compatibility(versions, None, f"no table says which driver CUDA {cuda} needs")
    fits = int(driver.split(".")[0]) >= least
    return Compatibility(versions, fits, "" if fits else f"CUDA {cuda} needs an NVIDIA driver >= {least}: update it")


def equal_fits(library: str, driver: str, *, versions: Mapping[str, str], product: str) -> Compatibility:
    """Says whether a driver is of the library's version, for vendors that want them equal.

    Args:
        driver: The kernel module's; empty where it isn't loaded.
        versions: What `Compatibility.versions` is to hold.
        product: What the vendor calls it, for the advice.
    """
    if not driver:
        return Compatibility(versions, False, f"the kernel module of {product} isn't loaded: install its driver")
    fits = driver.split("-")[0] == library.split("-")[0]
    advice = f"{product} {library} needs a driver of that very version, here is {driver}: install the pair and reboot"
    return Compatibility(versions, fits, "" if fits else advice)


def _number(name: str) -> str:
    found = re.search(r"\.so\.(\d+(?:\.\d+)*)$", name)
    return found[1] if found else ""
