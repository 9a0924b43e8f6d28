"""ncnn: the CPU, and GPUs by Vulkan, which is the way to a Raspberry Pi 5's.

A model is two files: the graph as text (``.param``, which the manifest names) and the weights (``.bin``) beside it.
``pnnx`` makes them on the host; docs/reference/engines.md says how.

ncnn knows no batch: the items of one are run one by one. Neither does it check anything: an input of another shape
gives garbage or takes the process down, so that inputs are checked here against what the manifest says, or against
the sizes in the graph, and a model that tells neither is refused. What does not fit *inside* a graph is not noticed.

**Untested on hardware:** GPUs. Mesa's llvmpipe, a Vulkan driver that computes on the CPU, has run the conformance
suite; it is marked as emulated, and serves only where `Config.engines` names ncnn.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.backends.common.error_texts import error_kind
from lineside_runtime.backends.common.operator_times import OperatorTimes
from lineside_runtime.backends.common.options import refuse, threads_on_cores
from lineside_runtime.backends.common.tensor_names import match
from lineside_runtime.bundle import files_of
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    DeviceLostError,
    EngineError,
    InputNotFoundError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.logs import log
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.system.native_output import STDERR, redirected
from lineside_runtime.tensors import DYNAMIC, Array, InputCheck, TensorSpec

_CPU_GPU = 3
"""``GpuInfo.type`` of a driver that computes on the CPU (``gpu.h``: 0 discrete, 1 integrated, 2 virtual, 3 CPU)."""

_OUT_OF_MEMORY = -100
"""What ncnn returns where an allocation failed (``net.cpp``, ``layer.cpp``)."""

_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
"""The vendor has no exceptions of its own; it returns numbers, and its binding raises Python's."""

_FEATURES = re.compile(rb"\[\d+ [^\]]*\]  |\s*$")
"""A line of ncnn with a GPU's features (``gpu.cpp``), such as ``[0 V3D 7.1.7]  queueC=0[1]``, or an empty one."""

_searching = threading.Lock()
_searched = False

_AXES = ("2", "11", "1", "0")
"""Keys of an ``Input`` layer's sizes in a ``.param``: channels, depth, height, width."""


class NcnnBackend(Backend):
    """ncnn."""

    name = "ncnn"
    package = "ncnn"
    formats = frozenset({"ncnn"})
    untested_kinds = frozenset({"gpu"})

    def __init__(self) -> None:
        self._warned: set[Device] = set()

    @property
    def version(self) -> str:
        """Version of ``ncnn``."""
        return str(ncnn.__version__)

    def _probe(self) -> list[Device]:
        infos = _gpus()
        gpus = [
            Device("gpu", i, name=info.device_name(), handle=str(i), emulated=info.type() == _CPU_GPU)
            for i, info in enumerate(infos)
        ]
        return [*gpus, Device("cpu", name="CPU", handle="cpu")]

    def _compatibility(self) -> Compatibility:
        versions = {"ncnn": self.version}
        for info in _gpus():
            versions[f"Vulkan API of {info.device_name()}"] = _vulkan_version(info.api_version())
            versions[f"driver of {info.device_name()}"] = _vulkan_version(info.driver_version())
        if len(versions) > 1:
            return Compatibility(versions, True)
        return Compatibility(versions, advice="no Vulkan driver: for a GPU install Mesa's (mesa-vulkan-drivers)")

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        self._expect_here(device)
        refuse(options, self.name, "operator_libraries", why="its binding takes none")
        if device.emulated and device not in self._warned:
            self._warned.add(device)
            log.warning("ncnn/%s is %s, which computes on the CPU", device, device.name)
        files = files_of("ncnn", str(model))
        if len(files) < 2:
            raise UnsupportedModelError(f"{model} is no graph of ncnn's", expected="a name that ends with .param")
        if not Path(files[1]).exists():
            raise InputNotFoundError(f"no weights at {files[1]}", action="Put them beside the .param file.")
        sizes = read_sizes(model)
        net = _net(device, options)
        if net.load_param(str(model)) != 0 or net.load_model(files[1]) != 0:  # the reason goes to stderr
            raise UnsupportedModelError(f"ncnn can't read {model}; what it says of it is on stderr")
        return NcnnExecutable(net, options, sizes, by_layer=options.profile and device.kind == "cpu")

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return _ERRORS

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip()
        return (error_kind(error) or EngineError)(f"ncnn {stage}: {text or type(error).__name__}")


def _gpus() -> list[Any]:
    """Returns what ncnn knows of each GPU.

    The first search prints four lines of features for each one to stderr, and ncnn has no setting against it (only
    ``NCNN_SILENT`` when it is compiled, ``platform.h.in``). They go to the log as debug messages; what else is written
    meanwhile, such as why a driver failed, goes to stderr.
    """
    global _searched
    with _searching:
        if not _searched:
            with tempfile.TemporaryFile() as written:
                with redirected(STDERR, written.fileno()):
                    ncnn.get_gpu_count()
                written.seek(0)
                for line in written.read().splitlines(keepends=True):
                    if _FEATURES.match(line):
                        log.debug("ncnn: %s", line.decode(errors="replace").strip())
                    else:
                        os.write(STDERR, line)
            _searched = True
    return [ncnn.get_gpu_info(index) for index in range(ncnn.get_gpu_count())]


def _vulkan_version(number: int) -> str:
    """Returns Vulkan's packed version as text: 10 bits major, 10 minor, 12 patch (``VK_API_VERSION_MAJOR`` ...)."""
    return f"{number >> 22 & 0x7F}.{number >> 12 & 0x3FF}.{number & 0xFFF}"


def _net(device: Device, options: LoadOptions) -> Any:
    net = ncnn.Net()
    net.opt.use_vulkan_compute = device.kind == "gpu"
    half = options.precision == "fp16"
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, name, half)
    net.opt.use_bf16_storage = False
    net.opt.use_int8_inference = options.precision == "int8"
    threads = threads_on_cores(options, "ncnn")
    if threads is not None:
        net.opt.num_threads = threads
    if device.kind == "gpu":
        net.set_vulkan_device(int(device.handle))
    return net


def read_sizes(param: Path) -> dict[str, tuple[int, ...]]:
    """Returns the inputs of a ``.param`` file with their sizes, ``()`` where it tells none.

    Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure

    Raises:
        UnsupportedModelError: It is no such file.
    """
    try:
        lines = param.read_text(encoding="ascii").splitlines()
        layers = [line.split() for line in lines[2:] if line.split()]
        sizes = {}
        for kind, _, bottoms, tops, *rest in layers:
            if kind == "Input":
                facts = dict(item.split("=", 1) for item in rest[int(bottoms) + int(tops) :])
                sizes[rest[0]] = tuple(int(facts[key]) for key in _AXES if int(facts.get(key, 0)) > 0)
    except (ValueError, IndexError, OSError) as error:
        raise UnsupportedModelError(f"{param} is no graph of ncnn's: {error}") from error
    if not sizes:
        raise UnsupportedModelError(f"{param} is no graph of ncnn's: it has no input")
    return sizes


class NcnnExecutable(Executable):
    """A network; each call has an extractor of its own, so that several threads may run it at once."""

    def __init__(self, net: Any, options: LoadOptions, sizes: dict[str, tuple[int, ...]], *, by_layer: bool) -> None:
        self._net = net
        self._cores = options.cores
        specs = options.inputs or _specs(sizes)
        self._specs = tuple(_whole(spec) for spec in specs)
        self._check = InputCheck(self._specs)
        self._inputs = match(specs, net.input_names(), "input")
        self._outputs = match(options.outputs, net.output_names(), "output")
        self._shapes = {spec.name: spec.shape[1:] for spec in options.outputs}
        for spec in self._specs:
            _agree(spec, sizes.get(self._inputs[spec.name], ()))
        self._profile = _Profile(net) if by_layer else None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._net is None:
            raise DeviceError("the executable is closed")
        arrays = self._check(dict(inputs))
        batch = {len(array) for array in arrays.values()}
        if len(batch) != 1 or 0 in batch:
            raise BadInputFormatError("the inputs' batches differ or are empty", actual=sorted(batch))
        with on_cores(self._cores):
            items = [self._item({name: array[i] for name, array in arrays.items()}) for i in range(batch.pop())]
            if len(items) == 1:
                return {name: array[None] for name, array in items[0].items()}
            return {name: np.stack([item[name] for item in items]) for name in self._outputs}

    def _item(self, arrays: dict[str, Array]) -> dict[str, Array]:
        extractor = self._net.create_extractor()
        for name, array in arrays.items():
            whole = np.ascontiguousarray(array)  # held by a name: the Mat only points at it
            # cloned, because ncnn writes into what it is given, and crashes if it doesn't own it
            mat = ncnn.Mat(whole).clone()
            _succeeded(extractor.input(self._inputs[name], mat), name)
        if self._profile is not None:
            self._profile.walk(extractor)
        outputs: dict[str, Array] = {}
        for name, own in self._outputs.items():
            status, mat = extractor.extract(own)
            _succeeded(status, name)
            outputs[name] = self._shaped(name, np.array(mat))
        return outputs

    def _shaped(self, name: str, array: Array) -> Array:
        """Puts back the dimensions of size 1 that ncnn has dropped."""
        wanted = self._shapes.get(name)
        if wanted is None or DYNAMIC in wanted or array.shape == wanted:
            return array
        if array.size != np.prod(wanted):
            raise EngineError(f"ncnn gives output {name!r} another shape", expected=wanted, actual=array.shape)
        return array.reshape(wanted)

    def _operators(self) -> tuple[OperatorTime, ...]:
        return () if self._profile is None else self._profile.times()

    def _close(self) -> None:
        self._net = None
        self._profile = None


def _specs(sizes: dict[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    if not all(sizes.values()):
        raise UnsupportedModelError(
            "neither the manifest nor the graph tells the size of the inputs, and ncnn doesn't check it",
            action="Load it as a bundle, or write them there: `Input in0 0 1 in0 0=WIDTH 1=HEIGHT 2=CHANNELS`",
        )
    return tuple(TensorSpec(name=name, shape=(DYNAMIC, *shape)) for name, shape in sizes.items())


def _whole(spec: TensorSpec) -> TensorSpec:
    """Returns the spec with a free batch: one by one, any number of items can be run."""
    if spec.dtype != "float32" or not 2 <= len(spec.shape) <= 5:
        raise UnsupportedModelError(
            f"ncnn can't take input {spec.name!r}",
            expected="float32 of a batch and 1 to 4 dimensions",
            actual=spec.describe(),
        )
    return TensorSpec(name=spec.name, shape=(DYNAMIC, *spec.shape[1:]), layout=spec.layout)


def _agree(spec: TensorSpec, size: tuple[int, ...]) -> None:
    item = spec.shape[1:]
    if size and (
        len(size) != len(item) or any(want not in (DYNAMIC, have) for want, have in zip(item, size, strict=True))
    ):
        raise UnsupportedModelError(f"input {spec.name!r} is another in the graph", expected=item, actual=size)


def _succeeded(status: int, name: str) -> None:
    if status == _OUT_OF_MEMORY:
        raise OutOfDeviceMemoryError(f"ncnn had no memory for {name!r}")
    if status != 0:
        raise DeviceLostError(f"ncnn failed at {name!r} with status {status}; what it says of it is on stderr")


class _Profile:
    """Times each layer on the CPU, by extracting its output before the next one runs.

    The vendor's binding has no profile. The results are taken as they lie (``type`` 1): bringing them into the order
    that a caller wants took longer than small layers themselves.
    """

    def __init__(self, net: Any) -> None:
        self._layers = [(layer.name, layer.type, list(layer.tops)) for layer in net.layers() if layer.type != "Input"]
        self._sums = OperatorTimes()

    def walk(self, extractor: Any) -> None:
        """Runs a call layer by layer."""
        extractor.set_light_mode(False)  # or what was asked for early is thrown away and computed again
        spent: list[tuple[str, str, float]] = []
        for name, kind, tops in self._layers:
            started_ns = time.perf_counter_ns()
            for top in tops:
                extractor.extract(top, 1)
            spent.append((name, kind, (time.perf_counter_ns() - started_ns) / 1000))
        self._sums.add(spent)

    def times(self) -> tuple[OperatorTime, ...]:
        """Returns the mean time of each layer."""
        return self._sums.means()
