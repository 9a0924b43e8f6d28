"""ONNX Runtime's providers with what the plain package has: the CPU's, and Azure's, which can run no node of any model.

`tests/system/test_ort_openvino.py` has a provider that really runs a part of a model.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort import amd, providers
from lineside_runtime.backends.ort.backend import OrtBackend
from lineside_runtime.backends.ort.providers import Spread
from lineside_runtime.backends.ort.session import OrtExecutable
from lineside_runtime.devices import KINDS, Device
from lineside_runtime.errors import NoDeviceError, UnsupportedModelError
from tests.runtime.onnx_models import scaler

AZURE = Device("npu", handle="AzureExecutionProvider")

needs_azure = pytest.mark.skipif(
    AZURE.handle not in onnxruntime.get_available_providers(), reason="this build of onnxruntime has no second provider"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(scaler(2.0))
    return tmp_path / "m.onnx"


def test_onnxruntimes_own_cpu_is_the_first_cpu() -> None:
    devices = providers.devices()
    first = next(device for device in devices if device.kind == "cpu")
    assert (str(first), first.handle) == ("cpu:0", providers.CPU)
    for kind in KINDS:
        assert [one.index for one in devices if one.kind == kind] == list(range(sum(d.kind == kind for d in devices)))


def test_every_provider_that_we_use_is_one_that_onnxruntime_knows_or_once_knew() -> None:
    gone = {"ROCMExecutionProvider", "ACLExecutionProvider", "ArmNNExecutionProvider"}
    assert set(providers.PROVIDERS) - gone <= set(onnxruntime.get_all_providers())


def test_no_provider_of_linux_is_forgotten() -> None:
    elsewhere = {"NnapiExecutionProvider", "CoreMLExecutionProvider", "DmlExecutionProvider"}
    browsers = {"JsExecutionProvider", "WebNNExecutionProvider"}
    known = set(providers.PROVIDERS) | elsewhere | browsers | {AZURE.handle}
    assert set(onnxruntime.get_all_providers()) <= known


def test_each_gpu_of_amds_is_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [providers.MIGRAPHX, providers.CPU])
    monkeypatch.setattr(providers, "_count", lambda nodes: 1)
    monkeypatch.setattr(amd, "gpus", lambda: ("gfx1100", "gfx1201"))
    assert [(one.name, one.handle) for one in providers.devices() if one.kind == "gpu"] == [
        ("MIGraphX gfx1100", "MIGraphXExecutionProvider?device_id=0"),
        ("MIGraphX gfx1201", "MIGraphXExecutionProvider?device_id=1"),
    ]


def test_a_session_never_takes_the_cpu_in_place_of_a_device_that_fails(model: Path) -> None:
    """It would answer on the CPU under the device's name (``InferenceSession.run``)."""
    executable = OrtBackend().load(model, Device("cpu", handle=providers.CPU), LoadOptions())
    assert isinstance(executable, OrtExecutable)
    assert executable._session._enable_fallback is False


@pytest.mark.parametrize("name", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_each_card_of_nvidias_is_a_device_that_results_can_stay_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [name, providers.CPU])
    monkeypatch.setattr(providers, "_count", lambda nodes: 2)
    handles = [device.handle for device in providers.devices() if device.kind == "gpu"]
    assert [providers.cuda_card(handle) for handle in handles] == [0, 1]


@pytest.mark.parametrize("handle", [providers.CPU, "OpenVINOExecutionProvider?device_type=GPU.0", "plugin:CUDA#1"])
def test_results_stay_on_no_other_device(handle: str) -> None:
    assert providers.cuda_card(handle) is None


def test_a_model_that_is_whole_on_its_device_has_no_shortfall(model: Path) -> None:
    executable = OrtBackend().load(model, Device("cpu", handle=providers.CPU), LoadOptions(threads=1))
    assert executable.shortfall is None
    assert executable.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2.0] * 4]


@needs_azure
def test_a_provider_that_would_leave_everything_to_the_cpu_is_refused(model: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="can run no node"):
        OrtBackend().load(model, AZURE, LoadOptions(threads=1))


def test_a_provider_that_is_not_there_is_an_error(model: Path) -> None:
    for handle in ("QNNExecutionProvider", "plugin:QNNExecutionProvider#9", "llvmpipe", ""):
        with pytest.raises(NoDeviceError, match="onnxruntime has no"):
            OrtBackend().load(model, Device("npu", handle=handle), LoadOptions())


def test_what_runs_on_the_cpu_is_told_by_operator() -> None:
    spread = Spread({"CUDAExecutionProvider": Counter(Conv=50), providers.CPU: Counter(Resize=2, Det=1)})
    assert spread.describe("CUDAExecutionProvider") == "Det ×1, Resize ×2 of 53 nodes run on the CPU"
    assert Spread({}).describe("CUDAExecutionProvider") == "an unknown part of it runs on the CPU"


def test_the_plain_package_has_nothing_that_could_misfit() -> None:
    found = OrtBackend().compatibility()
    assert found.versions["onnxruntime"] == onnxruntime.__version__
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert found.fits is None


def test_a_plug_in_that_cannot_be_used_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "onnxruntime_ep_broken"
    package.mkdir()
    (tmp_path / "none.so").write_bytes(b"no library")
    (package / "__init__.py").write_text(
        "def get_ep_names():\n    return ['BrokenExecutionProvider']\n"
        f"def get_library_path():\n    return {str(tmp_path / 'none.so')!r}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(providers, "_registered", {})
    before = providers.devices()
    assert providers.devices() == before
    assert [record.getMessage() for record in caplog.records if "onnxruntime_ep_broken" in record.getMessage()] != []
    assert sum("onnxruntime_ep_broken" in record.getMessage() for record in caplog.records) == 1
    assert any(device.handle == providers.CPU for device in before)
