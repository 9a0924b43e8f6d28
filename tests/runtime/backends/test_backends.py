from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_vendor

from lineside_runtime.backend import Backend, LoadOptions, Stage
from lineside_runtime.backends import openvino_
from lineside_runtime.backends.common.error_texts import device_error
from lineside_runtime.backends.litert import LiteRtBackend
from lineside_runtime.backends.ncnn_ import NcnnBackend
from lineside_runtime.backends.openvino_ import OpenVinoBackend
from lineside_runtime.backends.ort import backend
from lineside_runtime.backends.ort.backend import OrtBackend, read_onnx
from lineside_runtime.backends.pytorch import TorchBackend
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    NoDeviceError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from tests.runtime.onnx_models import graph, halves_and_doubles, memory_eater, openvino_only, scaler, unhappy_reshape

ENGINES = [OrtBackend, OpenVinoBackend]


def load(engine: type[Backend], path: Path, data: bytes, *, threads: int = 1) -> Any:
    path.write_bytes(data)
    backend = engine()
    cpu = next(device for device in backend.probe() if device.kind == "cpu")
    return backend.load(path, cpu, LoadOptions(threads=threads))


def exception_classes(module: Any) -> set[str]:
    return {name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, BaseException)}


def test_every_exception_of_onnxruntime_has_a_meaning() -> None:
    assert exception_classes(ort_vendor) == set(backend.ERRORS)


def test_every_exception_of_openvino_has_a_meaning() -> None:
    assert exception_classes(openvino._pyopenvino) == set(openvino_.ERRORS)


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        pytest.param(backend, kind, id=f"{backend.name}-{kind.__name__}")
        for backend in (OrtBackend(), OpenVinoBackend(), LiteRtBackend(), NcnnBackend(), TorchBackend())
        for kind in backend._vendor_errors()
    ],
)
@pytest.mark.parametrize("stage", ["probe", "load", "run"])
def test_each_exception_of_an_engine_becomes_one_of_ours_at_each_stage(
    backend: Backend, kind: type[Exception], stage: Stage
) -> None:
    with pytest.raises(LinesideError, match="the vendor's words") as caught, backend._boundary(stage):
        raise kind("the vendor's words")
    assert isinstance(caught.value.__cause__, kind)


def test_a_reset_device_is_a_lost_device() -> None:
    with pytest.raises(DeviceLostError), OrtBackend()._boundary("run"):
        raise ort_vendor.DeviceReset("gone")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", OutOfDeviceMemoryError),
        ("std::bad_alloc", OutOfDeviceMemoryError),
        ("CUDA driver version is insufficient for CUDA runtime version", DriverMismatchError),
        ("libcublas.so.12: cannot open shared object file: No such file or directory", DriverMismatchError),
        ("all CUDA-capable devices are busy or unavailable", DeviceBusyError),
        ("ZE_RESULT_ERROR_DEVICE_LOST", DeviceLostError),
        ("Invalid rank for input", None),
    ],
)
def test_the_text_tells_what_the_device_complains_of(text: str, kind: type[DeviceError] | None) -> None:
    assert device_error(text) is kind


def test_an_unknown_operator_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="Swish"):
        load(OrtBackend, tmp_path / "m.onnx", openvino_only())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failure_inside_the_graph_is_an_engine_error(engine: type[Backend], tmp_path: Path) -> None:
    executable = load(engine, tmp_path / "m.onnx", unhappy_reshape(), threads=2)
    with pytest.raises(EngineError, match=r"(?i)reshape"):
        executable.run({"x": np.ones(5, np.float32), "s": np.array([2, 3])})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_size_that_does_not_go_through_the_graph_is_refused(
    engine: type[Backend], threads: int, tmp_path: Path
) -> None:
    executable = load(engine, tmp_path / "m.onnx", halves_and_doubles(), threads=threads)
    for side in (6, 8, 6):
        assert executable.run({"x": np.ones((1, 1, side, side), np.float32)})["y"].shape == (1, 1, side, side)
        # OpenVINO with one thread gave the even size's answer again
        with pytest.raises((BadInputFormatError, EngineError)):
            executable.run({"x": np.ones((1, 1, 5, 5), np.float32)})


def test_an_oversize_allocation_is_out_of_memory(tmp_path: Path) -> None:
    executable = load(OrtBackend, tmp_path / "m.onnx", memory_eater())
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        executable.run({"s": np.array([1 << 42])})
    assert caught.value.code == 1001
    assert executable.run({"s": np.array([3])})["y"] == 0


def test_a_process_without_memory_gets_1001(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(memory_eater())
    script = f"""
        import resource
        import numpy as np
        from pathlib import Path
        from lineside_runtime.backend import LoadOptions
        from lineside_runtime.backends.ort.backend import OrtBackend
        from lineside_runtime.errors import LinesideError

        backend = OrtBackend()
        executable = backend.load(Path({str(tmp_path / "m.onnx")!r}), backend.probe()[-1], LoadOptions(threads=1))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
        try:
            executable.run({{"s": np.array([1 << 28])}})
        except LinesideError as error:
            print(error.code)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "1001", run.stderr


def test_an_onnx_file_tells_its_inputs_outputs_and_metadata(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(scaler(1.0))
    model.metadata_props.add(key="lineside", value="{}")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    facts = read_onnx(path)
    assert [(spec.name, spec.shape, spec.dtype) for spec in facts.inputs] == [("x", (-1, 4), "float32")]
    assert [spec.name for spec in facts.outputs] == ["y"]
    assert facts.metadata == {"lineside": "{}"}


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bool", "string", "int8", "uint8", "int64", "uint16"]
)
def test_an_onnx_file_tells_every_type_that_a_bundle_can_name(dtype: Any, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(object if dtype == "string" else dtype))
    identity = helper.make_node("Identity", ["x"], ["y"])
    (tmp_path / "m.onnx").write_bytes(graph([identity], [("x", kind, [2])], [("y", kind, [2])]))
    facts = read_onnx(tmp_path / "m.onnx")
    assert (facts.inputs[0].dtype, facts.outputs[0].dtype) == (dtype, dtype)


def test_onnxruntime_must_have_the_provider_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaler(1.0))
    nothing = Device("gpu", handle="CUDAExecutionProvider")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        nothing = Device("gpu", handle="RknpuExecutionProvider")
    with pytest.raises(NoDeviceError):
        OrtBackend().load(tmp_path / "m.onnx", nothing, LoadOptions())
