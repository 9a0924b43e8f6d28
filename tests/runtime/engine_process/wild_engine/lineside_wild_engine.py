"""A third-party engine that does to its process what vendors' engines do, when the input ``do`` names it.

It gives back every other input as it is, so that what travels can be compared.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lineside_runtime.backend import Backend, Compatibility, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.devices import Device
from lineside_runtime.errors import BadInputFormatError, DeviceBusyError, EngineError, LinesideError
from lineside_runtime.tensors import Array

ACTS = ("echo", "segfault", "abort", "exit", "hang", "hang with the lock", "leave", "refuse", "break", "bug", "meet")
MEETING = threading.Barrier(2)


class WildError(Exception):
    pass


class WildBackend(Backend):
    name = "wild"
    package = "lineside-wild-engine"
    formats = frozenset({"onnx"})
    untested_kinds = frozenset({"npu"})

    @property
    def version(self) -> str:
        return "1.0"

    def _probe(self) -> list[Device]:
        return [Device("cpu", 0, name=f"in process {os.getpid()}", memory_bytes=1 << 40, handle="wild")]

    def _compatibility(self) -> Compatibility:
        return Compatibility({"driver": "7", "wild": "1.0"}, fits=False, advice="Install driver 8.")

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        if b"crash on load" in model.read_bytes():
            os.abort()
        return WildExecutable(device, options)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (WildError,)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return DeviceBusyError(f"wild {stage}: {error}", expected="peace", actual=3, action="Wait.")


class WildExecutable(Executable):
    def __init__(self, device: Device, options: LoadOptions) -> None:
        self._facts = f"{device.handle} {options}"

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        do = ACTS[int(inputs["do"].ravel()[0])] if "do" in inputs else "echo"
        print(f"told to {do}", file=sys.stderr, flush=True)
        if do == "segfault":
            ctypes.string_at(0)
        elif do == "abort":
            os.abort()
        elif do == "exit":
            os._exit(3)
        elif do == "hang":
            threading.Event().wait()
        elif do == "hang with the lock":
            ctypes.PyDLL(None).sleep(600)
        elif do == "leave":
            sys.exit(1)
        elif do == "refuse":
            raise BadInputFormatError("input 'x'", expected="(1, 4) float32", actual=(2, 4))
        elif do == "break":
            raise WildError("it broke")
        elif do == "bug":
            raise ZeroDivisionError("nobody said so")
        elif do == "meet":
            MEETING.wait(60)  # returns only if another call is in here at the same time
        return {name: array for name, array in inputs.items() if name != "do"} or {"y": np.zeros(1)}

    def _operators(self) -> tuple[OperatorTime, ...]:
        if "profile=True" not in self._facts:
            raise EngineError(f"no profile: {self._facts}")
        return (OperatorTime("conv1", "Conv", 3, 12.5),)

    def _close(self) -> None:
        self._facts = ""
