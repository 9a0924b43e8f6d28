"""ONNX Runtime: the engine that every board has.

CPU, and whatever execution providers the installed build brings. Only ``CPUExecutionProvider`` has been run
by us; the others follow https://onnxruntime.ai/docs/execution-providers/ and count as untested.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.backends.messages import device_error
from lineside_runtime.devices import Device, DeviceKind
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    DeviceError,
    DeviceLostError,
    DriverMismatchError,
    EngineError,
    InputNotFoundError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import DYNAMIC, Array, DType, TensorSpec

PROVIDERS: dict[str, DeviceKind] = {
    "QNNExecutionProvider": "npu",
    "VitisAIExecutionProvider": "npu",
    "RknpuExecutionProvider": "npu",
    "TensorrtExecutionProvider": "gpu",
    "CUDAExecutionProvider": "gpu",
    "MIGraphXExecutionProvider": "gpu",
    "CPUExecutionProvider": "cpu",
}
"""Execution providers that we use, best first within a kind. OpenVINO has a backend of its own."""

ERRORS: dict[str, dict[str, type[LinesideError]]] = {
    "Fail": {},
    "InvalidArgument": {"load": UnsupportedModelError, "run": BadInputFormatError},
    "NoSuchFile": {"load": InputNotFoundError},
    "NoModel": {"load": UnsupportedModelError},
    "EngineError": {},
    "RuntimeException": {},
    "InvalidProtobuf": {"load": UnsupportedModelError},
    "ModelLoaded": {},
    "NotImplemented": {"load": UnsupportedModelError},
    "InvalidGraph": {"load": UnsupportedModelError},
    "EPFail": {},
    "ModelLoadCanceled": {},
    "ModelRequiresCompilation": {"load": UnsupportedModelError},
    "NotFound": {"load": InputNotFoundError},
    "DeviceReset": {"load": DeviceLostError, "run": DeviceLostError},
}
"""Every exception of the vendor's, and what it means by stage; where nothing stands, its text decides."""

_PYTHON_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)  # raised by its Python layer
_DTYPES = {"float": "float32", "float16": "float16", **{name: name for name in get_args(DType)}}


class OrtBackend(Backend):
    """ONNX Runtime."""

    name = "ort"
    package = "onnxruntime"
    formats = frozenset({"onnx"})
    untested_kinds = frozenset({"npu", "gpu"})

    @property
    def version(self) -> str:
        """Version of ``onnxruntime``."""
        return str(onnxruntime.__version__)

    def _probe(self) -> list[Device]:
        available = onnxruntime.get_available_providers()
        devices: list[Device] = []
        for provider, kind in PROVIDERS.items():
            if provider in available:
                index = sum(device.kind == kind for device in devices)
                devices.append(Device(kind, index, name=provider.removesuffix("ExecutionProvider"), handle=provider))
        return devices

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        session = onnxruntime.InferenceSession(
            str(model), session_options(options), providers=[device.handle], disable_fallback=True
        )
        used = session.get_providers()
        if used[0] != device.handle:  # it warns and takes the CPU instead where a library is missing
            raise DriverMismatchError(f"onnxruntime did not start {device.handle}", expected=device.handle, actual=used)
        return OrtExecutable(session)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (*(getattr(vendor, name) for name in ERRORS if hasattr(vendor, name)), *_PYTHON_ERRORS)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        kind: type[LinesideError] | None = OutOfDeviceMemoryError if isinstance(error, MemoryError) else None
        kind = kind or device_error(text) or ERRORS.get(type(error).__name__, {}).get(stage)
        if kind is None and stage == "load" and "is not a registered function/op" in text:
            kind = UnsupportedModelError
        if kind is None and stage == "run" and isinstance(error, (ValueError, TypeError)):
            kind = BadInputFormatError
        return (kind or EngineError)(f"onnxruntime {stage}: {text or type(error).__name__}")


class OrtExecutable(Executable):
    """An ``InferenceSession``; its ``run`` may be called from several threads."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._required = {value.name for value in session.get_inputs()}
        self._complete = -1 if session.get_overridable_initializers() else len(self._required)
        self._call = _bare_call(session)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise DeviceError("the executable is closed")
        feed = inputs if type(inputs) is dict else dict(inputs)
        if len(feed) != self._complete:  # the binding refuses an unknown name, but runs with one missing
            self._check_complete(feed)
        arrays = self._call(self._outputs, feed, None)
        if len(arrays) == 1:
            return {self._outputs[0]: arrays[0]}
        return dict(zip(self._outputs, arrays, strict=True))

    def _check_complete(self, feed: dict[str, Array]) -> None:
        if not feed.keys() >= self._required:
            raise BadInputFormatError("other inputs", expected=sorted(self._required), actual=sorted(feed))

    def _close(self) -> None:
        self._call = self._session = None


def _bare_call(session: Any) -> Any:
    """Returns the binding that ``InferenceSession.run`` calls, without its Python, which takes 1 to 3 µs.

    What that adds is a check that no input is missing, which is done here, and a fall back to other execution
    providers, which is turned off.
    """
    binding = getattr(session, "_sess", None)
    return session.run if binding is None else binding.run


def session_options(options: LoadOptions) -> Any:
    """Returns ONNX Runtime's options.

    One operator at a time (``inter_op`` 1), and threads that wait without spinning where there are more than one:
    measured on two cores, that halves the CPU time for a quarter more latency, and the cores are needed elsewhere.
    """
    result = onnxruntime.SessionOptions()
    result.inter_op_num_threads = 1
    result.log_severity_level = 4  # what fails is raised, and logged by the session with its device
    if options.threads is not None:
        result.intra_op_num_threads = options.threads
    if options.threads != 1:
        result.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return result


@dataclasses.dataclass(frozen=True, slots=True)
class OnnxFacts:
    """What an ONNX file says of itself.

    Attributes:
        inputs: Its inputs; symbolic dimensions are `DYNAMIC`.
        outputs: Its outputs.
        metadata: The ``metadata_props``.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]


def read_onnx(path: Path) -> OnnxFacts:
    """Reads the inputs, outputs and metadata of an ONNX file, without the ``onnx`` package.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: It is no ONNX file, or has an input or output that a bundle can't describe.
        DeviceError: The engine failed.
    """
    backend = OrtBackend()
    executable = backend.load(path, Device("cpu", handle="CPUExecutionProvider"), LoadOptions(threads=1))
    if not isinstance(executable, OrtExecutable):
        raise EngineError("onnxruntime gave no session")
    session = executable._session
    facts = OnnxFacts(
        inputs=tuple(_spec(value) for value in session.get_inputs()),
        outputs=tuple(_spec(value) for value in session.get_outputs()),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
    )
    executable.close()
    return facts


def read_metadata(path: Path, key: str) -> Any:
    """Returns the JSON value under ``key`` in an ONNX file's metadata, or ``None``.

    Raises:
        BundleFormatError: The value is not JSON.
    """
    text = read_onnx(path).metadata.get(key)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise BundleFormatError(f"{path}: metadata {key!r} is not JSON", actual=text) from error


def _spec(value: Any) -> TensorSpec:
    element = value.type.removeprefix("tensor(").removesuffix(")")
    if element not in _DTYPES:
        raise UnsupportedModelError(f"tensor {value.name!r}", expected=sorted(_DTYPES), actual=value.type)
    shape = tuple(size if isinstance(size, int) and size >= 0 else DYNAMIC for size in value.shape)
    layout = "NCHW" if len(shape) == 4 else ""
    return TensorSpec(name=value.name, shape=shape, dtype=_DTYPES[element], layout=layout)
