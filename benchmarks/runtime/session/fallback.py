"""A device fails under load with a standby loaded: how long to the first answer elsewhere, and what got lost.

EfficientNet-Lite0 INT8, threads that submit frames, ONNX Runtime first and OpenVINO standing by: two engines, but one
processor, since this machine has no other. ONNX Runtime fails in two ways; each trial does so once, with a new session.

- *pulled*: `benchmarks/pulled_engine` breaks off the call that runs in the middle, by ONNX Runtime's own terminate
  flag, and refuses the later ones, as a driver does when its device is unplugged.
- *killed*: the engine has a process of its own (`Config.isolate`), and that gets SIGKILL. The kernel takes milliseconds
  to take a process with a model apart, and closes its sockets last: before that nobody can know.

- ``fallback_ratio``: from the pull to the first answer of the standby, over the standby's own time for one inference in
  the same trial under the same load. The median of the trials. ``fallback_ratio_from_kill`` is the same from the kill.
- ``fallback_lost``, ``fallback_answered_twice``, ``fallback_wrong``: of all trials of both kinds, counted here and not
  by the runtime. Each call is one of a few frames, and an answer is right if it is nearest to what bare ONNX Runtime
  says of its own frame.

Baseline: the latency of the model on the standby.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session

PULLED_ENGINE = Path(__file__).parents[2] / "pulled_engine"
TRIALS = scaled(12, smoke=2)
CALLERS = 3
FRAMES = 6
BEFORE, AFTER = scaled((40, 60), smoke=(6, 20))
DEADLINE_S = 20.0
PATIENCE_S = 60.0
PULLED = Config(engines=("pulled", "openvino"), standby=True, threads=1)
KILLED = Config(engines=("ort", "openvino"), isolate=("ort",), standby=True, threads=1)

Frames = list[np.ndarray[Any, Any]]


class Ledger:
    """Counts of calls and answers."""

    def __init__(self, frames: Frames, expected: Frames) -> None:
        self._frames = frames
        self._expected = expected
        self._changed = threading.Condition()
        self.asked = 0
        self.ends: Counter[int] = Counter()
        self.wrong = 0
        self.errors: list[str] = []
        self.answers: list[tuple[float, Prediction]] = []

    def submit(self, session: Session) -> Future[Prediction]:
        """Asks for the next frame."""
        with self._changed:
            number, self.asked = self.asked, self.asked + 1
        future = session.submit(self._frames[number % FRAMES], deadline_s=DEADLINE_S)
        future.add_done_callback(lambda done: self._end(number, done))
        return future

    def wait_for(self, ends: int) -> None:
        """Waits until so many calls have ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.ends.total() >= ends, PATIENCE_S)

    def _end(self, number: int, done: Future[Prediction]) -> None:
        now = time.perf_counter()
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
    """Makes the first engine fail in each trial and times the standby's answer."""
    bundle = networks.bundle(networks.lite0_int8())
    frames = [networks.frame(seed) for seed in range(FRAMES)]
    with Session(bundle, Config(engines=("ort",), threads=1)) as bare:
        expected = [bare.predict(frame)["logits"] for frame in frames]
    sys.path.insert(0, str(PULLED_ENGINE))  # where its entry point is found
    importlib.invalidate_caches()
    plug = importlib.import_module("lineside_pulled_engine").plug
    quiet = logging.getLogger("lineside.runtime")
    before, quiet.level = quiet.level, logging.CRITICAL
    pulled, killed = [], []
    for _ in range(TRIALS):
        plug.out = False
        pulled.append(_trial(bundle, PULLED, Ledger(frames, expected), lambda: plug.pull))
        killed.append(_trial(bundle, KILLED, Ledger(frames, expected), _killer))
    quiet.setLevel(before)
    every = [*pulled, *killed]
    return {
        "baseline": "one inference of the standby (OpenVINO) under the same load",
        **_ratios("fallback_ratio", pulled),
        **_ratios("fallback_ratio_from_kill", killed),
        "fallback_to_first_answer_ms": spread([trial["first_ms"] for trial in pulled]),
        "fallback_standby_inference_ms": spread([trial["standby_ms"] for trial in pulled]),
        "fallback_calls": sum(trial["asked"] for trial in every),
        "fallback_lost": sum(trial["lost"] for trial in every),
        "fallback_answered_twice": sum(trial["twice"] for trial in every),
        "fallback_wrong": sum(trial["wrong"] for trial in every),
        "fallback_how": f"{CALLERS} threads submitting, {TRIALS} times pulled and {TRIALS} times killed",
    }


def _ratios(key: str, trials: list[dict[str, float]]) -> dict[str, Any]:
    ratios = sorted(trial["first_ms"] / trial["standby_ms"] for trial in trials)
    return {key: round(statistics.median(ratios), 3), f"{key}_trials": [round(ratio, 3) for ratio in ratios]}


def _trial(
    bundle: Bundle, config: Config, ledger: Ledger, failure: Callable[[], Callable[[], None]]
) -> dict[str, float]:
    stop = threading.Event()
    with Session(bundle, config) as session:
        threads = [threading.Thread(target=_load, args=(session, ledger, stop)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        ledger.wait_for(BEFORE)
        fail = failure()
        failed_at = time.perf_counter()
        fail()
        ledger.wait_for(ledger.ends.total() + AFTER)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    elsewhere = [(at, one) for at, one in ledger.answers if one.used_device.startswith("openvino")]
    first_s = min(at for at, _ in elsewhere) - failed_at
    if first_s < 0:
        raise RuntimeError("the standby answered before anything failed: the trial says nothing")
    return {
        "first_ms": first_s * 1e3,
        "standby_ms": statistics.median(one.inference_ms for _, one in elsewhere),
        "asked": ledger.asked,
        "lost": ledger.asked - len(ledger.answers),
        "twice": sum(count > 1 for count in ledger.ends.values()),
        "wrong": ledger.wrong,
    }


def _load(session: Session, ledger: Ledger, stop: threading.Event) -> None:
    while not stop.is_set():
        ledger.submit(session).exception(PATIENCE_S)


def _killer() -> Callable[[], None]:
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    (pid,) = [child.pid for child in children if any("engine_process" in word for word in child.cmdline())]
    return lambda: os.kill(pid, signal.SIGKILL)
