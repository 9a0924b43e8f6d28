"""ONNX Runtime: the engine that every board has.

CPU, and whatever execution providers are installed (`providers`). Only the CPU's own and OpenVINO's on a CPU have
been run by us; the others follow https://onnxruntime.ai/docs/execution-providers/ and count as untested.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, get_args

import msgspec
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as vendor

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, Stage
from lineside_runtime.backends.ort import providers
from lineside_runtime.backends.ort.session import OrtExecutable, element_type, session_options
from lineside_runtime.decoding import decode_json
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    BundleFormatError,
    DeviceLostError,
    EngineError,
    InputNotFoundError,
    LinesideError,
    UnsupportedModelError,
)
from lineside_runtime.system import heap
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.system.vnni import WEIGHT_BITS_KEY, saturates
from lineside_runtime.tensors import DYNAMIC, DType, TensorSpec

log = logging.getLogger("lineside.runtime")

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

_MARK = "[ONNXRuntimeError] : "
_SHARED = "Attempt to replace the existing tensor"
"""Its exact kernels take a copy of each quantized weight and zero point, which has a name already where two layers have
the same one."""
_UNREADABLE = ("is not a registered function/op", "ModelProto does not have a graph")
_PYTHON_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)  # raised by its Python layer


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
        return providers.devices()

    def _compatibility(self) -> Compatibility:
        return providers.compatibility({self.package: self.version})

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        with on_cores(options.cores):  # its threads stay where they are started
            opened = _open(model, device.handle, options)
        executable = OrtExecutable(opened.session, options)
        executable.shortfall = opened.shortfall
        heap.give_back()  # what reading and optimising the graph took: 3 MB where threads share a heap
        return executable

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (*(getattr(vendor, name) for name in ERRORS if hasattr(vendor, name)), *_PYTHON_ERRORS)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        from lineside_runtime.backends.common.error_texts import error_kind  # not before something fails

        text = str(error).strip()
        kind: type[LinesideError] | None = error_kind(error) or ERRORS.get(type(error).__name__, {}).get(stage)
        if kind is None and stage == "load" and any(mark in text for mark in _UNREADABLE):
            kind = UnsupportedModelError
        if kind is None and stage == "run" and isinstance(error, (ValueError, TypeError)):
            kind = BadInputFormatError
        return (kind or EngineError)(f"onnxruntime {stage}: {_cause(text) or type(error).__name__}")


def _cause(text: str) -> str:
    """Returns the innermost error: a plug-in's stands behind the place in ONNX Runtime that called it."""
    outer, mark, cause = text.rpartition(_MARK)
    return f"{mark}{cause}" if _MARK in outer else text


def _open(model: Path, handle: str, options: LoadOptions) -> providers.OpenedSession:
    """Loads a model with kernels whose sums are exact on this processor."""

    def opened(*, exact_sums: bool | None = None, as_float: bool = False) -> providers.OpenedSession:
        make = functools.partial(session_options, exact_sums=exact_sums, as_float=as_float)
        return providers.open_session(model, handle, options, make)

    if not saturates():
        return opened()
    try:
        exact = opened()
        if not _has_small_weights(exact.session):
            return exact
    except vendor.Fail as error:
        if _SHARED not in str(error):
            raise
    fast = opened(exact_sums=False)
    if _has_small_weights(fast.session):  # their sums can't be cut off
        return fast
    found = opened(exact_sums=False, as_float=True)
    log.warning(
        "%s: layers share quantized weights, which ONNX Runtime's exact kernels for a processor without VNNI can't"
        " load: it computes as float",
        model.name,
    )
    return found


def _has_small_weights(session: Any) -> bool:
    return bool(session.get_modelmeta().custom_metadata_map.get(WEIGHT_BITS_KEY) == "7")


class OnnxFacts(msgspec.Struct, frozen=True):
    """Metadata of an ONNX file.

    Attributes:
        inputs: Its inputs; symbolic dimensions are `DYNAMIC`.
        metadata: The ``metadata_props``.
        tails: See `GraphTails`.
        patch_size: See `GraphTails`.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    tails: dict[str, frozenset[str]] = {}
    patch_size: int = 0


def read_onnx(path: Path) -> OnnxFacts:
    """Reads the inputs, outputs and metadata of an ONNX file, without the ``onnx`` package.

    Raises:
        InputNotFoundError: There is no such file.
        UnsupportedModelError: It is no ONNX file, or has an input or output that a bundle can't describe.
        DeviceError: The engine failed.
    """
    from lineside_runtime.backends.ort.graph_tails import read_tails  # only who makes bundles pays for it

    backend = OrtBackend()
    executable = backend.load(path, Device("cpu", handle="CPUExecutionProvider"), LoadOptions(threads=1))
    if not isinstance(executable, OrtExecutable):
        raise EngineError("onnxruntime gave no session")
    session = executable._session
    tails = read_tails(path.read_bytes())
    facts = OnnxFacts(
        inputs=tuple(_spec(value) for value in session.get_inputs()),
        outputs=tuple(_spec(value) for value in session.get_outputs()),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
        tails=dict(tails.tails),
        patch_size=tails.patch_size,
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
        return None if text is None else decode_json(text)
    except msgspec.DecodeError as error:
        raise BundleFormatError(f"{path}: metadata {key!r} is not JSON", actual=text) from error


def _spec(value: Any) -> TensorSpec:
    element = element_type(value)
    if element is None:
        raise UnsupportedModelError(f"tensor {value.name!r}", expected=sorted(get_args(DType)), actual=value.type)
    shape = tuple(size if isinstance(size, int) and size >= 0 else DYNAMIC for size in value.shape)
    layout = "NCHW" if len(shape) == 4 else ""
    return TensorSpec(name=value.name, shape=shape, dtype=element, layout=layout)
