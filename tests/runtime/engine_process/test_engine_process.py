"""Engines in a process of their own: real ones, and one that really crashes."""

from __future__ import annotations

import gc
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from lineside_runtime import registry
from lineside_runtime.backend import Executable, LoadOptions
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import Config
from lineside_runtime.engine_process import engine as isolation
from lineside_runtime.engine_process.engine import IsolatedBackend, isolated
from lineside_runtime.engine_process.messages import RemoteEngineError
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    DeadlineExceededError,
    DeviceBusyError,
    DeviceError,
    EngineCrashedError,
    EngineError,
    EngineMissingError,
    UnsupportedModelError,
)
from lineside_runtime.serving.candidates import choose
from lineside_runtime.serving.device_pool import SUBSTITUTE_KEPT_S
from lineside_runtime.serving.health import Failures
from lineside_runtime.serving.placement import Placement
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.peers.waiting import wait_for
from tests.runtime.clock import Clock
from tests.runtime.onnx_models import SCALER_SPECS, make_bundle, scaler
from tests.runtime.trials import wait_trials

WILD = Path(__file__).parent / "wild_engine"
ACTS = ("echo", "segfault", "abort", "exit", "hang", "hang with the lock", "leave", "refuse", "break", "bug", "meet")
X = np.arange(4, dtype=np.float32).reshape(1, 4)

Load = Callable[..., Executable]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No process, no shared memory and no open socket may be left by any of these tests."""
    gc.collect()
    ties = _ties()
    others = set(psutil.Process().children())  # such as the resource tracker of a test's multiprocessing
    yield
    isolation.close_all()
    gc.collect()
    wait_for(lambda: set(psutil.Process().children()) <= others, what="the engines' processes end")
    wait_for(lambda: not _ties() - ties, what="sockets, pipes and shared memory are closed")


def _ties() -> set[str]:
    """The sockets, pipes and pieces of shared memory, named or not, that this process holds."""
    with os.scandir("/proc/self/fd") as entries:
        targets = {os.path.realpath(entry.path).rpartition("/")[2] for entry in entries}
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split()[4] for line in maps if "memfd:lineside" in line or "/dev/shm/" in line}
    return {target for target in targets if target.startswith(("socket:", "pipe:", "memfd:"))} | mapped


@pytest.fixture
def wild(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that crashes, found through its entry point as an installed package's is."""
    monkeypatch.syspath_prepend(str(WILD))
    importlib.invalidate_caches()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(scaler(2.0))
    return path


@pytest.fixture
def load(wild: None, model: Path) -> Load:
    def loaded(timeout_s: float | None = None, **options: Any) -> Executable:
        backend = isolated("wild", timeout_s)
        return backend.load(model, backend.probe()[0], LoadOptions(**options))

    return loaded


def told(act: str) -> dict[str, np.ndarray[Any, Any]]:
    return {"do": np.array([ACTS.index(act)], np.int32), "x": X}


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_gives_what_the_engine_gives_in_this_process(name: str, model: Path) -> None:
    child, here = isolated(name, None), registry.backend(name)
    facts = ("name", "package", "version", "formats", "untested_kinds")
    assert [getattr(child, fact) for fact in facts] == [getattr(here, fact) for fact in facts]
    assert child.probe() == here.probe()
    assert child.compatibility() == here.compatibility()
    results = []
    for backend in (child, here):
        executable = backend.load(model, backend.probe()[0], LoadOptions(threads=1))
        results.append(executable.run({"x": X}))
        executable.close()
    np.testing.assert_array_equal(results[0]["y"], results[1]["y"])
    assert results[0].keys() == results[1].keys()


def test_a_real_engine_runs_in_another_process_that_dies_with_its_last_model(model: Path, tmp_path: Path) -> None:
    backend = isolated("ort", None)
    device = backend.probe()[0]
    first, second = (backend.load(model, device, LoadOptions()) for _ in range(2))
    pid = backend.pid
    assert pid not in (None, os.getpid())
    first.close()
    first.close()
    with pytest.raises(DeviceError, match="closed"):
        first.run({"x": X})
    with pytest.raises(BadInputFormatError, match="x"):
        second.run({"x": np.zeros((1, 5), np.float32)})
    (tmp_path / "garbage.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModelError):
        backend.load(tmp_path / "garbage.onnx", device, LoadOptions())
    assert backend.pid == pid
    np.testing.assert_array_equal(second.run({"x": X})["y"], 2 * X)
    second.close()
    assert backend.pid is None
    assert not psutil.pid_exists(pid or 0)


ARRAYS = {
    "bytes": np.arange(7, dtype=np.uint8),
    "signed": np.array([[-1]], np.int8),
    "half": np.array([0.5, np.inf, np.nan], np.float16),
    "long": np.array([2**62]),
    "nothing": np.zeros((0, 3), np.float32),
    "scalar": np.array(3.0),
    "columns": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "every second": np.arange(20)[::2],
    "other endian": np.arange(3, dtype=">i4"),
}


def test_arrays_of_every_kind_arrive_as_they_are(load: Load) -> None:
    executable = load()
    for _ in range(2):  # the second time without a new memory
        found = executable.run(ARRAYS)
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_what_was_answered_does_not_change_with_the_next_call(load: Load) -> None:
    executable = load()
    first = executable.run({"x": np.full(50_000, 1.0)})["x"]
    for size in (50_000, 10, 3_000_000):  # the same memory, less of it, a larger one
        np.testing.assert_array_equal(executable.run({"x": np.full(size, 2.0)})["x"], 2.0)
    np.testing.assert_array_equal(first, 1.0)
    assert first.flags.writeable and first.flags.owndata  # the caller's own


def test_objects_are_refused_before_they_travel(load: Load) -> None:
    executable = load()
    with pytest.raises(BadInputFormatError, match="numbers"):
        executable.run({"x": np.array(["a", None])})
    np.testing.assert_array_equal(executable.run({"x": X})["x"], X)


@pytest.mark.parametrize(
    ("act", "how"), [("segfault", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit status 3"), ("leave", "was ended")]
)
def test_a_crash_is_an_error_that_tells_how(load: Load, act: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineside_runtime.engine_process.process.END_S", 1.0)
    executable = load()
    with pytest.raises(EngineCrashedError, match=how) as raised:
        executable.run(told(act))
    assert raised.value.code == 1009
    assert f"told to {act}" in str(raised.value.actual)  # its last words
    assert act != "segfault" or re.search(r"lineside_wild_engine\.py.* in _run", str(raised.value)), "its stack"
    with pytest.raises(EngineCrashedError, match=how):
        executable.run({"x": X})  # what it had loaded is gone for good
    executable.close()


def test_the_next_load_starts_another_process(load: Load) -> None:
    backend = isolated("wild", None)
    broken = load()
    pid = backend.pid
    with pytest.raises(EngineCrashedError):
        broken.run(told("abort"))
    fresh = load()
    assert backend.pid not in (None, pid)
    broken.close()  # of a process that is gone: it must not end the new one
    np.testing.assert_array_equal(fresh.run({"x": X})["x"], X)


def test_a_crash_while_loading(wild: None, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"crash on load")
    backend = isolated("wild", None)
    with pytest.raises(EngineCrashedError, match="SIGABRT"):
        backend.load(path, backend.probe()[0], LoadOptions())
    assert [device.handle for device in backend.probe()] == ["wild"]


def test_a_call_that_hangs_with_the_lock_is_ended(load: Load) -> None:
    executable = load(timeout_s=2.0)
    executable.run({"x": X})
    with pytest.raises(EngineCrashedError, match=r"did not answer within 2 s"):
        executable.run(told("hang with the lock"))


def test_calls_beside_one_that_hangs_end_too(load: Load) -> None:
    executable = load(timeout_s=2.0)
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(executable.run, told(act)) for act in ("hang", "hang")]
        assert all(isinstance(answer.exception(), EngineCrashedError) for answer in answers)


def test_a_caller_can_abandon_a_call(load: Load) -> None:
    executable = load()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(executable.run, told("hang with the lock"))
        busy = psutil.Process(isolated("wild", None).pid)
        wait_for(lambda: busy.num_threads() > 1)
        assert executable.abandon()
        with pytest.raises(EngineCrashedError, match="abandoned"):
            answer.result(60)


def test_an_engine_in_this_process_cannot_be_abandoned(model: Path) -> None:
    here = registry.backend("ort")
    executable = here.load(model, here.probe()[0], LoadOptions())
    assert not executable.abandon()
    executable.close()


def test_errors_arrive_as_the_same_class_with_everything_they_said(load: Load) -> None:
    executable = load()
    with pytest.raises(DeviceBusyError) as raised:
        executable.run(told("break"))
    error = raised.value
    assert error.as_dict() == {
        "code": 1003,
        "error": "DeviceBusyError",
        "message": "wild run: it broke",
        "expected": "peace",
        "actual": "3",
        "action": "Wait.",
    }
    assert isinstance(error.__cause__, RemoteEngineError)
    assert "WildError: it broke" in str(error.__cause__)
    with pytest.raises(BadInputFormatError, match=r"expected \(1, 4\) float32; got \(2, 4\)"):
        executable.run(told("refuse"))
    with pytest.raises(EngineError, match="ZeroDivisionError, which its backend does not declare"):
        executable.run(told("bug"))
    np.testing.assert_array_equal(executable.run({"x": X})["x"], X)  # none of them did any harm


def test_calls_of_several_threads_are_under_way_at_once(load: Load) -> None:
    executable = load(timeout_s=30.0)
    with ThreadPoolExecutor(2) as pool:
        for answer in [pool.submit(executable.run, told("meet")) for _ in range(2)]:
            np.testing.assert_array_equal(answer.result(60)["x"], X)


def test_no_answer_goes_to_another_thread(load: Load) -> None:
    executable = load()
    threads = 6

    def ask(number: int) -> bool:
        mine = (np.full(1 + number % 3 * 9000, number * 1000 + turn) for turn in range(50))
        return all(np.array_equal(executable.run({"x": array})["x"], array) for array in mine)

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(ask, range(threads)))


def test_options_operators_and_compatibility_go_through(load: Load) -> None:
    backend = isolated("wild", None)
    assert backend.compatibility().fits is False
    assert backend.compatibility().versions == {"driver": "7", "wild": "1.0"}
    options = {"threads": 2, "cores": (0, 1), "operator_libraries": (Path(sys.executable),), "precision": "int8"}
    assert load(profile=True, **options).operators()[0].name == "conv1"
    with pytest.raises(EngineError, match=r"wild LoadOptions.*threads=2.*PosixPath\('.*python.*'\)"):
        load(**options).operators()


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(EngineMissingError, match="no engine 'nosuch'"):
        isolated("nosuch", None)
    with pytest.raises(EngineMissingError, match="does not start"):
        isolated("ort=/nowhere/bin/python", None)


def test_an_interpreter_that_lacks_our_packages_is_told_what_to_install(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    with pytest.raises(EngineMissingError, match=r"No module named '(numpy|msgspec)'.*Install msgspec, numpy"):
        isolated(f"ort={tmp_path}/bare/bin/python", None)


def test_another_interpreter_gets_our_source_and_none_of_our_packages(tmp_path: Path, model: Path) -> None:
    """The venv has its own search path: of ours only what a .pth file here lends it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "own")], check=True)
    (site,) = (tmp_path / "own").glob("lib/python*/site-packages")
    lent = site / "lent"
    lent.mkdir()
    for package in ("numpy", "msgspec", "packaging", "onnxruntime", "numpy.libs"):
        origin = Path(np.__file__).parents[1] / package
        if origin.exists():
            (lent / package).symlink_to(origin)
    (site / "lent.pth").write_text("lent\n")
    with Session(
        make_bundle(tmp_path / "b", scaler(3.0)),
        Config(engines=("ort",), isolate=(f"ort={tmp_path}/own/bin/python",)),
    ) as session:
        np.testing.assert_array_equal(session.predict(X)["y"], 3 * X)


@pytest.fixture
def wild_bundle(wild: None, tmp_path: Path) -> Bundle:
    inputs = (TensorSpec(name="do", shape=(1,), dtype="int32"), TensorSpec(name="x", shape=(-1, 4)))
    return make_bundle(tmp_path / "b", scaler(1.0), (inputs, (TensorSpec(name="x", shape=(-1, 4)),)))


@pytest.fixture
def doubling(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), SCALER_SPECS)


def process_of(entry: str, timeout_s: float | None = None) -> int:
    backend = isolated(entry, timeout_s)
    assert isinstance(backend, IsolatedBackend)
    wait_for(lambda: backend.pid is not None)
    return backend.pid or 0


def test_a_killed_engine_loses_no_call_and_answers_none_twice(doubling: Bundle) -> None:
    config = Config(engines=("ort", "openvino"), isolate=("ort",), threads=1)
    asked = 4 * 150
    answers: list[tuple[int, float, str]] = []
    killed = threading.Event()
    with Session(doubling, config) as session, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> None:
            prediction = session.infer(np.full((1, 4), number, np.float32))
            answers.append((number, float(prediction.outputs["y"][0, 0]), prediction.used_device))
            if len(answers) > asked // 4 and not killed.is_set():
                killed.set()
                os.kill(process_of("ort"), signal.SIGKILL)

        list(pool.map(ask, range(asked)))
        assert sorted(number for number, _, _ in answers) == list(range(asked))
        assert all(value == 2 * number for number, value, _ in answers)
        assert {used for _, _, used in answers} == {"ort/cpu:0"}, "it was started again, and nobody had to take over"
        assert session.engine_restarts == 1
        assert {fallback.code for fallback in session.fallbacks} == {1009}
        assert "SIGKILL" in session.fallbacks[0].reason


def test_an_engine_that_is_killed_again_and_again_is_started_again_and_again(doubling: Bundle) -> None:
    config, clock = Config(engines=("ort", "openvino"), isolate=("ort",), threads=1), Clock()
    failures = Failures()
    placement = Placement(doubling, choose(doubling.manifest, config), config, failures, clock_s=clock)
    with closing(placement):
        seen = {process_of("ort")}
        for kill in range(1, 6):
            clock.now_s += 2**kill  # longer than the pause after the last one
            os.kill(process_of("ort"), signal.SIGKILL)
            assert placement.run({"x": X}).used_device == "ort/cpu:0"
            seen.add(process_of("ort"))
            assert (len(seen), failures.restarts) == (kill + 1, kill)
        assert [str(one) for one in placement.candidates] == ["ort/cpu:0"], "the other engine was never needed"


def test_an_engine_that_ends_too_often_is_left_alone_for_growing_pauses(doubling: Bundle) -> None:
    config, clock = Config(engines=("ort", "openvino"), isolate=("ort",), threads=1), Clock()
    failures = Failures()
    placement = Placement(doubling, choose(doubling.manifest, config), config, failures, clock_s=clock)
    with closing(placement):
        pauses = []
        for _ in range(4):
            os.kill(process_of("ort"), signal.SIGKILL)
            began_s = clock.now_s
            while placement.run({"x": X}).used_device != "ort/cpu:0":
                wait_trials()
                if placement.run({"x": X}).used_device == "ort/cpu:0":
                    break
                clock.now_s += 0.5
            pauses.append(clock.now_s - began_s)
        assert pauses == [0.0, 2.0, 0.0, 8.0], "the second and fourth come within the pause of the one before"
        assert placement.candidates[1].backend.name == "openvino"
        assert placement.pool.slots[1].executable is not None, "it may be needed again soon"
        clock.now_s += SUBSTITUTE_KEPT_S
        placement.run({"x": X})
        assert placement.pool.slots[1].executable is None
        assert placement.run({"x": X}).used_device == "ort/cpu:0"


def test_an_input_that_ends_the_engine_ends_it_twice_and_no_more(wild_bundle: Bundle) -> None:
    with Session(wild_bundle, Config(engines=("wild",), isolate=("wild",))) as session:
        with pytest.raises(EngineCrashedError, match="SIGSEGV"):
            session.predict(told("segfault"))
        assert session.engine_restarts == 1
        np.testing.assert_array_equal(session.predict(told("echo"))["x"], told("echo")["x"])


def test_a_call_that_hangs_is_not_given_to_a_new_process(wild_bundle: Bundle) -> None:
    with Session(wild_bundle, Config(engines=("wild",), isolate=("wild",), isolated_timeout_s=2.0)) as session:
        session.predict(told("echo"))
        with pytest.raises(EngineCrashedError, match="did not answer"):
            session.predict(told("hang"))
        assert session.engine_restarts == 0


def test_a_submitted_call_that_hangs_costs_the_child_and_what_it_held_is_freed_without_the_garbage_collector(
    wild_bundle: Bundle,
) -> None:
    gc.collect()
    ties = _ties()
    gc.disable()
    try:
        with Session(wild_bundle, Config(engines=("wild",), isolate=("wild",))) as session:
            session.submit(told("echo")).result(60)
            child = psutil.Process(process_of("wild"))
            assert type(session.submit(told("hang"), deadline_s=2.0).exception(60)) is DeadlineExceededError
            wait_for(lambda: not child.is_running(), what="the child that hangs is ended")
            assert any("wild/cpu:0" in fallback.device for fallback in session.fallbacks)
        isolation.close_all()
        wait_for(lambda: not _ties() - ties, what="sockets, pipes and shared memory are closed")
    finally:
        gc.enable()


def test_a_reload_stays_in_the_process_and_a_lone_engine_that_was_killed_answers_all_the_same(doubling: Bundle) -> None:
    with Session(doubling, Config(engines=("ort",), isolate=("ort",))) as session:
        pid = process_of("ort")
        for _ in range(3):
            session.reload()
            np.testing.assert_array_equal(session.predict(X)["y"], 2 * X)
        assert process_of("ort") == pid
        os.kill(pid, signal.SIGKILL)
        np.testing.assert_array_equal(session.predict(X)["y"], 2 * X)


def test_a_typing_error_in_isolate_is_an_error(doubling: Bundle) -> None:
    with pytest.raises(ConfigError, match="isolate"):
        Session(doubling, Config(isolate=("openvin",)))
