"""A device fails under load with a standby loaded: how long to the first answer elsewhere, and what got lost.

ONNX Runtime runs EfficientNet-Lite0 INT8 in a process of its own (`Config.isolate`), and OpenVINO stands by in ours:
two engines, but one processor, since this machine has no other. While threads submit frames, the engine's process is
killed with SIGKILL. Each trial does so once, with a new session.

- ``fallback_ratio``: from the end of that process to the first answer of the standby, over the standby's own time for
  one inference in the same trial under the same load. The median of the trials. The end is when the kernel says so to
  another process, which does nothing but wait for it.
- ``fallback_ratio_from_kill``: the same from the ``kill``. The kernel takes milliseconds to take a process with a model
  apart, and its sockets are closed last: before that nobody can know. A device that is pulled has no such delay.
- ``fallback_lost``, ``fallback_answered_twice``, ``fallback_wrong``: counted here and not by the runtime. Each call is
  one of a few frames, and an answer is right if it is nearest to what bare ONNX Runtime says of its own frame.

Baseline: the latency of the model on the standby.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

import numpy as np
import psutil

from benchmarks import networks
from benchmarks.timing import spread
from lineside_runtime.config import Config
from lineside_runtime.placement import Prediction
from lineside_runtime.session import Session

TRIALS = 12
CALLERS = 3
FRAMES = 6
BEFORE, AFTER = 40, 60
DEADLINE_S = 20.0
PATIENCE_S = 60.0
SCALE = 1e3
WATCH = """
import os, select, sys, time
watch = select.poll()
watch.register(os.pidfd_open(int(sys.argv[1])), select.POLLIN)
print("ready", flush=True)
watch.poll()
print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


class Ledger:
    """What was asked and what came back."""

    def __init__(self, expected: list[np.ndarray[Any, Any]]) -> None:
        self._expected = expected
        self._changed = threading.Condition()
        self.asked = 0
        self.ends: Counter[int] = Counter()
        self.wrong = 0
        self.errors: list[str] = []
        self.answers: list[tuple[float, Prediction]] = []

    def submit(self, session: Session, frames: list[np.ndarray[Any, Any]]) -> Future[Prediction]:
        """Asks for the next frame."""
        with self._changed:
            number, self.asked = self.asked, self.asked + 1
        future = session.submit(frames[number % FRAMES], deadline_s=DEADLINE_S)
        future.add_done_callback(lambda done: self._end(number, done))
        return future

    def wait_for(self, answers: int) -> None:
        """Waits until so many calls have ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.answers) + len(self.errors) >= answers, PATIENCE_S)

    def _end(self, number: int, done: Future[Prediction]) -> None:
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        error = done.exception()
        with self._changed:
            self.ends[number] += 1
            if error is not None:
                self.errors.append(str(error))
            else:
                self.answers.append((now, done.result()))
                distances = [float(np.abs(done.result().outputs["logits"] - one).mean()) for one in self._expected]
                self.wrong += int(np.argmin(distances)) != number % FRAMES
            self._changed.notify_all()


def run() -> dict[str, Any]:
    """Kills the engine's process in each trial and says how long the standby took to answer."""
    bundle = networks.bundle(networks.lite0_int8())
    frames = [networks.frame(seed) for seed in range(FRAMES)]
    with Session(bundle, Config(engines=("ort",), threads=1)) as bare:
        expected = [bare.predict(frame)["logits"] for frame in frames]
        alone = [bare.infer(frames[0]).inference_ms for _ in range(50)]
    trials = [_trial(bundle, frames, expected) for _ in range(TRIALS)]
    ratios = {key: [trial[key] for trial in trials] for key in ("ratio", "ratio_from_kill")}
    return {
        "baseline": "one inference of the standby (OpenVINO) under the same load",
        "fallback_ratio": round(statistics.median(ratios["ratio"]), 3),
        "fallback_ratios": [round(ratio, 3) for ratio in sorted(ratios["ratio"])],
        "fallback_ratio_from_kill": round(statistics.median(ratios["ratio_from_kill"]), 3),
        "fallback_ratios_from_kill": [round(ratio, 3) for ratio in sorted(ratios["ratio_from_kill"])],
        "fallback_to_first_answer_ms": spread([trial["first_ms"] for trial in trials]),
        "fallback_standby_inference_ms": spread([trial["standby_ms"] for trial in trials]),
        "fallback_first_engine_alone_ms": spread(alone),
        "fallback_calls": sum(trial["asked"] for trial in trials),
        "fallback_lost": sum(trial["lost"] for trial in trials),
        "fallback_answered_twice": sum(trial["twice"] for trial in trials),
        "fallback_wrong": sum(trial["wrong"] for trial in trials),
        "fallback_how": f"SIGKILL to the process of ONNX Runtime, {CALLERS} threads submitting, {TRIALS} trials",
    }


def _trial(bundle: Any, frames: list[np.ndarray[Any, Any]], expected: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    config = Config(engines=("ort", "openvino"), isolate=("ort",), standby=True, threads=1)
    ledger, stop = Ledger(expected), threading.Event()
    with Session(bundle, config) as session:
        threads = [threading.Thread(target=_load, args=(session, ledger, frames, stop)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        ledger.wait_for(BEFORE)
        killed_at, ended_at = _kill(_engine_process())
        ledger.wait_for(len(ledger.answers) + AFTER)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    elsewhere = [(at, one) for at, one in ledger.answers if at > killed_at and one.used_device.startswith("openvino")]
    first_ms = (elsewhere[0][0] - ended_at) * SCALE
    standby_ms = statistics.median(one.inference_ms for _, one in elsewhere)
    return {
        "first_ms": first_ms,
        "standby_ms": standby_ms,
        "ratio": first_ms / standby_ms,
        "ratio_from_kill": (elsewhere[0][0] - killed_at) * SCALE / standby_ms,
        "asked": ledger.asked,
        "lost": ledger.asked - len(ledger.answers),
        "twice": sum(count > 1 for count in ledger.ends.values()),
        "wrong": ledger.wrong,
    }


def _engine_process() -> int:
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    (pid,) = [child.pid for child in children if any("isolated" in word for word in child.cmdline())]
    return pid


def _kill(pid: int) -> tuple[float, float]:
    """Kills a process; returns when, and when it had ended, in seconds of the monotonic clock."""
    command = [sys.executable, "-c", WATCH, str(pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        if watcher.stdout is None or watcher.stdout.readline().strip() != "ready":
            raise RuntimeError("the watching process doesn't watch")
        killed_at = time.clock_gettime(time.CLOCK_MONOTONIC)
        os.kill(pid, signal.SIGKILL)
        return killed_at, float(watcher.stdout.readline())


def _load(session: Session, ledger: Ledger, frames: list[np.ndarray[Any, Any]], stop: threading.Event) -> None:
    while not stop.is_set():
        ledger.submit(session, frames).exception(PATIENCE_S)
