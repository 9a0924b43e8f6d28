"""OpenVINO: a second engine on Intel CPUs, GPUs and NPUs.

It runs the same quantised ONNX file as ONNX Runtime, as fast as a file of its own would be. Only its CPU has
been run by us.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.backends.messages import device_error
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.errors import (
    DeviceError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import Array

ERRORS = (
    "InitializationFailure",
    "GeneralFailure",
    "OpConversionFailure",
    "OpValidationFailure",
    "NotImplementedFailure",
)
"""Every exception class of the vendor's. Most of what it raises is ``RuntimeError``."""

_PYTHON_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
_KINDS: dict[str, DeviceKind] = {"NPU": "npu", "GPU": "gpu", "CPU": "cpu"}
_UNREADABLE = ("unable to read the model", "is not supported", "conversion is failed", "frontend", "unconverted")


class OpenVinoBackend(Backend):
    """OpenVINO."""

    name = "openvino"
    package = "openvino"
    formats = frozenset({"onnx", "openvino"})
    untested_kinds = frozenset({"npu", "gpu"})

    def __init__(self) -> None:
        with self._boundary("probe"):
            self._core = openvino.Core()

    @property
    def version(self) -> str:
        """Version of ``openvino``."""
        return str(openvino.__version__).partition("-")[0]

    def _probe(self) -> list[Device]:
        devices: list[Device] = []
        for handle in self._core.available_devices:
            kind = _KINDS.get(handle.partition(".")[0])
            if kind is not None:
                index = sum(device.kind == kind for device in devices)
                name = str(self._core.get_property(handle, "FULL_DEVICE_NAME"))
                devices.append(Device(kind, index, name=name, handle=handle))
        return devices

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if options.precision == "fp32" and device.kind == "cpu":
            config["INFERENCE_PRECISION_HINT"] = "f32"  # or it computes in bf16 where the CPU can
        if options.threads is not None and device.kind == "cpu":
            config["INFERENCE_NUM_THREADS"] = options.threads
        return OpenVinoExecutable(self._core.compile_model(str(model), device.handle, config))

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        own = (getattr(openvino._pyopenvino, name, None) for name in ERRORS)
        return (*(kind for kind in own if kind is not None), *_PYTHON_ERRORS)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        kind: type[LinesideError] | None = OutOfDeviceMemoryError if isinstance(error, MemoryError) else None
        kind = kind or device_error(text)
        if kind is None and stage == "load" and any(mark in text.lower() for mark in _UNREADABLE):
            kind = UnsupportedModelError
        return (kind or EngineError)(f"openvino {stage}: {text or type(error).__name__}")


class OpenVinoExecutable(Executable):
    """A compiled model, with one infer request a thread."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._outputs = [output.get_any_name() for output in compiled.outputs]
        self._local = threading.local()

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._compiled is None:
            raise DeviceError("the executable is closed")
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        results = self._local.request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def _close(self) -> None:
        self._compiled = None
        self._local = threading.local()
