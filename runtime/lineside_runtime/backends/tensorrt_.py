"""TensorRT: serialised engines ("plans") on NVIDIA's GPUs, above all a Jetson's.

Written from NVIDIA's documentation of TensorRT 10 (JetPack 6 has 10.3), ``ICudaEngine``, ``IExecutionContext``,
``IRuntime``: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ and
``python/src/infer/pyCore.cpp`` in https://github.com/NVIDIA/TensorRT; every name was looked up in the bindings of 11.4.
**Untested on hardware**; to test it: ``trtexec --onnx=conv.onnx --saveEngine=conv.engine``, then
``lineside conformance tensorrt --model conv=conv.engine``.

A plan is bound to the version of TensorRT that built it and to the kind of GPU. It is native code for the GPU, so that
it deserves the trust that the bundle's signature gives it and no more; code for the host inside it is not run
(``engine_host_code_allowed`` stays off). An ONNX model needs no plan on a Jetson: ONNX Runtime's TensorRT provider
builds one when it is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.backends.common.error_texts import device_error
from lineside_runtime.backends.common.operator_times import OperatorTimes
from lineside_runtime.backends.common.options import unloadable_library
from lineside_runtime.backends.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, CudaRuntime
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    DriverMismatchError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.system import drivers
from lineside_runtime.tensors import Array

MARKS: tuple[tuple[type[LinesideError], tuple[str, ...]], ...] = (
    (
        DriverMismatchError,
        (
            "not compatible with this version of tensorrt",
            "version tag does not match",
            "incompatible device",
            "platform specific tag mismatch",
            "cuda initialization failure",
        ),
    ),
    (UnsupportedModelError, ("magic tag", "magictag", "deserialization failure", "getplugincreator could not find")),
)
"""Lower-case pieces of what TensorRT logs when it refuses a plan, besides `messages.MARKS`."""

_REBUILD = "Build the plan again with this TensorRT on this kind of GPU, or take the bundle's ONNX variant."


class TensorRtBackend(Backend):
    """TensorRT."""

    name = "tensorrt"
    package = "tensorrt"
    formats = frozenset({"tensorrt"})
    untested_kinds = frozenset({"gpu"})

    def __init__(self, root: Path | str = "/") -> None:
        """Imports the vendor's package here, so that this file can be read where it isn't.

        Raises:
            ImportError: The package isn't installed.
            OSError: CUDA's runtime isn't.
        """
        import tensorrt

        self._trt: Any = tensorrt
        self._cuda = CudaRuntime()
        self._root = Path(root)
        self._log = _make_log(tensorrt)

    @property
    def version(self) -> str:
        """Version of ``tensorrt``."""
        return str(self._trt.__version__)

    def _probe(self) -> list[Device]:
        devices = []
        for index in range(self._cuda.devices()):
            name, memory_bytes = self._cuda.describe(index)
            devices.append(Device("gpu", index, name=name, memory_bytes=memory_bytes, handle=str(index)))
        return devices

    def _compatibility(self) -> Compatibility:
        driver, jetson = drivers.nvidia_driver(self._root), drivers.jetson_release(self._root)
        versions = {self.package: self.version, "CUDA runtime": self._cuda.version, "NVIDIA driver": driver}
        if jetson:
            versions["Jetson Linux"] = jetson
            return Compatibility(versions, bool(self._cuda.driver), "" if self._cuda.driver else "no driver answers")
        return drivers.cuda_fits(self._cuda.version, driver, versions=versions)

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        self._expect_here(device)
        self._cuda.use(int(device.handle))
        self._log.forget()
        for library in options.operator_libraries:
            if self._trt.get_plugin_registry().load_library(str(library)) is None:
                raise unloadable_library(library, self.name, self._log.text)
        self._trt.init_libnvinfer_plugins(self._log, "")
        runtime = self._trt.Runtime(self._log)
        runtime.engine_host_code_allowed = False
        engine = runtime.deserialize_cuda_engine(model.read_bytes())
        if engine is None:
            refused = translate(self._log.text or "the plan can't be read", "load")
            raise UnsupportedModelError(refused.message) if type(refused) is EngineError else refused
        context = engine.create_execution_context()
        if context is None:
            raise translate(self._log.text or "out of memory", "load")
        profiler = _make_profiler(self._trt) if options.profile else None
        if profiler is not None:
            context.profiler = profiler
        return TensorRtExecutable(self._trt, self._cuda, engine, context, self._log, profiler)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (RuntimeError, ValueError, TypeError, IndexError, MemoryError, OSError)  # it has none of its own

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        if isinstance(error, MemoryError):
            return OutOfDeviceMemoryError(f"tensorrt {stage}: {error}")
        return translate(f"{error} {self._log.text}".strip() or type(error).__name__, stage)


class TensorRtExecutable(Executable):
    """A plan with one execution context, one stream, and buffers on the GPU that grow with the largest call.

    A context can't run two calls at once: they wait for each other.
    """

    def __init__(self, trt: Any, cuda: CudaRuntime, engine: Any, context: Any, words: Any, profiler: Any) -> None:
        """Takes over what `TensorRtBackend.load` has made.

        Raises:
            UnsupportedModelError: An input or output has a type that numpy hasn't, or lies on the host.
        """
        self._trt, self._cuda, self._engine, self._context = trt, cuda, engine, context
        self._words, self._profiler = words, profiler
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._dtypes = {name: self._dtype(name) for name in names}
        self._buffers: dict[str, tuple[int, int]] = {}
        self._stream = cuda.stream()
        self._lock = threading.Lock()

    def _dtype(self, name: str) -> Any:
        if self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST:
            raise UnsupportedModelError(f"tensor {name!r} is a shape that the host computes with")
        kind = self._engine.get_tensor_dtype(name)
        try:
            return np.dtype(self._trt.nptype(kind))
        except TypeError as error:
            raise UnsupportedModelError(f"tensor {name!r} has the type {kind}, which numpy hasn't") from error

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs.keys() != set(self._inputs):
            raise BadInputFormatError("other inputs", expected=self._inputs, actual=sorted(inputs))
        with self._lock:
            if self._context is None:
                raise DeviceError("the executable is closed")
            self._cuda.use(int(self.device.handle))
            self._words.forget()
            kept = [self._give(name, inputs[name]) for name in self._inputs]  # alive until the copies are done
            answers = self._prepare_outputs()
            if not self._context.execute_async_v3(self._stream):
                raise translate(self._words.text or "the call was refused", "run")
            for name, array in answers.items():
                self._cuda.copy(array.ctypes.data, self._buffers[name][0], array.nbytes, DEVICE_TO_HOST, self._stream)
            self._cuda.wait(self._stream)
            del kept
        return answers

    def _give(self, name: str, array: Array) -> Array:
        if array.dtype != self._dtypes[name]:  # it would read the bytes as another type
            raise BadInputFormatError(f"input {name!r}", expected=self._dtypes[name], actual=array.dtype)
        if not self._context.set_input_shape(name, array.shape):
            shapes = self._engine.get_tensor_profile_shape(name, 0)
            raise BadInputFormatError(
                f"input {name!r} does not fit the plan",
                expected=f"{tuple(shapes[0])} to {tuple(shapes[2])}",
                actual=array.shape,
            )
        ready = np.ascontiguousarray(array)
        self._cuda.copy(self._buffer(name, ready.nbytes), ready.ctypes.data, ready.nbytes, HOST_TO_DEVICE, self._stream)
        return ready

    def _prepare_outputs(self) -> dict[str, Array]:
        answers: dict[str, Array] = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise UnsupportedModelError(f"output {name!r} has a size that depends on the data: {shape}")
            answers[name] = np.empty(shape, self._dtypes[name])
            self._buffer(name, answers[name].nbytes)
        return answers

    def _buffer(self, name: str, size: int) -> int:
        address, room = self._buffers.get(name, (0, 0))
        if room < size or not address:
            if address:
                self._cuda.free(address)
                del self._buffers[name]
            address = self._cuda.allocate(max(size, 1))
            self._buffers[name] = (address, max(size, 1))
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"tensorrt run: no address for {name!r}: {self._words.text}")
        return address

    def _operators(self) -> tuple[OperatorTime, ...]:
        if self._profiler is None:
            return ()
        means: tuple[OperatorTime, ...] = self._profiler.sums.means()
        return means

    def _close(self) -> None:
        with self._lock:
            if self._context is None:
                return
            self._cuda.use(int(self.device.handle))
            self._context = self._engine = None
            for address, _ in self._buffers.values():
                self._cuda.free(address)
            self._buffers.clear()
            self._cuda.end(self._stream)


def translate(text: str, stage: Stage) -> LinesideError:
    """Maps TensorRT's log to an error: it raises little and logs the reason."""
    lowered = text.lower()
    kind = next((kind for kind, marks in MARKS if any(mark in lowered for mark in marks)), None)
    kind = kind or device_error(text) or EngineError
    return kind(
        f"tensorrt {stage}: {text}", action=_REBUILD if kind is DriverMismatchError and stage == "load" else None
    )


def _make_log(trt: Any) -> Any:
    """Returns a logger of TensorRT's that keeps its errors; the base class is the vendor's, so it is made here."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.text = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.text = f"{self.text} {message}".strip()

        def forget(self) -> None:
            self.text = ""

    return Log()


def _make_profiler(trt: Any) -> Any:
    """Returns a profiler of TensorRT's that sums up the time of each layer."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.sums = OperatorTimes()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.sums.add([(layer_name, "layer", ms * 1000)])  # it doesn't tell the kind

    return Profiler()
