"""Devices that fail under load: every call is answered once, with its own answer. Counted from outside."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    DeadlineExceededError,
    DeviceBusyError,
    EngineCrashedError,
    OutOfDeviceMemoryError,
)
from lineside_runtime.serving import health, memory_pressure
from lineside_runtime.serving.submit import lane
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from tests.peers import wait_for
from tests.runtime.onnx_models import make_bundle, scaler

PATIENCE_S = 120.0


def x(value: float) -> np.ndarray:
    return np.full((1, 4), value, np.float32)


@pytest.fixture
def everywhere(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu", "cpu"))


@pytest.fixture
def nervous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes a second in a factory takes a hundredth."""
    monkeypatch.setattr(lane, "HANG_MIN_S", 0.05)
    monkeypatch.setattr(health, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(health, "RETRY_MAX_S", 0.05)


eventually = partial(wait_for, timeout_s=PATIENCE_S)


class Ledger:
    """Writes down, outside the runtime, what was asked and what came back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ends: Counter[int] = Counter()
        self.wrong: list[tuple[int, object]] = []
        self.errors: list[BaseException] = []
        self.failed: list[int] = []
        self.used: Counter[str] = Counter()
        self.asked = 0

    def expect(self, value: int, future: Future[Prediction]) -> None:
        with self._lock:
            self.asked += 1
        future.add_done_callback(lambda done: self._ended(value, done))

    def _ended(self, value: int, done: Future[Prediction]) -> None:
        with self._lock:
            self.ends[value] += 1
            error = done.exception()
            if error is not None:
                self.errors.append(error)
                self.failed.append(value)
                return
            self.used[done.result().used_device] += 1
            if not np.array_equal(done.result().outputs["y"], x(2 * value)):
                self.wrong.append((value, done.result().outputs["y"]))


class Havoc:
    """Breaks and mends the devices of the numpy engine until it is stopped; the CPU always works.

    What hangs does so for longer than a call's part of its deadline, and answers in the end.
    """

    def __init__(self, engine: ModuleType, seed: int) -> None:
        self._engine = engine
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._held_until_s: dict[str, float] = {}
        self.done: Counter[str] = Counter()

    def __enter__(self) -> Havoc:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self._engine.reset()

    def _run(self) -> None:
        self._do("held", "gpu:0")
        while not self._stop.wait(self._dice.uniform(0.002, 0.02)):
            for device, until_s in list(self._held_until_s.items()):
                if time.monotonic() >= until_s:
                    del self._held_until_s[device]
                    self._engine.held.pop(device).set()
            device = self._dice.choice(["gpu:0", "npu:0"])
            what = self._dice.choice(["unplugged", "full", "crashing", "held", "slow_s", "mend", "mend", "mend"])
            if device not in self._held_until_s:
                self._do(what, device)

    def _do(self, what: str, device: str) -> None:
        engine = self._engine
        self.done[what] += 1
        if what == "held":
            self._held_until_s[device] = time.monotonic() + self._dice.uniform(0.2, 0.6)
            engine.held[device] = threading.Event()
        elif what == "slow_s":
            engine.slow_s[device] = 0.02
        elif what == "mend":
            for broken in (engine.unplugged, engine.full, engine.crashing):
                broken.discard(device)
            engine.slow_s.pop(device, None)
        else:
            getattr(engine, what).add(device)


def hammer(session: Session, ledger: Ledger, values: range, deadlines_s: list[float | None]) -> None:
    """Submits with at most 16 calls on the way."""
    room = threading.Semaphore(16)
    for value in values:
        assert room.acquire(timeout=PATIENCE_S)
        deadline_s = deadlines_s[value % len(deadlines_s)]
        future = retried(lambda: session.submit(x(value), deadline_s=deadline_s))  # noqa: B023  called at once
        ledger.expect(value, future)
        future.add_done_callback(lambda _: room.release())
    for _ in range(16):
        assert room.acquire(timeout=PATIENCE_S)


def retried(submit: Callable[[], Future[Prediction]]) -> Future[Prediction]:
    wait = threading.Event()
    while (future := unless_busy(submit)) is None:
        wait.wait(0.001)
    return future


def unless_busy(submit: Callable[[], Future[Prediction]]) -> Future[Prediction] | None:
    try:
        return submit()
    except DeviceBusyError:
        return None


@pytest.mark.parametrize("config", [Config(), Config(balance=True, submit_workers=2), Config(standby=True)])
@pytest.mark.parametrize("seed", [1, 2])
def test_not_one_call_is_lost_or_answered_twice_whatever_happens_to_two_of_three_devices(
    everywhere: Bundle, numpy_engine: ModuleType, nervous: None, config: Config, seed: int
) -> None:
    ledger, each, callers = Ledger(), 500, 6
    deadlines_s = [None, 0.3, 1.0, 20.0]
    with Session(everywhere, config) as session:
        for _ in range(4):  # so that every device is open
            session.submit(x(0)).result(PATIENCE_S)
        with Havoc(numpy_engine, seed) as havoc:
            threads = [
                threading.Thread(target=hammer, args=(session, ledger, range(i * each, (i + 1) * each), deadlines_s))
                for i in range(callers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
        # Whether a late answer still finds its device open is luck here; `test_submit` counts them.
        counts = session.submit_counts
    assert ledger.ends == Counter(range(callers * each)), "each ends once"
    assert ledger.wrong == []
    assert ledger.asked + 4 == counts.taken == callers * each + 4
    assert {type(error) for error in ledger.errors} <= {DeadlineExceededError}, "the CPU always works"
    assert len(ledger.errors) == counts.expired
    assert {deadlines_s[value % 4] for value in ledger.failed} <= {0.3, 1.0}, "whoever has the time is answered"
    assert counts.answered == session.calls == counts.taken - counts.expired
    assert (counts.failed, counts.cancelled) == (0, 0)
    assert counts.moved > 0
    assert havoc.done["held"] > 0
    assert len(ledger.used) >= 2


def test_predict_loses_nothing_either_while_devices_come_and_go(
    everywhere: Bundle, numpy_engine: ModuleType, nervous: None
) -> None:
    answers: Counter[int] = Counter()
    lock = threading.Lock()

    def call(values: range) -> None:
        for value in values:
            outputs = session.predict(x(value))
            if np.array_equal(outputs["y"], x(2 * value)):
                with lock:
                    answers[value] += 1

    with Session(everywhere, Config(balance=True)) as session:
        threads = [threading.Thread(target=call, args=(range(i * 300, (i + 1) * 300),)) for i in range(4)]
        for thread in threads:
            thread.start()
        dice = random.Random(3)
        while any(thread.is_alive() for thread in threads):
            device = dice.choice(["gpu:0", "npu:0"])
            for broken in (numpy_engine.unplugged, numpy_engine.crashing):
                (broken.add if dice.random() < 0.4 else broken.discard)(device)
            threads[0].join(0.005)
        assert session.calls == 1200
    assert answers == Counter(range(1200))


def test_calls_without_any_device_left_end_with_the_first_error(tmp_path: Path, numpy_engine: ModuleType) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu"))
    with Session(bundle, Config(engines=("numpy",))) as session:
        numpy_engine.crashing.add("gpu:0")
        numpy_engine.unplugged.add("npu:0")
        for _ in range(3):
            error = session.submit(x(1)).exception(PATIENCE_S)
            assert isinstance(error, EngineCrashedError)
        numpy_engine.reset()
        assert session.submit(x(1)).result(PATIENCE_S).used_device == "numpy/gpu:0"


@pytest.mark.parametrize("submitted", [False, True])
def test_a_lost_device_that_can_not_even_be_closed_costs_no_answer(
    tmp_path: Path, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch, submitted: bool
) -> None:
    close = numpy_engine.NumpyExecutable._close

    def close_if_there(executable: Any) -> None:
        close(executable)
        numpy_engine.fail_if_asked(executable._device)

    monkeypatch.setattr(numpy_engine.NumpyExecutable, "_close", close_if_there)
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu"))
    with Session(bundle, Config(engines=("numpy",), standby=True)) as session:
        numpy_engine.unplugged.add("gpu:0")
        answer = session.submit(x(1)).result(PATIENCE_S) if submitted else session.infer(x(1))
        assert answer.used_device == "numpy/npu:0"
        numpy_engine.unplugged.add("npu:0")
    assert not numpy_engine.open_executables


def test_a_crashed_engine_is_loaded_anew(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(fallback_strategy="error")) as session:
        first = set(numpy_engine.open_executables)
        numpy_engine.crashing.add("gpu:0")
        with pytest.raises(EngineCrashedError):
            session.predict(x(1))
        numpy_engine.reset()
        assert session.infer(x(1)).used_device == "numpy/gpu:0"
        assert numpy_engine.open_executables.isdisjoint(first)


@pytest.fixture
def cache(numpy_engine: ModuleType) -> Iterator[list[str]]:
    """What holds the device's memory; freeing it makes room on the GPU."""
    held = ["a result"]

    def release() -> int:
        freed = len(held)
        held.clear()
        numpy_engine.full.discard("gpu:0")
        return freed

    end = memory_pressure.on_memory_pressure(release)
    yield held
    end()


def test_out_of_memory_frees_what_can_be_freed_and_tries_once_more(
    everywhere: Bundle, numpy_engine: ModuleType, cache: list[str]
) -> None:
    with Session(everywhere, Config(gpu_ratio=1.0)) as session:
        numpy_engine.full.add("gpu:0")
        assert session.infer(x(1)).used_device == "numpy/gpu:0"
        assert cache == []
        assert session.fallback_count == 0
        numpy_engine.full.add("gpu:0")  # and now nothing is left to free
        numpy_engine.full.add("npu:0")
        assert session.infer(x(1)).fell_back
        assert session.fallbacks[0].code == OutOfDeviceMemoryError.code


def test_out_of_memory_at_load_frees_what_can_be_freed_and_tries_once_more(
    everywhere: Bundle, numpy_engine: ModuleType, cache: list[str]
) -> None:
    numpy_engine.full.add("gpu:0")
    with Session(everywhere, Config(gpu_ratio=1.0)) as session:
        assert session.used_device == "numpy/gpu:0"
        assert cache == []


def test_out_of_memory_gives_up_the_standby_and_ends_in_1001(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(standby=True, engines=("numpy",))) as session:
        assert session.standby_device == "numpy/npu:0"
        assert len(numpy_engine.open_executables) == 2
        numpy_engine.full.update({"gpu:0", "npu:0"})
        with pytest.raises(OutOfDeviceMemoryError) as caught:
            session.predict(x(1))
        assert caught.value.code == 1001
        assert session.standby_device is None
        assert len(numpy_engine.open_executables) == 1
        assert numpy_engine.begun["gpu:0"] == 2  # once more after the standby was given up, and not again


def test_a_registration_that_has_ended_frees_nothing(numpy_engine: ModuleType) -> None:
    called: list[int] = []

    def free() -> int:
        called.append(1)
        return 1

    end = memory_pressure.on_memory_pressure(free)
    assert memory_pressure.relieve() >= 1
    end()
    end()
    before = len(called)
    memory_pressure.relieve()
    assert len(called) == before == 1


def test_a_standby_is_loaded_and_warm_and_the_next_one_follows(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(standby=True, gpu_ratio=1.0)) as session:
        assert (session.used_device, session.standby_device) == ("numpy/gpu:0", "numpy/npu:0")
        assert numpy_engine.begun["npu:0"] == 1
        numpy_engine.unplugged.add("gpu:0")
        assert session.infer(x(1)).used_device == "numpy/npu:0"
        eventually(lambda: session.standby_device == "ort/cpu:0")


def test_without_a_standby_only_the_leader_is_loaded(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(gpu_ratio=1.0)) as session:
        assert session.standby_device is None
        assert len(numpy_engine.open_executables) == 1


def test_a_standby_that_cannot_be_loaded_is_noted_and_the_next_is_taken(
    everywhere: Bundle, numpy_engine: ModuleType
) -> None:
    numpy_engine.unplugged.add("npu:0")
    with Session(everywhere, Config(standby=True, gpu_ratio=1.0)) as session:
        assert session.standby_device == "ort/cpu:0"
        assert [(fallback.device, fallback.during) for fallback in session.fallbacks] == [("numpy/npu:0", "load")]


def test_shares_say_where_calls_go_and_how_long_they_take(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.slow_s["npu:0"] = 0.01
    with Session(everywhere, Config(balance=True, engines=("numpy",))) as session:
        assert [(one.device, one.share) for one in session.shares] == [("numpy/gpu:0", 0.6), ("numpy/npu:0", 0.4)]

        def goes_to_the_gpu() -> bool:
            session.predict(x(1))
            return session.shares[0].share > 0.8

        eventually(goes_to_the_gpu, every_s=0.0)
        gpu, npu = session.shares
        assert npu.service_ms > gpu.service_ms > 0
        assert (gpu.waiting, npu.waiting) == (0, 0)


def test_balanced_devices_work_at_the_same_time(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(balance=True, engines=("numpy",))) as session:
        gpu, npu = (numpy_engine.held.setdefault(device, threading.Event()) for device in ("gpu:0", "npu:0"))
        for device in ("gpu:0", "npu:0"):
            numpy_engine.held[device].set()
        session.submit(x(0)).result(PATIENCE_S)
        gpu.clear(), npu.clear()
        futures = [session.submit(x(i)) for i in range(4)]
        begun = dict(numpy_engine.begun)
        assert numpy_engine.wait_begun("gpu:0", begun.get("gpu:0", 0)) and numpy_engine.wait_begun("npu:0", 1)
        assert sum(one.waiting for one in session.shares) == 4
        gpu.set(), npu.set()
        assert {future.result(PATIENCE_S).used_device for future in futures} == {"numpy/gpu:0", "numpy/npu:0"}
        assert not any(future.result(0).fell_back for future in futures)
