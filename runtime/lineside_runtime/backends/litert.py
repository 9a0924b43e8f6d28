"""LiteRT: ``.tflite`` models on the CPU by XNNPACK, and on Coral's Edge TPU.

``ai-edge-litert`` is preferred; its predecessor ``tflite-runtime`` has the same interpreter and is taken where a board
has nothing else (it needs ``numpy<2``, and ran the same INT8 file 19 times slower).

The Edge TPU follows https://coral.ai/docs/edgetpu/tflite-python/ (``load_delegate("libedgetpu.so.1")``) and
https://coral.ai/docs/edgetpu/multiple-edgetpu/ (its option ``device``: ``usb:0``, ``pci:1``). **It is untested on
hardware**; to test it: ``lineside conformance litert --device npu:0 --model conv_int8=FILE_edgetpu.tflite``.

The interpreter has no profile by operator in Python, so that `Executable.operators` is empty.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.metadata
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, Stage
from lineside_runtime.backends.common.error_texts import error_kind
from lineside_runtime.backends.common.options import operator_library, threads_of
from lineside_runtime.backends.common.tensor_names import match
from lineside_runtime.backends.tflite_file import check_whole
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceBusyError,
    DeviceError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.system import accelerators
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.tensors import DYNAMIC, Array, TensorSpec

MODULES = {"ai_edge_litert.interpreter": "ai-edge-litert", "tflite_runtime.interpreter": "tflite-runtime"}
"""Modules with the interpreter, best first, and the package that each comes in."""

EDGE_TPU = "libedgetpu.so.1"

_DELEGATE_ENTRY = "tflite_plugin_create_delegate"
"""What a delegate's library has: https://ai.google.dev/edge/litert/performance/implementing_delegate"""

_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, MemoryError, OSError)
"""The vendor has no exceptions of its own: its binding and its Python raise Python's."""


def _interpreter_module() -> tuple[Any, str]:
    absent: list[str] = []
    for module, package in MODULES.items():
        try:
            return importlib.import_module(module), package
        except ImportError as error:  # noqa: PERF203  two modules, once
            absent.append(str(error))
    raise ImportError("; ".join(absent))


class LiteRtBackend(Backend):
    """LiteRT, or its predecessor TensorFlow Lite."""

    name = "litert"
    package = "ai-edge-litert"
    formats = frozenset({"tflite"})
    untested_kinds = frozenset({"npu"})

    def __init__(self, *, edge_tpu: str = EDGE_TPU, root: Path | str = "/") -> None:
        """Imports the interpreter.

        Raises:
            ImportError: Neither package is installed.
        """
        self._vendor, self.package = _interpreter_module()
        self._edge_tpu = edge_tpu
        self._root = root

    @property
    def version(self) -> str:
        """Version of ``ai-edge-litert`` or ``tflite-runtime``."""
        return importlib.metadata.version(self.package)

    def _probe(self) -> list[Device]:
        places = self._edge_tpus()
        names = [Device("npu", i, name=f"Edge TPU ({at})", handle=at) for i, at in enumerate(places)]
        return [*(names if names and self._has_library() else []), Device("cpu", name=f"XNNPACK ({self.package})")]

    def _edge_tpus(self) -> list[str]:
        found = (one.where.partition(" ")[0] for one in accelerators.find(self._root) if "litert" in one.engines)
        buses = list(found)
        return [f"{bus}:{index}" for bus in ("usb", "pci") for index in range(buses.count(bus))]

    def _has_library(self) -> bool:
        try:
            ctypes.CDLL(self._edge_tpu)
        except OSError:
            return False
        return True

    def _compatibility(self) -> Compatibility:
        versions = {self.package: self.version}
        if self.package == "tflite-runtime":
            advice = "pip install ai-edge-litert: the same interpreter, far faster in INT8, and without numpy<2"
            return Compatibility(versions, advice=advice)
        if self._edge_tpus() and not self._has_library():
            advice = f"an Edge TPU is plugged in, and {self._edge_tpu} isn't installed: see coral.ai/docs/accelerator"
            return Compatibility(versions, False, advice)
        return Compatibility(versions)

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        self._expect_here(device)
        if options.profile:
            log.info("litert: the interpreter has no profile by operator")
        delegates: list[Any] = []  # TFLite's way also for other makers' operators
        for path in options.operator_libraries:
            with operator_library(path, self.name, OSError):
                delegates.append(self._delegate(str(path), {}))
        if device.kind == "npu":
            try:
                delegates.append(self._delegate(self._edge_tpu, {"device": device.handle}))
            except OSError as error:
                raise DriverMismatchError(f"litert: {self._edge_tpu} can't be loaded: {error}") from error
        threads = threads_of(options)
        content = model.read_bytes()
        check_whole(content, str(model))
        make = _Maker(self._vendor, content, threads, delegates, options.cores)
        at_most = 1 if delegates else max(1, (os.cpu_count() or 1) // (threads or 1))
        return LiteRtExecutable(make, options, at_most)

    def _delegate(self, path: str, settings: dict[str, str]) -> Any:
        """Loads a delegate.

        Raises:
            OSError: The library can't be loaded, or has no delegate.
            DeviceBusyError: It has one, and doesn't give it.
        """
        # before the vendor's own loader, which leaves a broken object behind if it fails
        if not hasattr(ctypes.CDLL(path), _DELEGATE_ENTRY):
            raise OSError(f"it is no delegate, for it has no {_DELEGATE_ENTRY}")
        try:
            return self._vendor.load_delegate(path, settings)
        except ValueError as error:
            raise DeviceBusyError(
                f"litert: {path} gives no delegate: {str(error).strip() or 'its device does not answer'}"
            ) from error

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return _ERRORS

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        kind: type[LinesideError] | None = error_kind(error)
        if kind is None and stage == "load":
            kind = UnsupportedModelError  # nothing but the file is left to complain of
        return (kind or EngineError)(f"{self.package} {stage}: {text or type(error).__name__}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Maker:
    """Makes interpreters of one model."""

    vendor: Any
    content: bytes
    threads: int | None
    delegates: list[Any]
    cores: tuple[int, ...] | None

    def __call__(self) -> Any:
        with on_cores(self.cores):  # its threads stay where they are started
            interpreter = self.vendor.Interpreter(
                model_content=self.content,
                num_threads=self.threads,
                experimental_delegates=self.delegates or None,
            )
            interpreter.allocate_tensors()
        return interpreter


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output of the file.

    Attributes:
        index: The interpreter's number for it.
        scale: Of the file's integers; 0 where the caller sees what the file holds.
        zero: The integer that means 0.
        dtype: The file's type.
    """

    index: int
    spec: TensorSpec
    scale: float
    zero: int
    dtype: Any

    def to_file(self, array: Array) -> Array:
        """Returns the caller's numbers as the file wants them."""
        if not self.scale:
            return array
        limits = np.iinfo(self.dtype)
        rounded: Array = np.rint(np.asarray(array, np.float32) / np.float32(self.scale)) + np.float32(self.zero)
        return np.asarray(np.clip(rounded, limits.min, limits.max), self.dtype)

    def from_file(self, array: Array) -> Array:
        """Returns the file's numbers as the caller wants them."""
        if not self.scale:
            return array
        return np.asarray((array.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale), np.float32)


def _tensors(details: Mapping[str, Any], specs: tuple[TensorSpec, ...], what: str) -> dict[str, _Tensor]:
    known = {spec.name: spec for spec in specs}
    names = match(specs, list(details), what)
    return {name: _tensor(name, details[own], known.get(name)) for name, own in names.items()}


def _tensor(name: str, detail: Mapping[str, Any], wanted: TensorSpec | None) -> _Tensor:
    dtype = np.dtype(detail["dtype"])
    signature = detail.get("shape_signature")
    free = detail["shape"] if signature is None or not len(signature) else signature
    spec = TensorSpec(name=name, shape=tuple(int(size) for size in free), dtype=dtype.name)
    scale, zero = detail["quantization"]
    if wanted is None or wanted.dtype == dtype.name:
        return _Tensor(detail["index"], spec, 0.0, 0, dtype)
    if not (wanted.dtype == "float32" and dtype.kind in "iu" and scale):
        raise UnsupportedModelError(f"tensor {name!r}", expected=wanted.describe(), actual=spec.describe())
    outside = TensorSpec(name=name, shape=spec.shape, dtype="float32", layout=wanted.layout)
    return _Tensor(detail["index"], outside, float(scale), int(zero), dtype)


class LiteRtExecutable(Executable):
    """A model, with as many interpreters as calls have run at once.

    An interpreter serves one call at a time; another one is made only when a call finds none idle, since each holds
    its own buffers. Where the manifest says float and the file has integers, they are converted by the file's scale.
    """

    def __init__(self, make: _Maker, options: LoadOptions, at_most: int) -> None:
        self._make = make
        self._free = threading.Semaphore(at_most)
        self._lock = threading.Lock()
        self._open = True
        first = make()
        self._idle = [first]
        inputs, outputs = _details(first)
        self._inputs = _tensors(inputs, options.inputs, "input")
        self._outputs = _tensors(outputs, options.outputs, "output")
        self._fixed = not any(DYNAMIC in tensor.spec.shape for tensor in self._inputs.values())

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not self._open:
            raise DeviceError("the executable is closed")
        if inputs.keys() != self._inputs.keys():  # it would compute with what lies there
            raise BadInputFormatError("other inputs", expected=sorted(self._inputs), actual=sorted(inputs))
        for name, tensor in self._inputs.items():
            tensor.spec.check(inputs[name])
        with self._interpreter() as interpreter:
            if not self._fixed:
                self._resize(interpreter, inputs)
            for name, tensor in self._inputs.items():
                interpreter.set_tensor(tensor.index, tensor.to_file(inputs[name]))
            with on_cores(self._make.cores):
                interpreter.invoke()
            return {
                name: tensor.from_file(interpreter.get_tensor(tensor.index))  # a copy
                for name, tensor in self._outputs.items()
            }

    @contextmanager
    def _interpreter(self) -> Iterator[Any]:
        with self._free:
            with self._lock:
                interpreter = self._idle.pop() if self._idle else None
            interpreter = interpreter or self._make()
            try:
                yield interpreter
            finally:
                with self._lock:
                    if self._open:
                        self._idle.append(interpreter)

    def _resize(self, interpreter: Any, inputs: Mapping[str, Array]) -> None:
        """Gives the interpreter the shapes of this call; if they don't go through the graph, it is as new again."""
        now = {detail["index"]: tuple(detail["shape"]) for detail in interpreter.get_input_details()}
        changed = [
            (tensor.index, inputs[name].shape)
            for name, tensor in self._inputs.items()
            if now[tensor.index] != inputs[name].shape
        ]
        if not changed:
            return
        try:
            for index, shape in changed:
                interpreter.resize_tensor_input(index, shape, strict=True)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            for index, shape in now.items():
                interpreter.resize_tensor_input(index, shape)
            interpreter.allocate_tensors()
            shapes = {name: array.shape for name, array in inputs.items()}
            raise BadInputFormatError(
                f"litert: these shapes don't go through the graph: {str(error).strip()}", actual=shapes
            ) from error

    def _close(self) -> None:
        with self._lock:
            self._open = False
            self._idle.clear()


def _details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns inputs and outputs by name: the signature's where the file has one, or else the tensors'."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return runner.get_input_details(), runner.get_output_details()
    sides = (interpreter.get_input_details(), interpreter.get_output_details())
    inputs, outputs = ({_plain(detail["name"]): detail for detail in side} for side in sides)
    return inputs, outputs


def _plain(name: str) -> str:
    """Returns ``x`` for the ``serving_default_x:0`` that TensorFlow's converter writes."""
    return name.removeprefix("serving_default_").partition(":")[0]
