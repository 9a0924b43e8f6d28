"""Find the accelerators of this machine in the kernel's lists, whether or not an engine for them is installed.

No device is opened, so a hung device can't hang this process. All paths are below a ``root``, for tests.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lineside_runtime.devices import DeviceKind
from lineside_runtime.system.drivers import read_text


@dataclasses.dataclass(frozen=True, slots=True)
class Accelerator:
    """A processor that the kernel lists.

    Attributes:
        name: For people, such as ``Hailo-8``.
        kind: ``npu`` or ``gpu``.
        engines: The engines that could use it, best first.
        where: Bus and address, such as ``pci 0000:01:00.0 (1e60:2864)``.
        driver: The kernel driver that holds it; empty if none does.
        needs: What has to be installed before an engine can use it.
    """

    name: str
    kind: DeviceKind
    engines: tuple[str, ...]
    where: str
    driver: str = ""
    needs: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    name: str
    kind: DeviceKind
    engines: tuple[str, ...]
    needs: str


_HAILO = "HailoRT and its driver, of one version (Raspberry Pi OS: apt install dkms hailo-all)"
_HAILO10 = "HailoRT 5 and its driver, of one version (Raspberry Pi OS: apt install hailo-h10-all)"
_CORAL = "the gasket and apex drivers and libedgetpu"
_CORAL_USB = "libedgetpu"
_NVIDIA = "NVIDIA's driver, and TensorRT or onnxruntime-gpu"
_INTEL_GPU = "intel-opencl-icd or level-zero with intel-level-zero-gpu, and pip install 'lineside[openvino]'"
_INTEL_NPU = (
    "Intel's NPU driver (intel-level-zero-npu, intel-driver-compiler-npu, intel-fw-npu), "
    "and pip install 'lineside[openvino]'"
)
_AMD_NPU = "AMD's XDNA driver and onnxruntime with VitisAI"
_AMD_GPU = (
    "ROCm with migraphx and onnxruntime-migraphx in place of onnxruntime, "
    "or Mesa's Vulkan driver and pip install 'lineside[ncnn]'"
)
_ROCKCHIP = "the vendor's kernel with its rknpu driver, librknnrt.so, and pip install rknn-toolkit-lite2"
_QUALCOMM = "pip install onnxruntime-qnn, which is a plug-in of ONNX Runtime, and the kernel's fastrpc driver"
_IMX500 = "picamera2 0.3.38 and the camera's firmware (Raspberry Pi OS: apt install imx500-all python3-picamera2)"
_CAMBRICON = "Cambricon's driver and Neuware SDK, and torch with torch_mlu, which run where the engine torch is named"
_VULKAN = "Mesa's Vulkan driver (mesa-vulkan-drivers), and pip install 'lineside[ncnn]'"

PCI = {
    "1e60:2864": _Known("Hailo-8", "npu", ("hailo",), _HAILO),
    "1e60:45c4": _Known("Hailo-10H", "npu", ("hailo",), _HAILO10),
    "1e60:43a2": _Known("Hailo-15L", "npu", ("hailo",), _HAILO10),
    "1ac1:089a": _Known("Coral Edge TPU", "npu", ("litert",), _CORAL),
    "8086:7d1d": _Known("Intel NPU (Meteor Lake)", "npu", ("openvino",), _INTEL_NPU),
    "8086:ad1d": _Known("Intel NPU (Arrow Lake)", "npu", ("openvino",), _INTEL_NPU),
    "8086:643e": _Known("Intel NPU (Lunar Lake)", "npu", ("openvino",), _INTEL_NPU),
    "8086:b03e": _Known("Intel NPU (Panther Lake)", "npu", ("openvino",), _INTEL_NPU),
    "cabc:0370": _Known("Cambricon MLU370", "npu", ("torch",), _CAMBRICON),
    "cabc:0371": _Known("Cambricon MLU370, virtual function", "npu", ("torch",), _CAMBRICON),
    "1022:1502": _Known("AMD XDNA NPU", "npu", ("ort",), _AMD_NPU),
    "1022:17f0": _Known("AMD XDNA 2 NPU", "npu", ("ort",), _AMD_NPU),
}
"""Vendor and device number. Sources: hailort-drivers' ``pcie.h``, gasket-driver's ``apex_driver.c``, Linux'
``ivpu_drv.h`` and ``amdxdna_pci_drv.c``, and ``cndrv_core.h`` of Cambricon's driver."""

PCI_DISPLAYS = {
    "10de": _Known("NVIDIA GPU", "gpu", ("tensorrt", "ort", "torch"), _NVIDIA),
    "8086": _Known("Intel GPU", "gpu", ("openvino", "ncnn"), _INTEL_GPU),
    "1002": _Known("AMD GPU", "gpu", ("ort", "ncnn"), _AMD_GPU),
}
"""Vendors of what calls itself a display controller (class 03xxxx) or a 3D controller."""

USB = {
    "1a6e:089a": _Known("Coral Edge TPU, before its first use", "npu", ("litert",), _CORAL_USB),
    "18d1:9302": _Known("Coral Edge TPU", "npu", ("litert",), _CORAL_USB),
}
"""The accelerator changes its number when its firmware is loaded."""

BUILT_IN = {
    "nvidia,tegra234": _Known("Jetson Orin's GPU", "gpu", ("tensorrt", "ort"), "JetPack 6"),
    "nvidia,tegra194": _Known("Jetson Xavier's GPU", "gpu", ("tensorrt", "ort"), "JetPack 5"),
    "nvidia,tegra264": _Known("Jetson Thor's GPU", "gpu", ("tensorrt", "ort"), "JetPack 7"),
    "rockchip,rk3588": _Known("RK3588's NPU", "npu", ("rknn",), _ROCKCHIP),
    "rockchip,rk3588s": _Known("RK3588S's NPU", "npu", ("rknn",), _ROCKCHIP),
    "rockchip,rk3576": _Known("RK3576's NPU", "npu", ("rknn",), _ROCKCHIP),
    "rockchip,rk3568": _Known("RK3568's NPU", "npu", ("rknn",), _ROCKCHIP),
    "rockchip,rk3566": _Known("RK3566's NPU", "npu", ("rknn",), _ROCKCHIP),
    "rockchip,rk3562": _Known("RK3562's NPU", "npu", ("rknn",), _ROCKCHIP),
    "qcom,qcm6490": _Known("Qualcomm Hexagon NPU (QCS6490)", "npu", ("ort",), _QUALCOMM),
    "brcm,bcm2712": _Known("VideoCore VII (Raspberry Pi 5)", "gpu", ("ncnn",), _VULKAN),
}
"""Processors by the device tree's ``compatible``."""

I2C = {"imx500": _Known("Sony IMX500", "npu", ("imx500",), _IMX500)}
"""Image sensors that infer, by the name that the kernel gives a device on I2C: its ``compatible`` without the maker."""

_KNOWN = tuple(one for table in (PCI, PCI_DISPLAYS, USB, BUILT_IN, I2C) for one in table.values())


def find(root: Path | str = "/") -> tuple[Accelerator, ...]:
    """Returns the accelerators that the kernel sees, those that are built in first."""
    base = Path(root)
    return (*_built_in(base), *_on_pci(base), *_on_usb(base), *_on_i2c(base))


def is_named(name: str, family: str) -> bool:
    """Returns whether an accelerator belongs to a family: ``Intel NPU (Lunar Lake)`` is an ``Intel NPU``."""
    return re.match(rf"{re.escape(family)}\b", name) is not None


def kind_for(engine: str, families: Iterable[str]) -> DeviceKind:
    """Returns what an engine computes on where there are these accelerators; ``cpu`` if it can use none of them."""
    wanted = tuple(families)
    kinds = {one.kind for one in _KNOWN if engine in one.engines and any(is_named(one.name, name) for name in wanted)}
    return "npu" if "npu" in kinds else "gpu" if "gpu" in kinds else "cpu"


def compatible(root: Path | str = "/") -> tuple[str, ...]:
    """Returns the device tree's names of this board, most special first; empty on a PC."""
    text = read_text(Path(root) / "proc/device-tree/compatible")
    return tuple(name for name in text.split("\0") if name)


def _built_in(base: Path) -> Iterator[Accelerator]:
    for name in compatible(base):
        known = BUILT_IN.get(name)
        if known is not None:
            driver = _npu_driver(base) if known.kind == "npu" else ""
            yield _accelerator(known, f"device tree {name}", driver)
            return


def _npu_driver(base: Path) -> str:
    """``rknpu`` is the vendor's; mainline's ``rocket`` is another interface, which RKNN doesn't speak."""
    for device in sorted((base / "sys/bus/platform/devices").glob("*.npu*")):
        driver = _driver(device)
        if driver:
            return driver
    return ""


def _on_pci(base: Path) -> Iterator[Accelerator]:
    for device in sorted((base / "sys/bus/pci/devices").glob("*")):
        vendor, number, kind = (read_text(device / key).removeprefix("0x") for key in ("vendor", "device", "class"))
        known = PCI.get(f"{vendor}:{number}")
        if known is None and kind.startswith("03"):
            known = PCI_DISPLAYS.get(vendor)
        if known is not None:
            yield _accelerator(known, f"pci {device.name} ({vendor}:{number})", _driver(device))


def _on_usb(base: Path) -> Iterator[Accelerator]:
    for device in sorted((base / "sys/bus/usb/devices").glob("*")):
        number = f"{read_text(device / 'idVendor')}:{read_text(device / 'idProduct')}"
        if number in USB:
            yield _accelerator(USB[number], f"usb {device.name} ({number})", "usb")


def _on_i2c(base: Path) -> Iterator[Accelerator]:
    for device in sorted((base / "sys/bus/i2c/devices").glob("*")):
        known = I2C.get(read_text(device / "name"))
        if known is not None:
            yield _accelerator(known, f"i2c {device.name}", _driver(device))


def _driver(device: Path) -> str:
    link = device / "driver"
    return link.resolve().name if link.is_symlink() else ""


def _accelerator(known: _Known, where: str, driver: str) -> Accelerator:
    return Accelerator(known.name, known.kind, known.engines, where, driver, known.needs)
