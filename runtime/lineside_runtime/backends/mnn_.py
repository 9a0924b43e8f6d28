"""MNN: ``.mnn`` models on the CPU, by Alibaba's package ``MNN``, which has wheels for x86_64 and aarch64.

The file tells the sizes of its inputs but not which of them are free, so that inputs are checked against the manifest,
or, without one, against the file. The package writes to stdout: the processor's features when it is imported, and why
a file or a shape is refused, which is sent to stderr, since stdout is the caller's.

The vendor's GPU backends (OpenCL, Vulkan) are not in its wheels: https://github.com/alibaba/MNN/tree/master/pymnn
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lineside_runtime.backend import Backend, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.backends.common.error_texts import error_kind
from lineside_runtime.backends.common.operator_times import OperatorTimes
from lineside_runtime.backends.common.options import refuse, threads_on_cores
from lineside_runtime.backends.common.tensor_names import match
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    DeviceError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.system.affinity import on_cores
from lineside_runtime.system.native_output import STDERR, STDOUT, redirected
from lineside_runtime.tensors import DYNAMIC, Array, InputCheck, TensorSpec

with Path(os.devnull).open("wb") as _nowhere, redirected(STDOUT, _nowhere.fileno()):
    import MNN

_OUT_OF_MEMORY, _SIZES = 1, 3
"""Of ``MNN::ErrorCode`` (``include/MNN/ErrorCode.hpp``): allocation failed, shapes don't go through the graph."""


class MnnBackend(Backend):
    """MNN."""

    name = "mnn"
    package = "mnn"
    formats = frozenset({"mnn"})

    @property
    def version(self) -> str:
        """Version of ``MNN``."""
        return str(MNN.version())

    def _probe(self) -> list[Device]:
        return [Device("cpu", name="CPU", handle="cpu")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        self._expect_here(device)
        refuse(options, self.name, "operator_libraries", why="its binding takes none")
        threads = threads_on_cores(options, self.name)
        with redirected(STDOUT, STDERR):
            net = MNN.Interpreter(str(model))
        at_most = max(1, (os.cpu_count() or 1) // (threads or 1))
        return MnnExecutable(_SessionMaker(net, threads, options.precision == "fp16"), options, at_most)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (Exception,)  # its binding raises plain ones

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        text = str(error).strip() or type(error).__name__
        kind: type[LinesideError] | None = error_kind(error)
        if kind is None and stage == "load":
            kind = UnsupportedModelError  # nothing but the file is left to complain of
        return (kind or EngineError)(f"mnn {stage}: {text}")


class _SessionMaker:
    """Makes sessions of one model; they share its weights."""

    def __init__(self, net: Any, threads: int | None, half: bool) -> None:
        self.net = net
        self._settings: dict[str, Any] = {"backend": "CPU", "precision": "low" if half else "normal"}
        if threads is not None:
            self._settings["numThread"] = threads
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock, redirected(STDOUT, STDERR):
            return self.net.createSession(self._settings)


class MnnExecutable(Executable):
    """A model, with as many sessions as calls have run at once.

    A session serves one call at a time; another one is made only when a call finds none idle, since each holds its own
    buffers.
    """

    def __init__(self, make: _SessionMaker, options: LoadOptions, at_most: int) -> None:
        self._make: _SessionMaker | None = make
        self._cores = options.cores
        self._free = threading.Semaphore(at_most)
        self._lock = threading.Lock()
        first = make()
        self._idle = [first]
        found = make.net.getSessionInputAll(first)
        self._inputs = match(options.inputs, sorted(found), "input")
        self._outputs = match(options.outputs, sorted(make.net.getSessionOutputAll(first)), "output")
        self._shapes = {spec.name: spec.shape for spec in options.outputs}
        for name, own in self._inputs.items():
            _expect_floats(name, found[own])
        self._specs = options.inputs or tuple(
            TensorSpec(name=name, shape=_free_sizes(found[own])) for name, own in self._inputs.items()
        )
        for spec in self._specs:
            _agree(spec, _free_sizes(found[self._inputs[spec.name]]))
        self._check = InputCheck(self._specs)
        self._times = OperatorTimes() if options.profile else None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        make = self._make
        if make is None:
            raise DeviceError("the executable is closed")
        arrays = self._check(dict(inputs))
        if any(0 in array.shape for array in arrays.values()):
            raise BadInputFormatError("an input is empty", actual={name: a.shape for name, a in arrays.items()})
        with self._session(make) as session, on_cores(self._cores):
            own = make.net.getSessionInputAll(session)
            self._resize(make.net, session, own, arrays)
            for name, array in arrays.items():
                tensor = own[self._inputs[name]]
                whole = np.ascontiguousarray(array)  # held by a name: the host tensor may only point at it
                tensor.copyFrom(_host(tensor, whole))
            _succeeded(self._compute(make.net, session))
            found = make.net.getSessionOutputAll(session)
            return {name: self._shaped(name, _read(found[own_name])) for name, own_name in self._outputs.items()}

    def _compute(self, net: Any, session: Any) -> int:
        if self._times is None:
            return int(net.runSession(session))
        spent: list[tuple[str, str, float]] = []
        started_ns = 0

        def before(_: Any, __: Any) -> bool:
            nonlocal started_ns
            started_ns = time.perf_counter_ns()
            return True

        def after(_: Any, operator: Any) -> bool:
            spent.append((operator.getName(), operator.getType(), (time.perf_counter_ns() - started_ns) / 1000))
            return True

        status = int(net.runSessionWithCallBackInfo(session, before, after))
        self._times.add(spent)
        return status

    @contextlib.contextmanager
    def _session(self, make: _SessionMaker) -> Iterator[Any]:
        with self._free:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            session = session or make()
            try:
                yield session
            finally:
                with self._lock:
                    if self._make is not None:
                        self._idle.append(session)

    def _resize(self, net: Any, session: Any, own: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        changed = [name for name, array in arrays.items() if tuple(own[self._inputs[name]].getShape()) != array.shape]
        if not changed:
            return
        for name in changed:
            net.resizeTensor(own[self._inputs[name]], arrays[name].shape)
        with redirected(STDOUT, STDERR):
            net.resizeSession(session)

    def _shaped(self, name: str, array: Array) -> Array:
        """Refuses an answer of another shape: a size that the converter has fixed inside the graph."""
        wanted = self._shapes.get(name)
        if wanted is not None and (
            len(wanted) != array.ndim
            or any(want not in (DYNAMIC, have) for want, have in zip(wanted, array.shape, strict=True))
        ):
            raise BadInputFormatError(
                f"mnn gives output {name!r} another shape for these inputs", expected=wanted, actual=array.shape
            )
        return array

    def _operators(self) -> tuple[OperatorTime, ...]:
        return () if self._times is None else self._times.means()

    def _close(self) -> None:
        with self._lock:
            self._make = None
            self._idle.clear()


def _host(tensor: Any, array: Array) -> Any:
    return MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, _layout(tensor))


def _layout(tensor: Any) -> int:
    """Returns how a host tensor lies that is copied from or to this one: by channels last only for TensorFlow's."""
    last = tensor.getDimensionType() == MNN.Tensor_DimensionType_Tensorflow
    return int(MNN.Tensor_DimensionType_Tensorflow if last else MNN.Tensor_DimensionType_Caffe)


def _read(tensor: Any) -> Array:
    """Returns an output as float32. The tensor's own memory may be INT8 or blocked by channels."""
    shape = tuple(tensor.getShape())
    if not all(size > 0 for size in shape):
        raise BadInputFormatError("mnn: these shapes don't go through the graph", actual=shape)
    host = _host(tensor, np.zeros(shape, np.float32))
    if not tensor.copyToHostTensor(host):
        raise EngineError("mnn can't copy an output")
    return np.array(host.getNumpyData(), np.float32)


def _free_sizes(tensor: Any) -> tuple[int, ...]:
    return tuple(size if size > 0 else DYNAMIC for size in tensor.getShape())


def _expect_floats(name: str, tensor: Any) -> None:
    if tensor.getDataType() != MNN.Halide_Type_Float:
        raise UnsupportedModelError(f"mnn: input {name!r}", expected="float32", action="Convert it with float inputs.")


def _agree(spec: TensorSpec, size: tuple[int, ...]) -> None:
    """Compares a size of an item with the file's; the converter writes 1 for a free batch."""
    if spec.dtype != "float32":
        raise UnsupportedModelError(f"mnn can't take input {spec.name!r}", expected="float32", actual=spec.describe())
    item, own = spec.shape[1:], size[1:]
    if len(item) != len(own) or any(DYNAMIC not in (a, b) and a != b for a, b in zip(item, own, strict=True)):
        raise UnsupportedModelError(f"input {spec.name!r} is another in the graph", expected=spec.shape, actual=size)


def _succeeded(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise OutOfDeviceMemoryError("mnn had no memory for a call")
    if status == _SIZES:
        raise BadInputFormatError("mnn: these shapes don't go through the graph; what it says of it is on stderr")
    if status != 0:
        raise EngineError(f"mnn failed with status {status}")
