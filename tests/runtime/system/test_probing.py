from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lineside_runtime import registry
from lineside_runtime.system import probing
from lineside_runtime.system.accelerators import Accelerator
from lineside_runtime.system.probing import DeviceReport, EngineReport

Engines = Callable[..., None]

ENGINE = """
from lineside_runtime.backend import Backend, Compatibility
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceLostError

class Mine(Backend):
    name, package, formats = "mine", "mine", frozenset({"onnx"})
    version = "1"
    def _probe(self):
        return [Device("npu", name="mine", memory_bytes=5)]
    def _load(self, model, device, options):
        raise DeviceLostError("no")
    def _vendor_errors(self):
        return ()
    def _translate(self, error, stage):
        return DeviceLostError(str(error))
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Installs engines of somebody else's: a name, and the Python of its module."""

    def install(**modules: str) -> None:
        entries = []
        for name, code in modules.items():
            (tmp_path / f"engine_{name}.py").write_text(code)
            entries.append(f"{name} = engine_{name}:Mine")
        info = tmp_path / "third_party-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{registry.ENTRY_POINTS}]", *entries]))
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    return install


def test_every_known_engine_is_reported_in_the_order_of_preference() -> None:
    reports = probing.probe(("ort", "tensorrt"))
    assert [report.name for report in reports] == ["ort", "tensorrt"]
    assert reports[0].available and reports[0].versions["onnxruntime"] == reports[0].version
    assert any(device.device == "ort/cpu:0" and device.tested_on_hardware for device in reports[0].devices)
    assert reports[1] == EngineReport(
        name="tensorrt",
        available=False,
        reason=str(registry.missing("tensorrt")),
        install=registry.install_hint("tensorrt"),
    )


def test_an_engine_of_somebody_elses_is_asked_in_a_process_of_its_own(engines: Engines) -> None:
    engines(mine=ENGINE)
    assert "mine" in registry.names()
    (report,) = probing.probe(("mine",))
    assert report.devices == (DeviceReport(device="mine/npu:0", kind="npu", name="mine", memory_bytes=5),)
    assert report.versions == {"mine": "1"}
    assert "engine_mine" not in sys.modules


def test_an_engine_that_crashes_or_hangs_takes_nothing_with_it(engines: Engines) -> None:
    engines(
        crash="import os\nos.abort()",
        hang="import threading\nprint('waiting', flush=True)\nthreading.Event().wait()",
        bug=ENGINE.replace('return [Device("npu", name="mine", memory_bytes=5)]', "return 1 / 0"),
        noisy="import os\nprint('hello')\nos.write(1, b'hello')\n" + ENGINE,
    )
    crash, hang, bug, noisy = probing.probe(("crash", "hang", "bug", "noisy"), timeout_s=8.0)
    assert not crash.available and "SIGABRT" in crash.reason
    assert not hang.available and "did not answer within 8 s" in hang.reason
    assert not bug.available and "ZeroDivisionError" in bug.reason
    assert noisy.available


def test_a_device_that_runs_no_network_is_unusable_and_says_why(engines: Engines) -> None:
    two = ENGINE.replace("[Device(", '[Device("cpu"), Device(')
    engines(
        refuses=two,
        crashes=two.replace('raise DeviceLostError("no")', "import os; os.abort()"),
        hangs=two.replace('raise DeviceLostError("no")', "import threading; threading.Event().wait()"),
    )
    refuses, crashes, hangs = probing.probe(("refuses", "crashes", "hangs"), timeout_s=8.0, trial=True)
    assert [device.unusable for device in refuses.devices] == ["no", "no"]
    for report, why in ((crashes, "SIGABRT"), (hangs, "did not answer within 8 s")):
        assert report.available and why in report.devices[0].unusable
        assert report.devices[1].unusable == "", "it was not tried"
    (untried,) = probing.probe(("refuses",))
    assert [device.unusable for device in untried.devices] == ["", ""]


def test_a_device_that_runs_a_network_is_usable() -> None:
    (ort,) = probing.probe(("ort",), trial=True)
    assert ort.devices and not any(device.unusable for device in ort.devices if device.device == "ort/cpu:0")


def test_a_device_of_an_engine_that_the_suite_has_no_file_for_is_not_tried(engines: Engines) -> None:
    engines(own=ENGINE.replace('frozenset({"onnx"})', 'frozenset({"mine"})'))
    (report,) = probing.probe(("own",), trial=True)
    assert report.devices[0].unusable == ""


def test_what_an_engine_that_hangs_has_started_is_ended_with_it(engines: Engines, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    engines(
        parent="import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\nchild.wait()"
    )
    (report,) = probing.probe(("parent",), timeout_s=8.0)
    assert "did not answer" in report.reason
    state = Path(f"/proc/{pid_file.read_text()}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"  # dead, and not yet fetched


def test_an_engine_without_a_device_still_tells_what_does_not_fit(engines: Engines) -> None:
    engines(
        misfit=ENGINE.replace('[Device("npu", name="mine", memory_bytes=5)]', "[]")
        + "    def _compatibility(self):\n"
        + "        return Compatibility({'driver': '4.19.0'}, False, 'install the pair')\n"
    )
    (report,) = probing.probe(("misfit",))
    assert not report.available and report.reason == "it finds no device here"
    assert (report.versions, report.fits, report.advice) == ({"driver": "4.19.0"}, False, "install the pair")


def test_in_this_process_it_is_the_same_as_in_its_own(numpy_engine: ModuleType) -> None:
    in_process = probing.report("numpy")
    assert in_process.available
    assert probing.probe(("numpy",)) == (in_process,)
    assert not probing.report("absent").available


HAILO = Accelerator("Hailo-8", "npu", ("hailo",), "pci 0000:01:00.0 (1e60:2864)", "", "HailoRT")


def test_an_accelerator_that_no_engine_uses_is_told_with_what_it_needs() -> None:
    absent = EngineReport(name="hailo", available=False, reason="not installed")
    assert probing.unused([HAILO], [absent]) == {HAILO: "needs HailoRT; no kernel driver holds it"}
    device = DeviceReport(device="hailo/npu:0", kind="npu")
    assert probing.unused([HAILO], [EngineReport(name="hailo", available=True, devices=(device,))]) == {}


def test_an_emulated_device_does_not_use_an_accelerator() -> None:
    gpu = Accelerator("VideoCore VII", "gpu", ("ncnn",), "device tree brcm,bcm2712", "v3d", "Mesa's Vulkan driver")
    llvmpipe = DeviceReport(device="ncnn/gpu:0", kind="gpu", emulated=True)
    hints = probing.unused([gpu], [EngineReport(name="ncnn", available=True, devices=(llvmpipe,))])
    assert hints == {gpu: "needs Mesa's Vulkan driver"}
    failing = DeviceReport(device="ncnn/gpu:0", kind="gpu", unusable="no")
    assert probing.unused([gpu], [EngineReport(name="ncnn", available=True, devices=(failing,))]) == hints


def test_an_engine_in_the_systems_python_is_told_with_how_to_use_it(tmp_path: Path) -> None:
    assert probing.system_python_hint("hailo", tmp_path) == ""
    (tmp_path / "usr/lib/python3/dist-packages/hailo_platform").mkdir(parents=True)
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    assert "isolate=('hailo=/usr/bin/python3',)" in probing.system_python_hint("hailo", tmp_path)
    assert "python3.10/dist-packages" in probing.system_python_hint("tensorrt", tmp_path)
    assert probing.system_python_hint("null", tmp_path) == probing.system_python_hint("abacus", tmp_path) == ""
