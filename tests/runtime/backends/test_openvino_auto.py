"""OpenVINO's AUTO on a machine that has a CPU only: it chooses that, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.openvino_ import OpenVinoBackend, _auto
from lineside_runtime.devices import Device
from lineside_runtime.errors import PartialFallbackError
from tests.runtime.onnx_models import scaler

X = np.ones((1, 4), np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(scaler(2.0))
    return tmp_path / "m.onnx"


def test_it_is_offered_where_there_is_something_to_choose() -> None:
    cpu, gpu = Device("cpu", handle="CPU"), Device("gpu", handle="GPU")
    assert _auto([cpu]) == []
    (auto,) = _auto([cpu, gpu])
    assert (str(auto), auto.handle) == ("gpu:1", "AUTO")
    (auto,) = _auto([cpu, gpu, Device("npu", handle="NPU")])
    assert str(auto) == "npu:1"


def test_it_runs_on_what_it_chose(model: Path) -> None:
    executable = OpenVinoBackend().load(model, Device("cpu", 1, handle="AUTO"), LoadOptions(threads=1))
    np.testing.assert_allclose(executable.run({"x": X})["y"], 2 * X)
    assert executable.shortfall is None


def test_another_choice_than_the_kind_that_it_stands_for_is_told_or_refused(model: Path) -> None:
    backend, stands_for_npu = OpenVinoBackend(), Device("npu", 1, handle="AUTO")
    if any(device.kind == "npu" for device in backend.probe()):
        pytest.skip("this machine has an NPU that OpenVINO may choose")
    executable = backend.load(model, stands_for_npu, LoadOptions())
    np.testing.assert_allclose(executable.run({"x": X})["y"], 2 * X)
    assert executable.shortfall is not None and "CPU" in str(executable.shortfall)
    with pytest.raises(PartialFallbackError, match="AUTO"):
        backend.load(model, stands_for_npu, LoadOptions(whole=True))
