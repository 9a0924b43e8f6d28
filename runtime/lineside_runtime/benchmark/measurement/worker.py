"""The process of one contestant: ``python -m lineside_runtime.benchmark.measurement.worker``; `process` starts it.

It loads the bundle with a `Session` and then answers commands, one a line, until its standard input ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from lineside_runtime.backend import Executable, OperatorTime
from lineside_runtime.benchmark.measurement import input_data
from lineside_runtime.benchmark.measurement.contestants import of_level
from lineside_runtime.benchmark.measurement.process_tree import cpu_of_children_s, memory_use
from lineside_runtime.benchmark.measurement.protocol import (
    AskMemory,
    MeasurementTask,
    OperatorRow,
    Profiled,
    ProfileTask,
    Ready,
    Reply,
    Turn,
    TurnTimed,
    WarmUp,
    config_from_plain,
    decode_command,
    encode,
    failed,
)
from lineside_runtime.benchmark.measurement.runner import TurnRunner
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import EngineError, LinesideError
from lineside_runtime.serving.candidates import PlacementCandidate, choose
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

STAGES = "+"
"""Stands between the devices of a model in stages."""


def main() -> int:
    """Serves until standard input ends."""
    _end_with_the_parent()
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what an engine prints must not stand between the answers
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the parent ended before it sent a task
        return 0
    task = decode_command(line)
    if not isinstance(task, MeasurementTask):
        raise EngineError("the first line is no task")
    try:
        measured = ContestantWorker(task)
        answers.write(encode(measured.ready))
        measured.serve(sys.stdin.buffer, answers)
    except LinesideError as error:
        answers.write(encode(failed(error)))
    return 0


def _end_with_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the whole group; the parent ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ContestantWorker:
    """A loaded contestant.

    Attributes:
        ready: Its first answer.
    """

    def __init__(self, task: MeasurementTask) -> None:
        """Opens, loads and runs once."""
        self._task = task
        self._config = config_from_plain(task.config)
        before = memory_use().resident_mb
        began_ns = time.monotonic_ns()
        source = Path(task.folder) if task.level is None else of_level(open_bundle(Path(task.folder)), task.level)
        self._session = Session(source, self._config)
        loaded_ns = time.monotonic_ns()
        self._inputs = self._make_inputs()
        self._session.predict(self._inputs)
        first_ms = (time.monotonic_ns() - task.spawned_ns) / 1e6
        self._runner = TurnRunner(self._call, task.streams, warm_max_s=task.warm_max_s)
        candidate = self._candidate()
        self.ready = Ready(
            first_result_ms=first_ms,
            load_ms=(loaded_ns - began_ns) / 1e6,
            before_mb=before,
            variant=self._session.variant if candidate is None else candidate.variant.name,
            requested_device=self._session.requested_device,
            used_device=self._session.used_device,
            device_name="" if candidate is None else candidate.device.name,
            engine_version="" if candidate is None else candidate.backend.version,
            fallbacks=tuple(f"{one.device} during {one.during}: {one.reason}" for one in self._session.fallbacks),
            shapes={name: array.shape for name, array in self._inputs.items()},
        )

    def serve(self, commands: BinaryIO, answers: BinaryIO) -> None:
        """Answers each command with one line, until there are no more."""
        for line in commands:
            answers.write(encode(self._answer(line)))
        self._runner.close()
        self._session.close()

    def _answer(self, line: bytes) -> Reply:
        command = decode_command(line)
        if isinstance(command, WarmUp):
            return self._runner.warm()
        if isinstance(command, Turn):
            return self._turn(command.calls)
        if isinstance(command, AskMemory):
            return memory_use()
        if isinstance(command, ProfileTask):
            return self._profile(command.runs)
        raise EngineError("a second task")

    def _call(self) -> None:
        self._session.predict(self._inputs)

    def _turn(self, calls: int) -> TurnTimed:
        before_s = cpu_of_children_s()
        timed = self._runner.turn(calls)
        below_s = (cpu_of_children_s() - before_s) * calls / (calls + self._task.streams)  # without the untimed calls
        return msgspec.structs.replace(
            timed,
            cpu_s=timed.cpu_s + below_s,
            used_devices=(self._session.used_device,),
            rerouted=self._session.rerouted,
        )

    def _make_inputs(self) -> dict[str, Array]:
        if self._task.inputs:
            return input_data.read_inputs(Path(self._task.inputs))
        return input_data.noise(self._session.manifest, self._task.batch)

    def _candidate(self) -> PlacementCandidate | None:
        """Returns what answered; ``None`` for a model in stages."""
        if STAGES in self._session.used_device:  # the search would import every engine, and find none of this name
            return None
        choice = choose(self._session.manifest, self._config)
        for index in itertools.count():  # one by one: those behind it would be imported for nothing
            candidate = choice.at(index)
            if candidate is None or str(candidate) == self._session.used_device:
                return candidate
        return None

    def _profile(self, runs: int) -> Profiled:
        candidate = self._candidate()
        if candidate is None:
            return Profiled(runs=0, run_ms=0.0, warm=False, operators=())
        load = functools.partial(candidate.load, self._session.bundle, self._config, profile=True)
        return profiled(load, self._inputs, runs, warm_max_s=self._task.warm_max_s)


def profiled(load: Callable[[], Executable], inputs: dict[str, Array], runs: int, *, warm_max_s: float) -> Profiled:
    """Asks an engine what its operators took.

    Some engines' profile ends when it is read, so that the warm-up can't be taken out of it: then the model is loaded
    once more, and read only at the end.
    """
    warm = _read_profile(load, inputs, runs, warm_max_s, twice=True)
    return warm if warm.operators else _read_profile(load, inputs, runs, warm_max_s, twice=False)


def _read_profile(
    load: Callable[[], Executable], inputs: dict[str, Array], runs: int, warm_max_s: float, *, twice: bool
) -> Profiled:
    with contextlib.closing(load()) as executable:
        runner = TurnRunner(lambda: executable.run(inputs), 1, warm_max_s=warm_max_s)
        warmed = runner.warm()
        before = executable.operators() if twice else ()
        timed = runner.turn(runs)
        rows = _after(executable.operators(), before) if twice else [_row(one) for one in executable.operators()]
    run_ms = statistics.median(timed.times_ms)
    counted = runs + 1 if twice else runs + 1 + warmed.calls
    return Profiled(runs=counted, run_ms=run_ms, warm=twice, operators=tuple(rows))


def _after(now: tuple[OperatorTime, ...], before: tuple[OperatorTime, ...]) -> list[OperatorRow]:
    """Takes the calls of the warm-up out; empty if the profile did not go on after it was read."""
    if [(one.kind, one.name) for one in now] != [(one.kind, one.name) for one in before]:
        return []
    rows = []
    for late, early in zip(now, before, strict=True):
        calls = late.calls - early.calls
        if calls > 0:
            total_us = late.calls * late.mean_us - early.calls * early.mean_us
            rows.append(OperatorRow(kind=late.kind, name=late.name, calls=calls, mean_us=max(0.0, total_us / calls)))
    return rows


def _row(one: OperatorTime) -> OperatorRow:
    return OperatorRow(kind=one.kind, name=one.name, calls=one.calls, mean_us=one.mean_us)


if __name__ == "__main__":
    raise SystemExit(main())
