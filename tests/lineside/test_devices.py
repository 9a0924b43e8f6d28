from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside.commands.engines import devices
from lineside_boards.detect import Board
from lineside_runtime.system import accelerators, probing
from lineside_runtime.system.probing import DeviceReport, EngineReport
from tests.runtime.system.test_drivers import pci

BOARD = Board("Raspberry Pi 5 Model B Rev 1.0", architecture="aarch64", cores=4, memory_bytes=8 << 30)


@pytest.fixture(scope="module")
def listed() -> Any:
    return list(probing.probe(("tensorrt", "hailo", "ort")))


def test_json_has_the_machine_the_engines_and_the_accelerators(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cores"] >= 1 and told["kernel"] and told["memory_bytes"] > 0
    assert [engine["name"] for engine in told["engines"]][:3] == ["tensorrt", "hailo", "rknn"]
    ort = next(engine for engine in told["engines"] if engine["name"] == "ort")
    assert ort["devices"][0]["device"] == "ort/cpu:0"
    assert ort["versions"]["onnxruntime"] == ort["version"]
    for engine in told["engines"]:
        assert engine["available"] or (engine["reason"] and engine["install"])
    assert isinstance(told["accelerators"], list)


def test_the_page_says_what_is_here_what_is_absent_and_how_to_get_it(listed: list[EngineReport]) -> None:
    page = "\n".join(devices._page(BOARD, listed, {}))
    assert page.startswith("Raspberry Pi 5 Model B Rev 1.0: ")
    assert "ort/cpu:0" in page
    assert "hailo: engine 'hailo' is not installed" in page
    assert "to install it: install HailoRT" in page


def test_a_device_that_nobody_has_run_and_one_that_only_stands_for_it_say_so() -> None:
    known = EngineReport(
        name="ncnn",
        available=True,
        devices=(
            DeviceReport(
                device="ncnn/gpu:0", kind="gpu", name="V3D 7.1", memory_bytes=4 << 30, tested_on_hardware=False
            ),
            DeviceReport(device="ncnn/gpu:1", kind="gpu", name="llvmpipe", emulated=True),
            DeviceReport(device="ncnn/gpu:2", kind="gpu", name="Mali", unusable="it can run no node"),
        ),
        versions={"ncnn": "1.0"},
    )
    page = devices._page(BOARD, [known], {})
    assert "  ncnn/gpu:0  V3D 7.1   4.0 GiB  (untested on hardware)" in page
    assert "  ncnn/gpu:1  llvmpipe           (computes on the CPU)" in page
    assert "  ncnn/gpu:2  Mali               (unusable: it can run no node)" in page


def test_versions_that_do_not_fit_are_shown_with_what_to_do() -> None:
    misfit = EngineReport(
        name="hailo",
        available=False,
        reason="[1004] driver mismatch. Do something else.",
        install="install HailoRT",
        versions={"hailort": "4.20.0", "driver": ""},
        fits=False,
        advice="install the pair and reboot",
    )
    page = devices._page(BOARD, [misfit], {})
    assert "  hailo  hailort 4.20.0, driver not found  INCOMPATIBLE" in page
    assert "  hailo: install the pair and reboot" in page
    assert "  hailo: driver mismatch. Do something else" in page


def test_an_accelerator_on_the_bus_without_its_engine_is_named_with_what_it_needs(
    listed: list[EngineReport], tmp_path: Path
) -> None:
    pci(tmp_path, "0000:01:00.0", "1e60", "2864")
    unused = probing.unused(accelerators.find(tmp_path), listed)
    page = "\n".join(devices._page(BOARD, listed, unused))
    assert "Hailo-8, pci 0000:01:00.0 (1e60:2864): needs HailoRT" in page


def test_a_machine_without_any_engine_still_has_a_page() -> None:
    page = devices._page(Board("unknown"), [EngineReport(name="ort", available=False, reason="no", install="pip")], {})
    assert page[0].startswith("this machine: ")
    assert page[-1] == "      to install it: pip"


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "99999"])
def test_a_senseless_timeout_is_wrong_usage(seconds: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["devices", "--timeout", seconds])
    assert caught.value.code == 2
