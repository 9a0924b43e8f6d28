from __future__ import annotations

from pathlib import Path

import pytest

from lineside_runtime.devices import DeviceKind
from lineside_runtime.system import accelerator_hints


def test_a_processor_is_always_there(tmp_path: Path) -> None:
    assert accelerator_hints.may_have("cpu", tmp_path)


def test_a_machine_without_a_sign_has_no_accelerator(tmp_path: Path) -> None:
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/null").touch()
    assert not accelerator_hints.may_have("gpu", tmp_path)
    assert not accelerator_hints.may_have("npu", tmp_path)


@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("gpu", "dev/dri/renderD128"),
        ("gpu", "dev/nvidia0"),
        ("gpu", "proc/driver/nvidia/version"),
        ("gpu", "dev/nvhost-gpu"),
        ("npu", "dev/accel/accel0"),
        ("npu", "dev/hailo0"),
        ("npu", "dev/apex_0"),
        ("npu", "sys/class/devfreq/fdab0000.npu"),
    ],
)
def test_a_driver_s_node_is_a_sign(kind: DeviceKind, node: str, tmp_path: Path) -> None:
    path = tmp_path / node
    path.parent.mkdir(parents=True)
    path.touch()
    other: DeviceKind = "npu" if kind == "gpu" else "gpu"
    assert accelerator_hints.may_have(kind, tmp_path)
    assert not accelerator_hints.may_have(other, tmp_path)
