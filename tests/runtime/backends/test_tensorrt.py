"""What can be told of TensorRT without a GPU; with one: ``lineside conformance tensorrt``.

`tests/system/test_cuda_runtime.py` calls the real ``libcudart``.
"""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lineside_runtime.backend import OperatorTime
from lineside_runtime.backends import cuda, tensorrt_
from lineside_runtime.errors import (
    DeviceError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible "
            "with this version of TensorRT, expecting library version 10.3.0.26 got 8.6.1.6, please rebuild.)",
            DriverMismatchError,
        ),
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 8.6",
            DriverMismatchError,
        ),
        (
            "[runtime.cpp] Error Code 1: Serialization (magicTagRead == magicTag failed. Magic tag does not match)",
            UnsupportedModelError,
        ),
        ("CUDA initialization failure with error: 35", DriverMismatchError),
        (
            "Requested amount of GPU memory (4 bytes) could not be allocated: Cuda failure: out of memory",
            OutOfDeviceMemoryError,
        ),
        ("anything else", EngineError),
    ],
)
def test_what_it_logs_has_a_meaning(words: str, kind: type[LinesideError]) -> None:
    error = tensorrt_.translate(words, "load")
    assert type(error) is kind
    assert words in str(error)


def test_a_plan_of_another_version_says_to_build_it_again() -> None:
    error = tensorrt_.translate("not compatible with this version of TensorRT, please rebuild", "load")
    assert "Build the plan again" in error.action


def test_layers_have_a_name_and_a_kind_as_the_conformance_suite_wants() -> None:
    profiler = tensorrt_._make_profiler(SimpleNamespace(IProfiler=object))
    for milliseconds in (1.0, 3.0):
        profiler.report_layer_time("conv1 + relu1", milliseconds)
    assert profiler.sums.means() == (OperatorTime("conv1 + relu1", "layer", 2, 2000.0),)


def test_cudas_codes_are_errors_of_devices() -> None:
    assert all(issubclass(kind, DeviceError) for kind in cuda.ERRORS.values())
    assert cuda.ERRORS[2] is OutOfDeviceMemoryError


def test_a_machine_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OSError, match=r"libcudart\.so\.12"):
        cuda.CudaRuntime()


@pytest.mark.parametrize(("number", "version"), [(12090, "12.9"), (13000, "13.0"), (11080, "11.8"), (0, "")])
def test_versions_are_read_from_cudas_numbers(number: int, version: str) -> None:
    assert cuda._version(number) == version
