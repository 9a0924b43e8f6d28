from __future__ import annotations

from pathlib import Path

import pytest

from lineside_runtime.backends.openvino_ import intel_compatibility
from lineside_runtime.system import accelerators, drivers
from tests.boards.machines import write


def pci(root: Path, address: str, vendor: str, device: str, kind: str = "0x120000", driver: str = "") -> None:
    """A PCI function as sysfs shows it."""
    where = f"sys/bus/pci/devices/{address}"
    write(root, {f"{where}/vendor": f"0x{vendor}\n", f"{where}/device": f"0x{device}\n", f"{where}/class": f"{kind}\n"})
    if driver:
        (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True)
        (root / where / "driver").symlink_to(root / "sys/bus/pci/drivers" / driver)


def library(root: Path, folder: str, name: str, *links: str) -> None:
    write(root, {f"{folder}/{name}": ""})
    for link in links:
        (root / folder / link).symlink_to(name)


def test_this_machine_can_be_asked_for_everything() -> None:
    assert drivers.kernel()[0].isdigit()
    for one in accelerators.find():
        assert one.name and one.engines and one.where


def test_an_empty_machine_has_nothing(tmp_path: Path) -> None:
    assert accelerators.find(tmp_path) == ()
    asked = (drivers.kernel, drivers.nvidia_driver, drivers.rknpu_driver, drivers.jetson_release)
    assert [question(tmp_path) for question in asked] == ["", "", "", ""]
    assert drivers.library_file("libnvinfer", root=tmp_path) is None


def test_a_hailo_on_the_bus_is_named_with_its_driver(tmp_path: Path) -> None:
    pci(tmp_path, "0000:01:00.0", "1e60", "2864", driver="hailo")
    (found,) = accelerators.find(tmp_path)
    assert (found.name, found.kind, found.engines, found.driver) == ("Hailo-8", "npu", ("hailo",), "hailo")
    assert found.where == "pci 0000:01:00.0 (1e60:2864)"
    assert "HailoRT" in found.needs


def test_a_device_that_no_driver_holds_says_so(tmp_path: Path) -> None:
    pci(tmp_path, "0000:01:00.0", "1e60", "45c4")
    (found,) = accelerators.find(tmp_path)
    assert (found.name, found.driver) == ("Hailo-10H", "")


@pytest.mark.parametrize(("kind", "seen"), [("0x030000", 1), ("0x030200", 1), ("0x020000", 0), ("0x040300", 0)])
def test_nvidias_cards_are_told_from_its_sound_and_network_by_their_class(kind: str, seen: int, tmp_path: Path) -> None:
    pci(tmp_path, "0000:65:00.0", "10de", "2231", kind)
    assert len(accelerators.find(tmp_path)) == seen


def test_a_coral_on_usb_is_seen_before_and_after_its_first_use(tmp_path: Path) -> None:
    for port, (vendor, product) in {"1-1": ("1a6e", "089a"), "2-1": ("18d1", "9302"), "3-1": ("18d1", "4ee7")}.items():
        where = f"sys/bus/usb/devices/{port}"
        write(tmp_path, {f"{where}/idVendor": vendor, f"{where}/idProduct": product})
    found = accelerators.find(tmp_path)
    assert [one.where for one in found] == ["usb 1-1 (1a6e:089a)", "usb 2-1 (18d1:9302)"]
    assert all(one.engines == ("litert",) for one in found)


@pytest.mark.parametrize(
    ("compatible", "name", "engine"),
    [
        ("nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0", "Jetson Orin's GPU", "tensorrt"),
        ("radxa,rock-5b\0rockchip,rk3588\0", "RK3588's NPU", "rknn"),
        ("nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0", "Jetson Thor's GPU", "tensorrt"),
        ("qcom,qcs6490-rb3gen2\0qcom,qcm6490\0", "Qualcomm Hexagon NPU (QCS6490)", "ort"),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", "VideoCore VII (Raspberry Pi 5)", "ncnn"),
    ],
)
def test_what_is_built_in_is_known_by_the_device_tree(compatible: str, name: str, engine: str, tmp_path: Path) -> None:
    write(tmp_path, {"proc/device-tree/compatible": compatible})
    (found,) = accelerators.find(tmp_path)
    assert found.name == name
    assert found.engines[0] == engine


def test_cambricons_cards_are_torchs(tmp_path: Path) -> None:
    pci(tmp_path, "0000:3b:00.0", "cabc", "0370", "0x120000")
    (card,) = accelerators.find(tmp_path)
    assert (card.name, card.kind, card.engines) == ("Cambricon MLU370", "npu", ("torch",))
    assert accelerators.kind_for("torch", ["Cambricon MLU370"]) == "npu"


def test_a_sensor_that_infers_is_seen(tmp_path: Path) -> None:
    write(tmp_path, {"sys/bus/i2c/devices/10-001a/name": "imx500\n", "sys/bus/i2c/devices/10-0040/name": "rp2040\n"})
    (found,) = accelerators.find(tmp_path)
    assert (found.name, found.where, found.engines) == ("Sony IMX500", "i2c 10-001a", ("imx500",))


@pytest.mark.parametrize(
    ("engine", "families", "kind"),
    [
        ("litert", ("Coral Edge TPU",), "npu"),
        ("openvino", ("Intel NPU",), "npu"),
        ("ort", ("Qualcomm Hexagon NPU",), "npu"),
        ("ort", ("AMD GPU",), "gpu"),
        ("ort", ("Sony IMX500",), "cpu"),
        ("ort", ("RK3588",), "cpu"),
        ("rknn", ("RK3588",), "npu"),
        ("ort", (), "cpu"),
    ],
)
def test_engine_computes_on_the_accelerators_that_it_can_use(engine: str, families: tuple[str, ...], kind: str) -> None:
    assert accelerators.kind_for(engine, families) == kind


def test_nvidias_driver_tells_its_version_on_a_pc_and_on_a_jetson(tmp_path: Path) -> None:
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12\n"
    pc = write(tmp_path / "pc", {"proc/driver/nvidia/version": open_module})
    assert drivers.nvidia_driver(pc) == "580.95.05"
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
    assert drivers.nvidia_driver(write(tmp_path / "old", {"proc/driver/nvidia/version": closed})) == "535.129.03"
    jetson = write(tmp_path / "jetson", {"sys/module/nvidia/version": "540.4.0\n"})
    assert drivers.nvidia_driver(jetson) == "540.4.0"
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    assert drivers.jetson_release(write(tmp_path / "jetson", {"etc/nv_tegra_release": release})) == "36.4.3"


def test_modules_and_the_rknpu_driver_tell_their_versions(tmp_path: Path) -> None:
    files = {"sys/module/hailo_pci/version": "4.20.0\n", "sys/kernel/debug/rknpu/version": "RKNPU driver: v0.9.8\n"}
    root = write(tmp_path, files)
    assert drivers.module_version("hailo1x_pci", "hailo_pci", root=root) == "4.20.0"
    assert drivers.rknpu_driver(root) == "0.9.8"


def test_a_library_tells_its_version_by_the_name_that_its_links_lead_to(tmp_path: Path) -> None:
    library(tmp_path, "usr/lib/aarch64-linux-gnu", "libnvinfer.so.10.3.0", "libnvinfer.so.10", "libnvinfer.so")
    library(tmp_path, "usr/lib", "libnvinfer_plugin.so.9.0.0")
    assert drivers.library_version("libnvinfer", root=tmp_path) == "10.3.0"
    library(tmp_path, "usr/lib", "libedgetpu.so")
    assert drivers.library_version("libedgetpu", root=tmp_path) == ""


def test_the_c_library_of_this_machine_is_found() -> None:
    file = drivers.library_file("libc")
    assert file is not None and file.name.startswith("libc.so")


def test_a_library_may_tell_its_version_inside(tmp_path: Path) -> None:
    write(tmp_path, {"usr/lib/librknnrt.so": "\x7fELF...librknnrt version: 2.3.2 (429f97ae6b@2025-04-09)\0"})
    assert drivers.text_version("librknnrt", "librknnrt version: ", root=tmp_path) == "2.3.2"
    assert drivers.text_version("librknnrt", "another mark", root=tmp_path) == ""


@pytest.mark.parametrize(
    ("cuda", "driver", "fits"),
    [
        ("12.6", "525.60.13", True),
        ("12.6", "470.256.02", False),
        ("13.0", "575.57.08", False),
        ("13.0", "580.95.05", True),
        ("11.8", "580.95.05", True),
        ("12.6", "", False),
        ("", "580.95.05", None),
        ("99.0", "580.95.05", None),
    ],
)
def test_cuda_needs_a_driver_that_is_new_enough(cuda: str, driver: str, fits: bool | None) -> None:
    found = drivers.cuda_fits(cuda, driver, versions={"cuda": cuda})
    assert found.fits is fits
    assert bool(found.advice) is (fits is not True)


@pytest.mark.parametrize(("driver", "fits"), [("4.20.0", True), ("4.20.0-1", True), ("4.19.0", False), ("", False)])
def test_a_pair_that_must_be_equal(driver: str, fits: bool) -> None:
    found = drivers.equal_fits("4.20.0", driver, versions={}, product="HailoRT")
    assert found.fits is fits
    assert bool(found.advice) is not fits


def test_openvino_must_see_each_intel_accelerator_that_is_there(tmp_path: Path) -> None:
    assert intel_compatibility({"openvino": "1"}, {"cpu"}, tmp_path).fits is None
    pci(tmp_path, "0000:00:0b.0", "8086", "643e", driver="intel_vpu")
    library(tmp_path, "usr/lib/x86_64-linux-gnu", "libze_loader.so.1.21.1", "libze_loader.so.1")
    blind = intel_compatibility({"openvino": "1"}, {"cpu"}, tmp_path)
    assert blind.fits is False
    assert "Intel NPU (Lunar Lake)" in blind.advice and "intel-level-zero-npu" in blind.advice
    assert blind.versions == {"openvino": "1", "Level Zero loader": "1.21.1", "NPU driver": ""}
    library(tmp_path, "usr/lib/x86_64-linux-gnu", "libze_intel_npu.so.1.19.0", "libze_intel_npu.so.1")
    seen = intel_compatibility({"openvino": "1"}, {"cpu", "npu"}, tmp_path)
    assert (seen.fits, seen.advice, seen.versions["NPU driver"]) == (True, "", "1.19.0")
