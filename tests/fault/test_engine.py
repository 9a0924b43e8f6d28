"""An engine's process under load, killed and stopped by somebody else: no submitted call is lost or answered twice.

ONNX Runtime runs in a process of its own, OpenVINO stands by in ours; nothing here is simulated.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import EngineCrashedError
from lineside_runtime.serving import health
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from tests.peers import wait_for
from tests.runtime.onnx_models import make_bundle, scaler

PATIENCE_S = 60.0
CONFIG = Config(engines=("ort", "openvino"), isolate=("ort",), standby=True, threads=1)


def x(value: float) -> np.ndarray:
    return np.full((1, 4), value, np.float32)


eventually = partial(wait_for, timeout_s=PATIENCE_S)


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0))


class Load:
    """Threads that submit, and what came back, written down outside the runtime."""

    def __init__(self, session: Session, callers: int, deadline_s: float) -> None:
        self._session = session
        self._deadline_s = deadline_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(callers)]
        self.ends: Counter[int] = Counter()
        self.used: Counter[str] = Counter()
        self.wrong: list[object] = []
        self.asked = 0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def more(self, count: int, device: str) -> None:
        """Waits for so many more answers of a device."""
        before = self.used[device]
        eventually(lambda: self.used[device] >= before + count)

    def _call(self, caller: int) -> None:
        value = caller * 1_000_000
        while not self._stop.is_set():
            value += 1
            with self._lock:
                self.asked += 1
            future = self._session.submit(x(value), deadline_s=self._deadline_s)
            future.add_done_callback(partial(self._ended, value))
            future.exception(PATIENCE_S)

    def _ended(self, value: int, done: Future[Prediction]) -> None:
        with self._lock:
            self.ends[value] += 1
            if done.exception() is not None or not np.array_equal(done.result().outputs["y"], x(2 * value)):
                self.wrong.append((value, done))
            else:
                self.used[done.result().used_device] += 1

    def check(self) -> None:
        assert self.wrong == []
        assert len(self.ends) == self.asked
        assert set(self.ends.values()) == {1}


def test_an_engine_killed_again_and_again_under_load_loses_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RETRY_FIRST_S", 0.2)
    before = children()
    with Session(bundle, CONFIG) as session:
        with Load(session, callers=4, deadline_s=30.0) as load:
            for _ in range(4):
                load.more(50, "ort/cpu:0")
                for pid in children() - before:
                    os.kill(pid, signal.SIGKILL)
                load.more(50, "openvino/cpu:0")
        load.check()
        assert EngineCrashedError.code in {fallback.code for fallback in session.fallbacks}
        assert session.submit_counts.answered == session.submit_counts.taken == load.asked
    eventually(lambda: children() <= before)


def test_an_engine_that_is_stopped_hangs_and_is_ended_and_started_anew(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RETRY_FIRST_S", 0.2)
    before = children()
    with Session(bundle, CONFIG) as session:
        with Load(session, callers=4, deadline_s=6.0) as load:
            load.more(50, "ort/cpu:0")
            (stopped,) = children() - before
            os.kill(stopped, signal.SIGSTOP)
            load.more(50, "openvino/cpu:0")
            eventually(lambda: session.submit_counts.hung >= 1)
            eventually(lambda: not psutil.pid_exists(stopped))
            load.more(50, "ort/cpu:0")
        load.check()
        assert session.submit_counts.moved >= 1
        assert session.submit_counts.answered == session.submit_counts.taken == load.asked
    eventually(lambda: children() <= before)
