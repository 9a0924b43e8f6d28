"""The contestants' processes, and the two phases: each alone for start and memory, all in turn for latency."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.others.environments import python_of
from benchmarks.others.networks import HERE, Network, environment
from benchmarks.smoke import scaled

ALONE_RUNS = scaled(5, smoke=2)
ALONE_CALLS = scaled(20, smoke=1)
ROUNDS = scaled(40, smoke=2)
TURN_CALLS = 2


class Contestant:
    """Somebody who runs a network."""

    def __init__(self, name: str, python: Path, worker: str, model: Path, extra: dict[str, str] | None = None) -> None:
        self.name = name
        self._command: list[str | Path] = [python, HERE / worker]
        self._model = model
        self._environment = {**environment(), **(extra or {})}

    def start(self, network: Network) -> Running:
        """Starts a process, which has answered once when this returns."""
        core = str(max(os.sched_getaffinity(0)))
        tail = [core, network.kind, str(self._model), str(network.frame)]
        return Running(self.name, [*self._command, str(time.monotonic_ns()), *tail], self._environment)


class Running:
    """A contestant's process.

    Attributes:
        first_ms: From its start to its first answer.
        answer: What it found in the frame: ``[class, score, x1, y1, x2, y2]`` each.
    """

    def __init__(self, name: str, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            answer = self._answer()
        except BaseException:  # an interrupt too: nobody else knows of the process yet who could end it
            self.end()
            raise
        self.first_ms: float = answer["first_ms"]
        self.answer: list[list[float]] = answer["boxes"]

    def turn(self, calls: int) -> dict[str, Any]:
        """Times so many calls; gives ``times_ms``, ``resident_mb`` and ``peak_mb``."""
        print(calls, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            _, answer = self._process.communicate()
            raise RuntimeError(f"{self._name} has died:\n{answer[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def detectors(network: Network) -> list[Contestant]:
    """Returns the contestants that run a detector."""
    ultralytics = Contestant("ultralytics", python_of("ultralytics"), "worker_ultralytics.py", network.onnx)
    return [ultralytics, *classifiers(network)]


def classifiers(network: Network) -> list[Contestant]:
    """Returns the contestants that run a classifier: bare, ours on ONNX Runtime and on OpenVINO, theirs on OpenVINO.

    ``bare_ort`` is ONNX Runtime with OpenCV before it and nothing behind it: less than that is not to be had in Python.
    """
    model_api = Contestant("model_api", python_of("model-api"), "worker_model_api.py", network.ir)
    return [*ours(network), model_api]


def ours(network: Network) -> list[Contestant]:
    """Returns the contestants of this environment: the bare engine and lineside."""
    python = Path(sys.executable)
    return [
        Contestant("bare_ort", python, "worker_bare_ort.py", network.onnx),
        *(
            Contestant(
                f"lineside_{engine}", python, "worker_lineside.py", network.bundle, {"LINESIDE_BENCH_ENGINE": engine}
            )
            for engine in ("ort", "openvino")
        ),
    ]


def measure(network: Network, contestants: Sequence[Contestant]) -> dict[str, dict[str, Any]]:
    """Returns the measurements of each, one value a round or process."""
    found: dict[str, dict[str, Any]] = {}
    for number in range(ALONE_RUNS + 1):  # the first reads from the disk and isn't counted
        for one in contestants:
            with one.start(network) as running:
                held = running.turn(ALONE_CALLS)
                facts = found.setdefault(one.name, {"first_ms": [], "resident_mb": [], "peak_mb": [], "turns_ms": []})
                facts["answer"] = running.answer
                if number:
                    facts["first_ms"].append(running.first_ms)
                    facts["peak_mb"].append(held["peak_mb"])
                    facts["resident_mb"].append(held["resident_mb"])
    with contextlib.ExitStack() as processes:
        running_all = [processes.enter_context(one.start(network)) for one in contestants]
        for running in running_all:
            running.turn(ALONE_CALLS)
        for number in range(ROUNDS):
            for offset in range(len(contestants)):
                who = (number + offset) % len(contestants)
                times = running_all[who].turn(TURN_CALLS)["times_ms"]
                found[contestants[who].name]["turns_ms"].append(statistics.median(times))
    return found
