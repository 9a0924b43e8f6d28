"""RKNN without an NPU; `tests/system/test_rknn_simulator.py` runs models on the vendor's simulator."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside_runtime.backends import rknn
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from tests.boards.machines import write

ROCK_5B = "radxa,rock-5b\0rockchip,rk3588\0"


def board(root: Path, compatible: str = ROCK_5B, *, driver: str = "RKNPU", library: bool = True) -> Path:
    write(root, {"proc/device-tree/compatible": compatible})
    device = root / "sys/bus/platform/devices/fdab0000.npu"
    device.mkdir(parents=True)
    if driver:
        (root / "sys/bus/platform/drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(root / "sys/bus/platform/drivers" / driver)
    if library:
        write(root, {"usr/lib/librknnrt.so": "librknnrt version: 2.3.2 (429f97ae6b@2025-04-09)"})
    return root


def model_file(path: Path, *, platforms: tuple[str, ...] = ("rk3588",), graph: bytes = b"static_shape\0") -> Path:
    """A file laid out as the vendor's converter lays it out, without a graph that could run."""
    tensors = [
        {"tensor_id": 0, "size": [1, 3, 8, 8], "url": "image"},
        {"tensor_id": 1, "size": [1, 4], "url": "boxes"},
        {"tensor_id": 2, "size": [1, 2], "url": "scores"},
    ]
    edges = [("output", 1, 2), ("input", 0, 0), ("output", 0, 1)]
    facts = {
        "norm_tensor": tensors,
        "graph": [
            {"left": side, "left_tensor_id": index, "right": "norm_tensor", "right_tensor_id": tensor}
            for side, index, tensor in edges
        ],
        "target_platform": list(platforms),
        "version": "2.5.0",
    }
    text = json.dumps(facts).encode()
    header = struct.pack("<4sIQQ", b"RKNN", 0, 6, len(graph)).ljust(64, b"\0")
    path.write_bytes(header + graph + struct.pack("<Q", len(text)) + text)
    return path


def test_names_and_shapes_stand_in_the_file_in_the_runtimes_order(tmp_path: Path) -> None:
    facts = rknn.read_rknn(model_file(tmp_path / "m.rknn"))
    assert facts.inputs == (("image", (1, 3, 8, 8)),)
    assert facts.outputs == (("boxes", (1, 4)), ("scores", (1, 2)))
    assert (facts.platforms, facts.toolkit, facts.dynamic) == (("rk3588",), "2.5.0", False)
    assert rknn.read_rknn(model_file(tmp_path / "d.rknn", graph=b"dynamic_shape\0")).dynamic


@pytest.mark.parametrize("data", [b"", b"junk" * 100, b"RKNN", b"RKNN" + b"\xff" * 100])
def test_what_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.rknn").write_bytes(data)
    with pytest.raises(UnsupportedModelError):
        rknn.read_rknn(tmp_path / "m.rknn")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = model_file(tmp_path / "m.rknn").read_bytes()
    for length in range(0, len(whole) - 1, 37):
        (tmp_path / "cut.rknn").write_bytes(whole[:length])
        with pytest.raises(UnsupportedModelError):
            rknn.read_rknn(tmp_path / "cut.rknn")


def test_each_core_is_a_device(tmp_path: Path) -> None:
    cores = rknn.npu_devices(board(tmp_path / "rk3588"))
    assert [(str(core), core.handle) for core in cores] == [(f"npu:{n}", f"NPU_CORE_{n}") for n in range(3)]
    small = board(tmp_path / "rk3568", "firefly,roc\0rockchip,rk3568\0")
    assert [core.handle for core in rknn.npu_devices(small)] == ["NPU_CORE_AUTO"]
    assert rknn.npu_devices(tmp_path / "pc") == []


def test_a_board_whose_kernel_has_another_driver_says_so(tmp_path: Path) -> None:
    with pytest.raises(DriverMismatchError, match="rocket"):
        rknn.npu_devices(board(tmp_path, driver="rocket"))


def test_a_board_without_the_library_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DriverMismatchError, match=r"librknnrt\.so") as caught:
        rknn.npu_devices(board(tmp_path, library=False))
    assert "librknn_api" in caught.value.action


def test_versions_of_driver_and_library_are_told(tmp_path: Path) -> None:
    root = write(board(tmp_path), {"sys/kernel/debug/rknpu/version": "RKNPU driver: v0.9.8\n"})
    found = rknn.npu_compatibility(root, {"rknn-toolkit-lite2": "2.3.2"})
    assert found.versions == {"rknn-toolkit-lite2": "2.3.2", "rknpu driver": "0.9.8", "librknnrt": "2.3.2"}
    assert found.fits is None
    assert rknn.npu_compatibility(tmp_path / "pc", {}).fits is False


@pytest.mark.parametrize(
    ("platforms", "chip", "fits"),
    [
        (("rk3588",), "rk3588", True),
        (("rk3566", "rk3568"), "rk3566", True),
        (("rk3568",), "rk3566", True),
        (("rk3576",), "rk3588", False),
        (("rk3588",), "", False),
    ],
)
def test_a_file_for_another_processor_is_refused(platforms: Any, chip: str, fits: bool, tmp_path: Path) -> None:
    facts = rknn.read_rknn(model_file(tmp_path / "m.rknn", platforms=platforms))
    if fits:
        rknn.check_family(facts, chip)
        return
    with pytest.raises(UnsupportedModelError, match="another processor"):
        rknn.check_family(facts, chip)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Traceback\nException: RKNN init failed. error code: RKNN_ERR_MALLOC_FAIL", OutOfDeviceMemoryError),
        ("Exception: RKNN init failed. error code: RKNN_ERR_MODEL_INVALID", UnsupportedModelError),
        ("Exception: RKNN init failed. error code: RKNN_ERR_DEVICE_UNMATCH", DriverMismatchError),
        ("Exception: RKNN init failed. error code: RKNN_ERR_TARGET_PLATFORM_UNMATCH", UnsupportedModelError),
        ("Exception: Set inputs failed. error code: RKNN_ERR_INPUT_INVALID", BadInputFormatError),
        ("Exception: RKNN run failed. error code: RKNN_ERR_TIMEOUT", DeviceLostError),
        ("OSError: /usr/lib/librknnrt.so: cannot open shared object file", DriverMismatchError),
        ("anything else", EngineError),
    ],
)
def test_the_vendors_codes_have_a_meaning(words: str, kind: type[DeviceError]) -> None:
    error = rknn.translate(words, "load")
    assert type(error) is kind
    assert words.splitlines()[-1] in str(error)


def test_the_reason_that_the_vendor_only_logs_is_kept() -> None:
    reasons = rknn.Reasons()
    reasons.w("rknn-toolkit-lite2 version: 2.5.0")
    assert reasons.text == ""
    reasons.e("Catch exception when init runtime!", False)
    reasons.e("Exception: RKNN init failed. error code: RKNN_ERR_FAIL", False)
    assert reasons.text.endswith("RKNN_ERR_FAIL")
    reasons.forget()
    assert reasons.text == ""


def test_inputs_are_checked_before_the_runtime_sees_them(tmp_path: Path) -> None:
    executable = rknn.RknnExecutable(None, rknn.read_rknn(model_file(tmp_path / "m.rknn")), rknn.Reasons())
    good = np.zeros((1, 3, 8, 8), np.float32)
    for wrong in ({}, {"image": good, "more": good}, {"photo": good}, {"image": good[:, :, :4]}):
        with pytest.raises(BadInputFormatError):
            executable._run(wrong)
    with pytest.raises(BadInputFormatError, match="float64"):
        executable._run({"image": good.astype(np.float64)})
    with pytest.raises(DeviceError, match="closed"):
        executable._run({"image": good})
