"""A small third-party engine: it reads the ONNX graphs of the tests and computes them with numpy.

Its devices are numpy on the same CPU, offered as an NPU and a GPU, so that placement between kinds can be tried on a
machine that has neither. A device can be made to fail as real ones do: see `unplugged`, `full`, `crashing`, `held`,
`slow_s` and `cold_s`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from lineside_runtime.backend import Backend, Executable, LoadOptions, Stage
from lineside_runtime.devices import Device
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DeviceLostError,
    EngineCrashedError,
    EngineError,
    LinesideError,
    OutOfDeviceMemoryError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import Array, TensorSpec

INPUT = TensorSpec(name="x", shape=(-1, 4))
HELD_AT_MOST_S = 60.0
PROBE = "probe"
DIES = "LINESIDE_NUMPY_ENGINE_DIES"
"""Environment variable: the device whose calls end the process, as a driver's fault does."""

unplugged: set[str] = set()
"""Devices that answer no more."""
full: set[str] = set()
"""Devices without room for another model or call."""
crashing: set[str] = set()
"""Devices whose process has died."""
held: dict[str, threading.Event] = {}
"""Devices whose calls hang until the event is set, and then answer; `PROBE` for the search of devices."""
also: list[Device] = []
"""Further devices."""
slow_s: dict[str, float] = {}
"""Devices whose calls take so long."""
cold_s: dict[str, float] = {}
"""Devices whose call takes so much longer if the one before was another device's."""
slow_load_s: dict[str, float] = {}
"""Devices on which a model takes so long to load."""
open_executables: set[int] = set()
threads_seen: set[int] = set()
begun: Counter[str] = Counter()
"""Calls that each device was given."""
last: list[str] = []
"""Device of the last call."""
begins = threading.Condition()


def reset() -> None:
    """Plugs everything in again, and lets what hangs go on."""
    for event in held.values():
        event.set()
    for state in (unplugged, full, crashing, held, slow_s, cold_s, slow_load_s, begun, last, also):
        state.clear()


def wait_begun(device: str, calls: int, timeout_s: float = 20.0) -> bool:
    """Waits until a device was given so many calls."""
    with begins:
        return begins.wait_for(lambda: begun[device] >= calls, timeout_s)


class UnpluggedError(Exception):
    pass


class FullError(Exception):
    pass


class CrashedError(Exception):
    pass


class ClosedError(Exception):
    pass


MEANING: dict[type[Exception], type[LinesideError]] = {
    UnpluggedError: DeviceLostError,
    FullError: OutOfDeviceMemoryError,
    CrashedError: EngineCrashedError,
    ClosedError: EngineError,
    DecodeError: UnsupportedModelError,
}


def fail_if_asked(device: str) -> None:
    for broken, error in ((unplugged, UnpluggedError), (full, FullError), (crashing, CrashedError)):
        if device in broken:
            raise error(device)


class NumpyBackend(Backend):
    name = "numpy"
    package = "numpy"
    formats = frozenset({"onnx"})
    version = "1.0"

    def _probe(self) -> list[Device]:
        if (hangs := held.get(PROBE)) is not None:
            hangs.wait(HELD_AT_MOST_S)
        return [Device("npu", name="numpy as an NPU"), Device("gpu", name="numpy as a GPU"), *also]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if str(device) in slow_load_s:
            threading.Event().wait(slow_load_s[str(device)])
        fail_if_asked(str(device))
        if device not in self._probe():
            raise UnpluggedError(str(device))
        if options.operator_libraries:
            raise ConfigError("numpy has no operator libraries", actual=options.operator_libraries)
        graph = onnx.load(model).graph
        if [node.op_type for node in graph.node] != ["Constant", "Mul"]:
            raise UnsupportedModelError("only y = factor * x")
        return NumpyExecutable(numpy_helper.to_array(graph.node[0].attribute[0].t), str(device))

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return tuple(MEANING)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return MEANING[type(error)](f"numpy {stage}: {error}")


class NumpyExecutable(Executable):
    def __init__(self, factor: Array, device: str) -> None:
        self._factor = factor
        self._device = device
        self._open = True
        open_executables.add(id(self))

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if os.environ.get(DIES) == self._device:
            os._exit(11)
        threads_seen.add(threading.get_ident())
        with begins:
            begun[self._device] += 1
            cold, last[:] = last != [self._device], [self._device]
            begins.notify_all()
        hangs = held.get(self._device)
        if hangs is not None:
            hangs.wait(HELD_AT_MOST_S)
        wait_s = slow_s.get(self._device, 0.0) + cold * cold_s.get(self._device, 0.0)
        if wait_s:
            threading.Event().wait(wait_s)
        if hangs is None:
            fail_if_asked(self._device)
        if not self._open:
            raise ClosedError(self._device)
        if inputs.keys() != {"x"}:
            raise BadInputFormatError("other inputs", expected="x", actual=sorted(inputs))
        INPUT.check(inputs["x"])
        result = {"y": inputs["x"] * self._factor}
        if not self._open:
            raise ClosedError(self._device)
        return result

    def _close(self) -> None:
        self._open = False
        open_executables.discard(id(self))
