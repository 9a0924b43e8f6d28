from __future__ import annotations

from pathlib import Path

import pytest

from lineside_boards import inventory, machine_state, profile
from lineside_boards.doctor import examine
from lineside_boards.inventory import Inventory
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from lineside_runtime.system.probing import DeviceReport, EngineReport
from tests.boards import machines

ORT = EngineReport(
    name="ort",
    available=True,
    version="1.23.2",
    devices=(DeviceReport(device="ort/cpu:0", kind="cpu"),),
    versions={"onnxruntime": "1.23.2"},
)


def words(found: Inventory) -> dict[str, str]:
    name = found.board if found.profiles else ""
    return {one.what: one.level for one in examine(found, profile.load(name) if name else None)}


def test_pi_on_a_card_is_told_whole(tmp_path: Path) -> None:
    found = inventory.take(machines.raspberry_pi_5(tmp_path), machine="aarch64", engines=(ORT,))
    assert (found.board, found.profiles) == ("rpi5", ("rpi5",))
    assert found.temperature_c == 51.25
    assert found.throttling == ()
    assert (found.storage.kind, found.storage.device, found.storage.name) == ("card", "mmcblk0", "SD32G")
    assert found.storage.size_bytes == 62333952 * 512
    assert found.storage.errors == 0
    assert [(camera.device, camera.name) for camera in found.cameras] == [("/dev/video0", "UVC Camera")]
    assert [one.name for one in found.accelerators] == ["VideoCore VII (Raspberry Pi 5)"]


def test_jetson_has_no_temperature_from_sensors_that_are_off(tmp_path: Path) -> None:
    found = inventory.take(machines.jetson_orin_nano(tmp_path), machine="aarch64")
    assert (found.board, found.jetson_release) == ("jetson-orin-nano", "36.4.3")
    assert found.temperature_c == 48.562
    assert found.throttling is None
    assert (found.storage.kind, found.storage.name) == ("nvme", "Samsung SSD 980")
    assert found.storage.errors is None


def test_an_empty_root_is_an_unknown_board_and_no_error_and_this_machine_has_a_disk_or_says_that_it_has_none(
    tmp_path: Path,
) -> None:
    found = inventory.take(tmp_path, machine="riscv64")
    assert (found.board, found.model, found.temperature_c, found.throttling) == ("unknown", "unknown", None, None)
    assert (found.accelerators, found.cameras, found.storage.device) == ((), (), "")
    assert any("no profile describes" in what for what in words(found))
    here = machine_state.storage()
    assert here.free_bytes > 0
    assert here.kind in ("card", "emmc", "nvme", "usb", "disk", "")


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ("0", ()),
        ("0x50000", ("under-voltage since it was started", "throttled since it was started")),
        ("40005", ("under-voltage now", "throttled now", "throttled since it was started")),
        ("rubbish", None),
    ],
)
def test_firmware_says_why_the_board_is_slow(tmp_path: Path, bits: str, expected: tuple[str, ...] | None) -> None:
    assert machine_state.throttling(machines.raspberry_pi_5(tmp_path, throttled=bits)) == expected


def test_held_down_clock_and_hot_package_are_told(tmp_path: Path) -> None:
    files = {
        "sys/class/thermal/cooling_device3/type": "cpufreq-cpu0\n",
        "sys/class/thermal/cooling_device3/cur_state": "4\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "17\n",
    }
    assert machine_state.throttling(machines.write(tmp_path, files)) == (
        "cpufreq-cpu0 held down by 4 steps now",
        "package throttled 17 times since it was started",
    )


def test_doctor_has_nothing_but_notes_for_a_healthy_pi_and_names_a_weak_supply_and_heat(tmp_path: Path) -> None:
    found = inventory.take(machines.raspberry_pi_5(tmp_path / "well"), machine="aarch64", engines=(ORT,))
    assert {level for what, level in words(found).items() if "VideoCore" not in what} <= {"note"}
    root = machines.raspberry_pi_5(tmp_path / "weak", throttled="0x50005", temperature="83000")
    told = words(inventory.take(root, machine="aarch64", engines=(ORT,)))
    assert told["under-voltage now"] == "error"
    assert told["83 °C; it slows down from 80 °C on"] == "warning"


def test_doctor_says_how_a_plugged_in_accelerator_gets_used(tmp_path: Path) -> None:
    found = inventory.take(machines.raspberry_pi_5(tmp_path, hailo=True), machine="aarch64", engines=(ORT,))
    assert found.board == "rpi5-hailo"
    hailo = next(one for one in found.accelerators if one.name == "Hailo-8")
    assert not hailo.usable
    assert "no kernel driver holds it" in hailo.advice
    told = [one for one in examine(found, profile.load("rpi5-hailo")) if one.what.startswith("Hailo-8")]
    assert [one.level for one in told] == ["warning"]
    assert "hailo-all" in told[0].action


def test_doctor_says_that_a_bundle_leaves_a_jetsons_gpu_idle(tmp_path: Path) -> None:
    gpu = DeviceReport(device="tensorrt/gpu:0", kind="gpu", name="Orin")
    tensorrt = EngineReport(name="tensorrt", available=True, version="10.3.0", devices=(gpu,))
    root, bundle = machines.jetson_orin_nano(tmp_path), open_bundle(zoo.path("surface-12"))
    found = inventory.take(root, machine="aarch64", engines=(tensorrt, ORT), bundle=bundle)
    what = "no variant of the bundle runs on tensorrt, the best engine of this board: ort inspects"
    (finding,) = (one for one in examine(found, profile.load(found.board)) if one.what == what)
    assert finding.level == "warning" and "lineside bundle show" in finding.action
    without = inventory.take(root, machine="aarch64", engines=(ORT,), bundle=bundle)
    assert what not in words(without)


@pytest.mark.parametrize(
    ("chip", "board"), [("Hailo-8", "rpi5-hailo"), ("Hailo-8L", "rpi5-hailo8l"), ("", "rpi5-hailo")]
)
def test_hailort_tells_a_hailo_8l_from_a_hailo_8(chip: str, board: str, tmp_path: Path) -> None:
    device = DeviceReport(device="hailo/npu:0", kind="npu", name=chip)
    hailo = EngineReport(name="hailo", available=True, devices=(device,))
    found = inventory.take(machines.raspberry_pi_5(tmp_path, hailo=True), machine="aarch64", engines=(hailo, ORT))
    assert found.profiles == (board, "rpi5")


def test_doctor_says_that_driver_and_library_do_not_fit(tmp_path: Path) -> None:
    hailo = EngineReport(
        name="hailo",
        available=True,
        devices=(DeviceReport(device="hailo/npu:0", kind="npu"),),
        versions={"hailort": "4.20", "driver": "4.19"},
        fits=False,
        advice="install the pair",
    )
    found = inventory.take(machines.raspberry_pi_5(tmp_path, hailo=True), machine="aarch64", engines=(hailo, ORT))
    one = next(one for one in found.accelerators if one.name == "Hailo-8")
    assert (one.usable, one.fits, one.versions["driver"]) == (True, False, "4.19")
    assert words(found)["Hailo-8: driver and library don't fit"] == "error"


@pytest.mark.parametrize(
    ("life", "reserve", "errors", "level"),
    [
        ("0x01 0x01", "0x01", "0", None),
        ("0x08 0x03", "0x01", "0", "warning"),
        ("0x02 0x02", "0x02", "0", "warning"),
        ("0x0b 0x01", "0x01", "0", "error"),
        ("0x01 0x01", "0x03", "0", "error"),
        ("", "", "3", "error"),
    ],
)
def test_worn_disk_is_found_before_it_dies(
    tmp_path: Path, life: str, reserve: str, errors: str, level: str | None
) -> None:
    found = inventory.take(machines.emmc(tmp_path, life=life, reserve=reserve, errors=errors), machine="aarch64")
    assert found.storage.read_only
    assert found.storage.kind == "emmc"
    told = [level for what, level in words(found).items() if "emmc" in what]
    assert told == ([level] if level else [])


def test_bundle_is_held_against_the_engines(tmp_path: Path) -> None:
    bundle = open_bundle(zoo.path("surface-12"))
    root = machines.raspberry_pi_5(tmp_path)
    able = inventory.take(root, machine="aarch64", engines=(ORT,), bundle=bundle)
    assert [one.engine for one in able.bundle or ()] == ["ort", "ort", "ort", "", ""], "one for each of its variants"
    absent = EngineReport(name="ort", available=False, reason="not installed")
    unable = inventory.take(root, machine="aarch64", engines=(absent,), bundle=bundle)
    assert [one.reason for one in unable.bundle or ()][:3] == 3 * ["ort: not installed"]
    told = words(unable)
    assert any(level == "error" and "onnx-int8" in what for what, level in told.items())


def test_clock_that_nobody_has_set_is_told(tmp_path: Path) -> None:
    root = machines.raspberry_pi_5(tmp_path)
    assert machine_state.clock_synchronised(root) is None
    machines.write(root, {"run/systemd/timesync/clock": ""})
    assert machine_state.clock_synchronised(root) is False
    assert words(inventory.take(root, machine="aarch64"))["the clock has not been set by the network"] == "warning"
    machines.write(root, {"run/systemd/timesync/synchronized": ""})
    assert machine_state.clock_synchronised(root) is True
