"""Third-party engines for the benchmark's tests: ``y = 2 * x``, each with one thing that the benchmark must show.

``swift`` does it at once, ``slow`` takes some milliseconds more, ``dying`` takes its process down at the third call,
``unready`` offers an NPU that never loads. Each call is written into the file that `CALLS_FILE` names, so that a test
can count from outside what the benchmark says of itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lineside_runtime.backend import Backend, Executable, LoadOptions, OperatorTime, Stage
from lineside_runtime.devices import Device
from lineside_runtime.errors import DeviceLostError, EngineError, LinesideError
from lineside_runtime.tensors import Array

CALLS_FILE = "LINESIDE_TEST_CALLS"
SLOW_S = 0.004


class BenchError(Exception):
    pass


class SwiftBackend(Backend):
    name = "swift"
    package = "swift"
    formats = frozenset({"onnx"})
    version = "1.5"
    busy_s = 0.0
    dies_at = 0

    def _probe(self) -> list[Device]:
        return [Device("cpu", name=f"the {self.name} one")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        return DoublingExecutable(self.name, self.busy_s, self.dies_at, options.profile)

    def _vendor_errors(self) -> tuple[type[Exception], ...]:
        return (BenchError,)

    def _translate(self, error: Exception, stage: Stage) -> LinesideError:
        return (DeviceLostError if stage == "load" else EngineError)(f"{self.name} {stage}: {error}")


class SlowBackend(SwiftBackend):
    name = "slow"
    busy_s = SLOW_S


class DyingBackend(SwiftBackend):
    name = "dying"
    dies_at = 3


class UnreadyBackend(SwiftBackend):
    name = "unready"

    def _probe(self) -> list[Device]:
        return [Device("npu", name="an NPU that never loads")]

    def _load(self, model: Path, device: Device, options: LoadOptions) -> Executable:
        raise BenchError("no firmware")


class DoublingExecutable(Executable):
    def __init__(self, name: str, busy_s: float, dies_at: int, profile: bool) -> None:
        self._name, self._busy_s, self._dies_at, self._profile = name, busy_s, dies_at, profile
        self._calls = 0

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._calls += 1
        if self._calls == self._dies_at:
            os.kill(os.getpid(), signal.SIGSEGV)
        self._note(np.asarray(inputs["x"]))
        until = time.perf_counter() + self._busy_s
        while time.perf_counter() < until:
            pass
        return {"y": np.asarray(inputs["x"]) * 2}

    def _note(self, x: Array) -> None:
        path = os.environ.get(CALLS_FILE)
        if path:
            with Path(path).open("a") as file:
                file.write(f"{self._name} {os.getpid()} {x.shape[0]} {float(x.flat[0]):.6f}\n")

    def _operators(self) -> tuple[OperatorTime, ...]:
        if not self._profile:
            return ()
        return (
            OperatorTime(name="double", kind="Mul", calls=self._calls, mean_us=30.0),
            OperatorTime(name="wait", kind="Spin", calls=self._calls, mean_us=60.0),
            OperatorTime(name="wait again", kind="Spin", calls=self._calls, mean_us=10.0),
        )

    def _close(self) -> None:
        pass
