"""Submitted calls: worker threads, deadlines, bounded queues, and what happens to those that are open at the end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.devices import Device
from lineside_runtime.engine_process.engine import isolated
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DeadlineExceededError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
)
from lineside_runtime.serving import health
from lineside_runtime.serving.placement import Placement
from lineside_runtime.serving.submit import lane
from lineside_runtime.serving.submit.deadline_timer import DeadlineTimer
from lineside_runtime.serving.submit.lane import SubmittedCall
from lineside_runtime.serving.types import Prediction, SlotFailure
from lineside_runtime.session import Session
from tests.peers import wait_for
from tests.runtime.onnx_models import make_bundle, scaler

PATIENCE_S = 60.0
NUMPY = Config(engines=("numpy",))  # gpu:0, then npu:0


def x(value: float) -> np.ndarray:
    return np.full((1, 4), value, np.float32)


eventually = partial(wait_for, timeout_s=PATIENCE_S)


def answer(future: Future[Prediction]) -> Prediction:
    return future.result(PATIENCE_S)


@pytest.fixture
def everywhere(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu", "cpu"))


@pytest.fixture
def one_gpu(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("gpu",))


@pytest.fixture
def hold(numpy_engine: ModuleType) -> Callable[[str], threading.Event]:
    """Lets a device hang until the event is set."""

    def held(device: str) -> threading.Event:
        event = numpy_engine.held[device] = threading.Event()
        return event

    return held


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices count as hung, and are tried again, after a tenth of a second instead of one."""
    monkeypatch.setattr(lane, "HANG_MIN_S", 0.1)
    monkeypatch.setattr(health, "RETRY_FIRST_S", 0.1)


def test_each_call_gets_its_own_answer_from_a_thread_of_ours(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.threads_seen.clear()
    with Session(everywhere, NUMPY) as session:
        futures = [session.submit(x(i)) for i in range(50)]
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(answer(future).outputs["y"], x(2 * i))
            assert (answer(future).requested_device, answer(future).used_device) == ("gpu:0", "numpy/gpu:0")
        assert threading.get_ident() not in numpy_engine.threads_seen
        assert (session.calls, session.rerouted) == (50, 0)
        assert (session.submit_counts.taken, session.submit_counts.answered) == (50, 50)


@pytest.fixture
def second_engine(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    """A bundle for CPUs, which numpy has as well."""
    numpy_engine.also.append(Device("cpu", name="numpy as a CPU"))
    return make_bundle(tmp_path / "b", scaler(2.0))


def test_the_first_call_does_not_wait_for_the_search_of_other_devices(
    second_engine: Bundle, numpy_engine: ModuleType, hold: Callable[[str], threading.Event]
) -> None:
    with Session(second_engine, Config(engines=("ort", "numpy"))) as session:
        event = hold(numpy_engine.PROBE)
        assert answer(session.submit(x(1), deadline_s=PATIENCE_S)).used_device == "ort/cpu:0"
        assert [one.device for one in session.shares] == ["ort/cpu:0"]
        event.set()
        eventually(lambda: [one.device for one in session.shares] == ["ort/cpu:0", "numpy/cpu:0"])


def test_a_call_whose_device_fails_meanwhile_is_answered_by_what_is_found(
    second_engine: Bundle, numpy_engine: ModuleType, hold: Callable[[str], threading.Event]
) -> None:
    with Session(second_engine, Config(engines=("ort", "numpy"), isolate=("ort",))) as session:
        event = hold(numpy_engine.PROBE)
        pid = isolated("ort", None).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        future = session.submit(x(1), deadline_s=PATIENCE_S)
        eventually(lambda: session.fallback_count == 1)
        assert not future.done()
        event.set()
        assert answer(future).used_device == "numpy/cpu:0"


def test_wrong_inputs_and_deadlines_are_refused_at_once(everywhere: Bundle) -> None:
    with Session(everywhere) as session:
        with pytest.raises(BadInputFormatError):
            session.submit(np.ones((1, 5), np.float32))
        for deadline_s in (0, -1, float("nan"), float("inf"), 1e10, True):
            with pytest.raises(ConfigError, match="deadline_s"):
                session.submit(x(1), deadline_s=deadline_s)
        assert session.submit_counts.taken == 0


def test_a_call_whose_device_hangs_is_answered_by_the_next_within_its_deadline(
    everywhere: Bundle, hold: Callable[[str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "HANG_MIN_S", 60.0)  # it is late, and not yet taken out
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        event = hold("gpu:0")
        future = session.submit(x(3), deadline_s=2.0)
        prediction = answer(future)
        np.testing.assert_array_equal(prediction.outputs["y"], x(6))
        assert (prediction.requested_device, prediction.used_device, prediction.fell_back) == (
            "gpu:0",
            "numpy/npu:0",
            True,
        )
        assert session.fallbacks[-1].code == DeadlineExceededError.code
        event.set()
        eventually(lambda: session.submit_counts.late == 1)
        assert answer(future) is prediction
        assert (session.calls, session.submit_counts.answered, session.submit_counts.moved) == (2, 2, 1)


def test_half_of_the_time_is_left_to_the_second_of_two_devices(
    everywhere: Bundle, hold: Callable[[str], threading.Event]
) -> None:
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        hold("gpu:0")
        began_s = time.monotonic()
        assert answer(session.submit(x(1), deadline_s=4.0)).used_device == "numpy/npu:0"
        assert time.monotonic() - began_s >= 1.99, "half of the time was the first one's, and it was answered in time"


def test_if_no_device_answers_in_time_it_is_1008(one_gpu: Bundle, hold: Callable[[str], threading.Event]) -> None:
    with Session(one_gpu) as session:
        hold("gpu:0")
        began_s = time.monotonic()
        with pytest.raises(DeadlineExceededError) as caught:
            answer(session.submit(x(1), deadline_s=0.2))
        assert time.monotonic() - began_s >= 0.19
        assert caught.value.code == 1008
        assert session.submit_counts.expired == 1


def test_a_call_that_only_waits_expires_as_well(one_gpu: Bundle, hold: Callable[[str], threading.Event]) -> None:
    with Session(one_gpu) as session:
        event = hold("gpu:0")
        patient, hasty = session.submit(x(1)), session.submit(x(2), deadline_s=0.1)
        with pytest.raises(DeadlineExceededError):
            answer(hasty)
        event.set()
        np.testing.assert_array_equal(answer(patient).outputs["y"], x(2))
        assert session.submit_counts.late == 0


def test_what_waits_behind_a_hang_is_answered_elsewhere(
    everywhere: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType
) -> None:
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        hold("gpu:0")
        stuck = session.submit(x(1), deadline_s=2.0)
        assert numpy_engine.wait_begun("gpu:0", 2)
        behind = [session.submit(x(i)) for i in range(20)]  # without a deadline of their own
        for i, future in enumerate(behind):
            np.testing.assert_array_equal(answer(future).outputs["y"], x(2 * i))
        assert answer(stuck).used_device == "numpy/npu:0"


def test_a_device_that_hangs_is_taken_out_for_predict_as_well_and_comes_back_by_a_trial(
    everywhere: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType, impatient: None
) -> None:
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        event = hold("gpu:0")
        answer(session.submit(x(1), deadline_s=2.0))
        eventually(lambda: session.submit_counts.hung == 1)
        assert session.infer(x(2)).used_device == "numpy/npu:0"
        assert answer(session.submit(x(3))).used_device == "numpy/npu:0"
        event.set()
        del numpy_engine.held["gpu:0"]
        eventually(lambda: answer(session.submit(x(4))).used_device == "numpy/gpu:0")
        assert not session.infer(x(5)).fell_back
        assert session.submit_counts.late == 1


def test_predict_alone_gets_a_device_back_that_hung(
    everywhere: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType, impatient: None
) -> None:
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        hold("gpu:0")
        answer(session.submit(x(1), deadline_s=2.0))
        eventually(lambda: session.submit_counts.hung == 1)
        numpy_engine.held.pop("gpu:0").set()
        eventually(lambda: session.infer(x(2)).used_device == "numpy/gpu:0")


def test_a_device_that_hangs_from_the_start_is_taken_out_by_its_warm_up(
    everywhere: Bundle, hold: Callable[[str], threading.Event], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "FIRST_CALL_S", 0.5)
    with Session(everywhere, NUMPY) as session:
        hold("gpu:0")
        assert answer(session.submit(x(1), deadline_s=2.0)).used_device == "numpy/npu:0"
        eventually(lambda: session.submit_counts.hung == 1)
        assert session.infer(x(2)).used_device == "numpy/npu:0"


def test_trials_of_a_device_that_still_hangs_hold_nobody_up(
    everywhere: Bundle,
    hold: Callable[[str], threading.Event],
    numpy_engine: ModuleType,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "FIRST_CALL_S", 0.5)
    with Session(everywhere, NUMPY) as session:
        answer(session.submit(x(0)))
        hold("gpu:0")
        answer(session.submit(x(1), deadline_s=2.0))

        def hangs() -> list[int]:
            return [fallback.at_ns for fallback in session.fallbacks if "hangs" in fallback.reason]

        eventually(lambda: answer(session.submit(x(2))).used_device == "numpy/npu:0" and len(hangs()) >= 3)
        first_s, second_s = np.diff(hangs()[:3]) / 1e9
        assert first_s > 0.15, "a pause of 0.1 s, and a trial"
        assert second_s > 0.25, "a pause of 0.2 s, and a trial"


def test_a_lost_device_may_take_its_time_to_load_again_and_does_not_count_as_hung(
    one_gpu: Bundle, numpy_engine: ModuleType, impatient: None
) -> None:
    with Session(one_gpu) as session:
        answer(session.submit(x(0)))
        numpy_engine.unplugged.add("gpu:0")
        assert isinstance(session.submit(x(1)).exception(PATIENCE_S), DeviceLostError)
        numpy_engine.unplugged.clear()
        numpy_engine.slow_load_s["gpu:0"] = 0.6
        patient = session.submit(x(2))
        with pytest.raises(DeadlineExceededError):
            answer(session.submit(x(3), deadline_s=0.1))
        assert answer(patient).outputs["y"][0, 0] == 4
        assert session.submit_counts.hung == 0


def test_with_every_device_hung_a_call_is_refused_and_not_lost(
    one_gpu: Bundle, hold: Callable[[str], threading.Event], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "RETRY_FIRST_S", 60.0)
    with Session(one_gpu) as session:
        answer(session.submit(x(0)))
        hold("gpu:0")
        patient = session.submit(x(1))
        with pytest.raises(DeadlineExceededError):
            answer(session.submit(x(1), deadline_s=0.15))
        with pytest.raises(DeviceLostError, match="hangs"):
            answer(patient)
        with pytest.raises(DeviceLostError):
            session.submit(x(2))
        with pytest.raises(DeviceLostError):
            session.predict(x(2))
        assert session.submit_counts.refused == 1


def test_a_full_queue_is_1003_and_what_is_in_it_is_answered(
    one_gpu: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType
) -> None:
    with Session(one_gpu, Config(submit_queue=3)) as session:
        answer(session.submit(x(0)))
        event = hold("gpu:0")
        taken = [session.submit(x(i)) for i in range(4)]  # one runs, three wait
        with pytest.raises(DeviceBusyError) as caught:
            session.submit(x(9))
        assert caught.value.code == 1003
        event.set()
        assert [answer(future).outputs["y"][0, 0] for future in taken] == [0, 2, 4, 6]
        assert session.submit_counts.refused == 1


def test_a_call_can_be_cancelled_while_it_waits(
    one_gpu: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType
) -> None:
    with Session(one_gpu) as session:
        answer(session.submit(x(0)))
        event = hold("gpu:0")
        running, waiting, last = (session.submit(x(i)) for i in range(3))
        assert numpy_engine.wait_begun("gpu:0", 3)
        assert waiting.cancel()
        assert not running.cancel()
        event.set()
        assert answer(last).outputs["y"][0, 0] == 4
        with pytest.raises(CancelledError):
            answer(waiting)
        assert numpy_engine.begun["gpu:0"] == 4  # warm-up and the three others
        eventually(lambda: session.submit_counts.pending == 0)
        assert session.submit_counts.cancelled == 1


def test_several_workers_serve_a_device_side_by_side(
    one_gpu: Bundle, hold: Callable[[str], threading.Event], numpy_engine: ModuleType
) -> None:
    with Session(one_gpu, Config(submit_workers=3)) as session:
        answer(session.submit(x(0)))
        event = hold("gpu:0")
        futures = [session.submit(x(i)) for i in range(3)]
        assert numpy_engine.wait_begun("gpu:0", 2 + 3)
        event.set()
        assert [answer(future).outputs["y"][0, 0] for future in futures] == [0, 2, 4]


@pytest.mark.parametrize("wait_s", [10.0, float("inf")])
def test_close_waits_for_what_was_submitted(everywhere: Bundle, numpy_engine: ModuleType, wait_s: float) -> None:
    session = Session(everywhere, NUMPY)
    numpy_engine.slow_s["gpu:0"] = 0.01
    futures = [session.submit(x(i)) for i in range(20)]
    session.close(wait_s=wait_s)
    assert [future.result(0).outputs["y"][0, 0] for future in futures] == [2 * i for i in range(20)]
    eventually(lambda: not numpy_engine.open_executables)
    with pytest.raises(DeviceError, match="closed"):
        session.submit(x(1))


def test_close_ends_what_hangs_with_an_error(one_gpu: Bundle, hold: Callable[[str], threading.Event]) -> None:
    session = Session(one_gpu)
    event = hold("gpu:0")
    futures = [session.submit(x(i)) for i in range(3)]
    session.close(wait_s=0.1)
    for future in futures:
        with pytest.raises(DeviceError, match="closed"):
            future.result(0)
    event.set()


def test_close_inside_a_callback_does_not_wait_for_itself(everywhere: Bundle) -> None:
    session, closed = Session(everywhere, NUMPY), threading.Event()

    def close(_: Future[Prediction]) -> None:
        session.close()
        closed.set()

    session.submit(x(1)).add_done_callback(close)
    assert closed.wait(PATIENCE_S)


def test_what_was_submitted_before_a_reload_is_answered_by_the_old_bundle(
    tmp_path: Path, numpy_engine: ModuleType, hold: Callable[[str], threading.Event]
) -> None:
    old = make_bundle(tmp_path / "old", scaler(2.0), name="old", device_kinds=("gpu",))
    new = make_bundle(tmp_path / "new", scaler(5.0), name="new", device_kinds=("gpu",))
    with Session(old) as session:
        event = hold("gpu:0")
        before = [session.submit(x(1)) for _ in range(5)]
        assert numpy_engine.wait_begun("gpu:0", 1)
        del numpy_engine.held["gpu:0"]
        session.reload(new)
        after = [session.submit(x(1)) for _ in range(5)]
        assert {(answer(one).bundle, answer(one).outputs["y"][0, 0]) for one in after} == {("new@1", 5.0)}
        event.set()
        assert {(answer(one).bundle, answer(one).outputs["y"][0, 0]) for one in before} == {("old@1", 2.0)}
        assert session.submit_counts.answered == 10
        eventually(lambda: len(numpy_engine.open_executables) == 1)


def test_reload_to_another_level_swaps_in_place_while_calls_run(tmp_path: Path, numpy_engine: ModuleType) -> None:
    bundle = make_bundle(tmp_path / "b", {0: scaler(2.0), 2: scaler(3.0)}, device_kinds=("gpu", "npu"))
    stop = threading.Event()
    seen: Counter[float] = Counter()
    with Session(bundle, NUMPY) as session:

        def load() -> None:
            while not stop.is_set():
                seen[float(answer(session.submit(x(1))).outputs["y"][0, 0])] += 1

        callers = [threading.Thread(target=load) for _ in range(4)]
        for caller in callers:
            caller.start()
        for level in (2, 0, 2, 0, 2):
            before = sum(seen.values())
            session.reload(optimization_level=level)
            eventually(lambda: sum(seen.values()) > before + 20)  # noqa: B023
        stop.set()
        for caller in callers:
            caller.join(PATIENCE_S)
        assert set(seen) == {2.0, 3.0}
        assert session.submit_counts.failed == session.submit_counts.refused == 0
        assert session.submit_counts.answered == session.submit_counts.taken == sum(seen.values())


def test_an_error_of_the_engine_that_nobody_mapped_reaches_the_caller_and_the_worker_lives_on(
    one_gpu: Bundle, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(one_gpu) as session:
        with monkeypatch.context() as patch:
            patch.setattr(numpy_engine, "fail_if_asked", lambda device: {}[device])
            with pytest.raises(KeyError):
                answer(session.submit(x(1)))
        assert answer(session.submit(x(2))).outputs["y"][0, 0] == 4
        assert session.submit_counts.failed == 1


def test_the_queue_and_the_deadline_timer_keep_no_answer_alive(one_gpu: Bundle) -> None:
    import gc
    import weakref

    with Session(one_gpu) as session:
        given = x(1)
        future = session.submit(given, deadline_s=600.0)
        array = answer(future).outputs["y"]
        traces: list[weakref.ref[Any]] = [weakref.ref(given), weakref.ref(array), weakref.ref(future)]
        eventually(lambda: session.submit_counts.pending == 0)
        answer(session.submit(x(2)))  # so that the worker has let go of the first
        del given, array, future
        gc.collect()
        assert [trace() for trace in traces] == [None, None, None]


def test_the_deadline_timer_rings_in_the_order_of_time_and_not_after_it_was_stopped() -> None:
    timer, done = DeadlineTimer("test-deadlines"), threading.Event()
    rung: list[str] = []
    now = time.monotonic()
    for delay_s, name in ((0.15, "last"), (0.05, "first"), (0.1, "second")):
        timer.at(now + delay_s, partial(rung.append, name))
    timer.at(now + 0.2, done.set)
    assert done.wait(PATIENCE_S)
    assert rung == ["first", "second", "last"]
    timer.stop()
    timer.at(now, lambda: rung.append("after the end"))
    eventually(lambda: not any(thread.name == "test-deadlines" for thread in threading.enumerate()))
    assert rung == ["first", "second", "last"]


def test_a_call_that_a_worker_has_just_taken_when_its_device_is_taken_out_goes_elsewhere(
    everywhere: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken, go = lane.Lane.take, threading.Event(), threading.Event()

    def slow(self: lane.Lane) -> tuple[SubmittedCall, int] | None:
        got = take(self)
        if got is not None and self.slot.device == "gpu:0":
            taken.set()
            go.wait(PATIENCE_S)
        return got

    monkeypatch.setattr(lane.Lane, "take", slow)
    with Session(everywhere, NUMPY) as session:
        future = session.submit(x(3))
        assert taken.wait(PATIENCE_S)
        placement = session._serving.placement
        assert isinstance(placement, Placement)
        gpu = placement.pool.all_slots()[0]
        placement.pool.take_out(SlotFailure(gpu, gpu.executable, DeviceLostError("it is gone"), 0))()
        go.set()
        assert (answer(future).used_device, answer(future).outputs["y"][0, 0]) == ("numpy/npu:0", 6)


def test_threads_end_with_the_session(everywhere: Bundle) -> None:
    before = set(threading.enumerate())

    def ours() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name.startswith("lineside-") and one not in before]

    with Session(everywhere, NUMPY) as session:
        wait([session.submit(x(i), deadline_s=5.0) for i in range(10)])
        assert ours()
    eventually(lambda: not ours())
