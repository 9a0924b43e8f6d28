"""A small third-party engine: it reads the ONNX graphs of the tests and computes them with numpy.

Its devices are numpy on the same CPU, offered as an NPU and a GPU, so that placement between kinds can be tried on a
machine that has neither. A device can be unplugged, which is what `unplugged` holds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceLostError, EngineError, LinesideError, UnsupportedModelError
from lineside_runtime.tensors import Array

unplugged: set[str] = set()
open_executables: set[int] = set()
threads_seen: set[int] = set()


class UnpluggedError(Exception):
    pass


class ClosedError(Exception):
    pass


class NumpyBackend(Backend):
    name = "numpy"
    package = "numpy"
    formats = frozenset({"onnx"})
    version = "1.0"

    def _probe(self) -> list[Device]:
        return [Device("npu", name="numpy as an NPU"), Device("gpu", name="numpy as a GPU")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if str(device) in unplugged:
            raise UnpluggedError(str(device))
        graph = onnx.load(model).graph
        if [node.op_type for node in graph.node] != ["Constant", "Mul"]:
            raise UnsupportedModelError("only y = factor * x")
        return NumpyExecutable(numpy_helper.to_array(graph.node[0].attribute[0].t), str(device))

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return UnpluggedError, ClosedError

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return (DeviceLostError if isinstance(error, UnpluggedError) else EngineError)(f"numpy {stage}: {error}")


class NumpyExecutable(Executable):
    def __init__(self, factor: Array, device: str) -> None:
        self._factor = factor
        self._device = device
        self._open = True
        open_executables.add(id(self))

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        threads_seen.add(threading.get_ident())
        if self._device in unplugged:
            raise UnpluggedError(self._device)
        if not self._open:
            raise ClosedError(self._device)
        result = {"y": np.asarray(inputs["x"]) * self._factor}
        if not self._open:
            raise ClosedError(self._device)
        return result

    def _close(self) -> None:
        self._open = False
        open_executables.discard(id(self))
