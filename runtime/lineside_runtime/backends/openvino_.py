"""OpenVINO: a second engine on Intel CPUs, GPUs and NPUs.

It runs the same quantised ONNX file as ONNX Runtime, as fast as a file of its own would be. Only its CPU has
been run by us.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import openvino

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.backends.common.error_texts import error_kind
from lineside_runtime.backends.common.operator_times import OperatorTimes
from lineside_runtime.backends.common.options import operator_library, threads_of
from lineside_runtime.devices import KINDS, Device, DeviceKind
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    EngineError,
    LinesideError,
    PartialFallbackError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.system import accelerators, drivers
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.system.heap import give_back
from lineside_runtime.tensors import DYNAMIC, Array, DType, TensorSpec

ERRORS = (
    "InitializationFailure",
    "GeneralFailure",
    "OpConversionFailure",
    "OpValidationFailure",
    "NotImplementedFailure",
)
"""Every exception class of the vendor's. Most of what it raises is ``RuntimeError``."""


_PYTHON_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
_graphs = threading.Lock()
"""Held while a graph is read or reshaped. `reshape` keeps Python's lock meanwhile: when four threads did both at once
for the first time, 2026.4 stood still for good in two of eight runs, and in none of sixteen with this."""

SHAPES_KNOWN_MAX = 1000

FIXED_SHAPES: frozenset[DeviceKind] = frozenset({"npu"})
"""Kinds of device whose plug-in takes no free dimension
(https://docs.openvino.ai/2025/documentation/compatibility-and-support/supported-devices.html, Dynamic shapes)."""

SHAPES_COMPILED_MAX = 4
"""Models that `FixedShapesExecutable` keeps, one for each shape of its inputs."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and shape of each input."""

_US = datetime.timedelta(microseconds=1)

_DTYPES: dict[str, DType] = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "boolean": "bool",
    "string": "string",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
}
"""OpenVINO's names of the element types that numpy has."""

LIBRARIES: dict[DeviceKind, dict[str, tuple[str, ...]]] = {
    "gpu": {"OpenCL loader": ("libOpenCL",), "Level Zero GPU driver": ("libze_intel_gpu",)},
    "npu": {"Level Zero loader": ("libze_loader",), "NPU driver": ("libze_intel_npu", "libze_intel_vpu")},
}
"""Kind of device to the libraries that it needs beside OpenVINO, each with the names that it has had.

https://docs.openvino.ai/2025/get-started/install-openvino/configurations.html: the GPU plug-in speaks OpenCL, the NPU
plug-in Level Zero.
"""

AUTO = "AUTO"
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
        self._cores: set[tuple[int, ...] | None] = set()

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
        return [*devices, *_auto(devices)]

    def _compatibility(self) -> Compatibility:
        return intel_compatibility({self.package: self.version}, {device.kind for device in self._probe()})

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        core = self._core
        if options.operator_libraries:
            core = openvino.Core()  # an extension is the whole core's, and others' models are none of its business
            for library in options.operator_libraries:
                with operator_library(library, self.name, RuntimeError):
                    core.add_extension(str(library))
        with _graphs:
            read = core.read_model(str(model))
        if device.kind in FIXED_SHAPES and device.handle != AUTO and read.is_dynamic():
            self._expect_here(device)  # nothing is compiled yet
            return FixedShapesExecutable(core, model, device, options)
        if device.kind == "cpu":
            self._warn_if_cores_differ(options.cores)
        with on_cores(options.cores):
            compiled = core.compile_model(read, device.handle, _properties(device, options))
        ports = _Ports(read, options)
        check = _ShapeCheck(core, model) if read.is_dynamic() else None
        del read
        give_back()  # compiling leaves holes, which the first run would not fill: 3 MB of ResNet-50's peak
        executable = OpenVinoExecutable(compiled, ports, check, options)
        if device.handle == AUTO:
            executable.shortfall = _auto_shortfall(compiled, device, options)
        return executable

    def _warn_if_cores_differ(self, cores: tuple[int, ...] | None) -> None:
        """Logs once for each choice of cores that other models of this process were given other ones.

        OpenVINO's threads are all its models', and it takes the caller's thread back to all cores (2026.4, measured).
        """
        if cores not in self._cores:
            self._cores.add(cores)
            if len(self._cores) > 1:
                chosen = ", ".join(sorted("all" if one is None else str(list(one)) for one in self._cores))
                log.warning(
                    "openvino: the models of this process share their threads, and keep to no cores: %s", chosen
                )

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        own = (getattr(openvino._pyopenvino, name, None) for name in ERRORS)
        return (*(kind for kind in own if kind is not None), openvino.exceptions.OVError, *_PYTHON_ERRORS)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        kind: type[LinesideError] | None = error_kind(error)
        if kind is None and stage == "load" and any(mark in text.lower() for mark in _UNREADABLE):
            kind = UnsupportedModelError
        return (kind or EngineError)(f"openvino {stage}: {text or type(error).__name__}")


def _auto(devices: list[Device]) -> list[Device]:
    """Returns OpenVINO's own choice as a device of the best kind, where there is something to choose."""
    if len(devices) < 2:
        return []
    kind = min((device.kind for device in devices), key=KINDS.index)
    index = sum(device.kind == kind for device in devices)
    return [Device(kind, index, name="AUTO, which OpenVINO chooses", handle=AUTO)]


def _auto_shortfall(compiled: Any, device: Device, options: LoadOptions) -> PartialFallbackError | None:
    """Returns the error to report if AUTO chose a device of another kind."""
    chosen = [str(name).strip("()") for name in compiled.get_property("EXECUTION_DEVICES")]
    if {_KINDS.get(name.partition(".")[0]) for name in chosen} == {device.kind}:
        return None
    shortfall = PartialFallbackError("openvino's AUTO chose another device", expected=device.kind, actual=chosen)
    if options.whole:
        raise shortfall
    return shortfall


class _ShapeCheck:
    """Tries new input shapes on the graph before they are run.

    With one thread the CPU plug-in of 2026.4 swallows a mismatch inside the graph: it gives the last call's output
    again, or crashes. With more threads it raises.
    """

    def __init__(self, core: Any, model: Path) -> None:
        self._core = core
        self._model = model
        self._known: set[Shapes] = set()

    def __call__(self, inputs: Mapping[str, Array]) -> None:
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        if shapes in self._known:
            return
        with _graphs:
            _reshaped(self._core, self._model, shapes)  # read again, so that no second copy stays in memory
        if len(self._known) < SHAPES_KNOWN_MAX:
            self._known.add(shapes)


def _reshaped(core: Any, model: Path, shapes: Shapes) -> Any:
    """Returns the graph of a file with the shapes of its inputs; `_graphs` must be held.

    Raises:
        BadInputFormatError: They don't go through the graph.
    """
    graph = core.read_model(str(model))
    try:
        graph.reshape({name: list(shape) for name, shape in shapes})
    except RuntimeError as error:
        text = str(error).strip()
        raise BadInputFormatError(
            f"openvino: these shapes don't go through the graph: {text}", actual=shapes
        ) from error
    return graph


def _properties(device: Device, options: LoadOptions) -> dict[str, Any]:
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device.handle == AUTO:  # it would begin on the CPU, change over while it runs, and back when a device fails
        properties |= {"ENABLE_STARTUP_FALLBACK": False, "ENABLE_RUNTIME_FALLBACK": False}
    if options.profile:
        properties["PERF_COUNT"] = True
    if device.kind != "cpu":
        return properties
    if options.precision != "fp16":
        # Or it computes in bf16 where the CPU can, also layers that an INT8 model keeps in float for their accuracy.
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    threads = threads_of(options)
    if options.calls > 1:  # else calls of one thread wait for each other
        properties["NUM_STREAMS"] = options.calls
        threads = options.threads * options.calls if options.threads else threads
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    if options.cores:
        properties["ENABLE_CPU_PINNING"] = False  # or it pins its threads where it likes
    return properties


class _Ports:
    """The names of a model's inputs and outputs as they are in the file.

    Compiling merges tensors: a compiled input may have lost its name, and an output has those of all tensors that it
    was merged with.

    Attributes:
        specs: Name to what it takes.
        outputs: One name each, in their order.
    """

    def __init__(self, model: Any, options: LoadOptions) -> None:
        self.inputs = {name: index for index, port in enumerate(model.inputs) for name in port.get_names()}
        wanted = [spec.name for spec in options.inputs]
        lost = [name for name in wanted if name not in self.inputs]
        nameless = [index for index, port in enumerate(model.inputs) if not port.get_names() & set(wanted)]
        if len(lost) == len(nameless):  # where an input is an output as well, only the output's name is left
            self.inputs.update(zip(lost, nameless, strict=True))
        self.specs = {name: _spec(name, model.inputs[index]) for name, index in self.inputs.items()}
        self.outputs: list[str] = []
        for port in model.outputs:
            names = port.get_names()
            free = [spec.name for spec in options.outputs if spec.name in names and spec.name not in self.outputs]
            self.outputs.append(free[0] if free else port.get_any_name())


def _spec(name: str, port: Any) -> TensorSpec:
    """Returns the specification of an input; ``any`` where numpy has no such type, or the file states no rank."""
    shape, element = port.get_partial_shape(), port.get_element_type().get_type_name()
    if shape.rank.is_dynamic or element not in _DTYPES:
        return TensorSpec(name=name, shape=(), dtype="any")
    sizes = tuple(DYNAMIC if size.is_dynamic else size.get_length() for size in shape)
    return TensorSpec(name=name, shape=sizes, dtype=_DTYPES[element])


def _times(nodes: Any) -> Iterator[tuple[str, str, float]]:
    """Yields OpenVINO's profile of a request's last call."""
    for node in nodes:
        if str(node.status).endswith(".EXECUTED"):
            yield node.node_name, node.node_type, node.real_time / _US


class OpenVinoExecutable(Executable):
    """A compiled model, with as many infer requests as calls run at once."""

    def __init__(self, compiled: Any, ports: _Ports, check: _ShapeCheck | None, options: LoadOptions) -> None:
        self._compiled = compiled
        self._check = check
        self._cores = options.cores
        self._inputs = ports.inputs
        self._specs = ports.specs
        self._count = len(compiled.inputs)
        self._outputs = ports.outputs
        self._idle: list[Any] = []
        self._profile = OperatorTimes() if options.profile else None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._compiled is None:
            raise DeviceError("the executable is closed")
        if len(inputs) != self._count or not inputs.keys() <= self._inputs.keys():  # else it takes what lies there
            raise BadInputFormatError("other inputs", expected=sorted(self._inputs), actual=sorted(inputs))
        for name, array in inputs.items():  # it converts other types silently
            self._specs[name].check(array)
        if self._check is not None:
            self._check(inputs)
        feed = {self._inputs[name]: array for name, array in inputs.items()}
        try:
            request = self._idle.pop()  # atomic, as is append
        except IndexError:
            request = self._compiled.create_infer_request()
        with on_cores(self._cores):
            results = request.infer(feed, share_inputs=True, share_outputs=False)
        if self._profile is not None:
            self._profile.add(_times(request.get_profiling_info()))
        self._idle.append(request)  # not after an error: it may be spoilt
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def _operators(self) -> tuple[OperatorTime, ...]:
        return () if self._profile is None else self._profile.means()

    def _close(self) -> None:
        self._compiled = None
        self._idle = []


class FixedShapesExecutable(Executable):
    """A model with free dimensions on a device that takes fixed shapes: compiled for each shape of its inputs.

    The first call with a shape compiles; a camera's frames have one shape, and the golden input may have another.
    """

    def __init__(self, core: Any, model: Path, device: Device, options: LoadOptions) -> None:
        with _graphs:
            graph = core.read_model(str(model))
        ports = _Ports(graph, options)
        self._specs, self._count = ports.specs, len(graph.inputs)
        self._compiled: dict[Shapes, OpenVinoExecutable] = {}  # the last used one comes last
        self._lock = threading.Lock()
        self._compile: Callable[[Shapes], OpenVinoExecutable] | None = partial(_compiled, core, model, device, options)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if len(inputs) != self._count or not inputs.keys() <= self._specs.keys():
            raise BadInputFormatError("other inputs", expected=sorted(self._specs), actual=sorted(inputs))
        for name, array in inputs.items():
            self._specs[name].check(array)
        return self._for(tuple((name, array.shape) for name, array in sorted(inputs.items())))._run(inputs)

    def _for(self, shapes: Shapes) -> OpenVinoExecutable:
        with self._lock:
            if self._compile is None:
                raise DeviceError("the executable is closed")
            found = self._compiled.pop(shapes, None) or self._compile(shapes)
            self._compiled[shapes] = found
            if len(self._compiled) > SHAPES_COMPILED_MAX:
                del self._compiled[next(iter(self._compiled))]  # freed with its last running call
            return found

    def _operators(self) -> tuple[OperatorTime, ...]:
        with self._lock:
            return next(reversed(self._compiled.values()))._operators() if self._compiled else ()

    def _close(self) -> None:
        with self._lock:
            self._compile = None
            self._compiled = {}


def _compiled(core: Any, model: Path, device: Device, options: LoadOptions, shapes: Shapes) -> OpenVinoExecutable:
    with _graphs:
        graph = _reshaped(core, model, shapes)
    log.info("openvino %s: compiling %s for %s", device, model.name, shapes)
    with on_cores(options.cores):
        compiled = core.compile_model(graph, device.handle, _properties(device, options))
    return OpenVinoExecutable(compiled, _Ports(graph, options), None, options)


def intel_compatibility(
    versions: Mapping[str, str], usable: Collection[DeviceKind], root: Path | str = "/"
) -> Compatibility:
    """Says whether each Intel GPU and NPU of this machine is one that OpenVINO can use."""
    here = [one for one in accelerators.find(root) if "openvino" in one.engines]
    found = dict(versions)
    for kind in dict.fromkeys(one.kind for one in here):
        for title, stems in LIBRARIES.get(kind, {}).items():
            found[title] = next(filter(None, (drivers.library_version(stem, root=root) for stem in stems)), "")
    idle = [one for one in here if one.kind not in usable]
    advice = "; ".join(f"OpenVINO doesn't see the {one.name}, which needs {one.needs}" for one in idle)
    return Compatibility(found, not idle if here else None, advice)
