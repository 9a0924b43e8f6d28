from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from lineside_runtime import registry
from lineside_runtime.errors import EngineMissingError


def test_the_installed_engines_are_available_with_their_devices() -> None:
    found = {status.name: status for status in registry.engines()}
    assert found["ort"].available
    assert [str(device) for device in found["ort"].devices if device.kind == "cpu"] == ["cpu:0"]
    assert found["openvino"].version[0].isdigit()
    assert "gpu" in found["ort"].untested_kinds


def test_an_engine_of_somebody_elses_joins_by_its_entry_point(numpy_engine: ModuleType) -> None:
    assert "numpy" in registry.names()
    assert registry.names()[: len(registry.PREFERENCE)] == registry.PREFERENCE
    assert {str(device) for device in registry.status("numpy").devices} == {"npu:0", "gpu:0"}


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("absent", "lineside_engine_that_is_not_installed", ""),
        ("hailo", "hailo_platform", "hailo-all"),
        ("imx500", "picamera2", "imx500-all"),
        ("rknn", "rknnlite", "rknn-toolkit-lite2"),
        ("tensorrt", "tensorrt", "JetPack"),
    ],
)
@pytest.mark.usefixtures("numpy_engine")
def test_an_engine_that_cannot_be_imported_is_data_with_its_reason(name: str, module: str, remedy: str) -> None:
    absent = registry.status(name)
    assert not absent.available
    assert module in absent.reason
    assert absent.install and remedy in absent.install


def test_an_unknown_engine_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(EngineMissingError, match="openvino") as caught:
        registry.backend("abacus")
    assert caught.value.code == 1006


def test_an_uninstalled_builtin_engine_says_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['openvino'] = None\n"
        "from lineside_runtime import registry\n"
        "status = registry.status('openvino'); print(status.available, status.install)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False pip install 'lineside[openvino]'"


def test_the_runtime_imports_no_engine_until_one_is_used() -> None:
    script = (
        "import sys, lineside_runtime.session\n"
        "print([name for name in ('onnxruntime', 'openvino', 'torch', 'onnx') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
