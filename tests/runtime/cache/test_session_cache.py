"""The cache as a user of `Session` meets it."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from lineside_runtime.bundle import Bundle
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.cache.stats import CacheStats, LevelStats
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    ConfigError,
    DeadlineExceededError,
    DeviceLostError,
    EngineError,
    LinesideError,
    MissingExtraError,
)
from lineside_runtime.serving.memory_pressure import relieve
from lineside_runtime.serving.placement import Placement
from lineside_runtime.session import Session
from lineside_runtime.tensors import TensorSpec
from tests.peers import RedisServer, wait_for
from tests.runtime.onnx_models import FLOAT, RESHAPE_SPECS, graph, make_bundle, scaler, unhappy_reshape
from tests.runtime.trials import wait_trials

STRING = TensorProto.STRING
X = np.ones((1, 4), np.float32)


def config(cache: CacheConfig | None = None, **more: Any) -> Config:
    return Config(**{"threads": 1, "engines": ("ort",), "cache": cache or CacheConfig(), **more})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0))


def stats_of(session: Session) -> CacheStats:
    assert session.cache_stats is not None
    return session.cache_stats


def level_of(session: Session, name: str) -> LevelStats:
    return next(level for level in stats_of(session).levels if level.name == name)


def test_without_a_configuration_there_is_no_cache(bundle: Bundle) -> None:
    with Session(bundle, Config(threads=1, engines=("ort",))) as session:
        outputs = session.predict(X)
        outputs["y"][0] = 7  # the caller's own
        assert session.infer(X).cached is None
        assert session.cache_stats is None


def test_the_same_frame_again_is_answered_from_memory_and_says_so(bundle: Bundle) -> None:
    with Session(bundle, config()) as session:
        first, second = session.infer(X), session.infer(X.copy())
        assert (first.cached, second.cached) == (None, "memory")
        assert second.outputs["y"].tolist() == first.outputs["y"].tolist() == [[2, 2, 2, 2]]
        assert (second.used_device, second.requested_device, second.fell_back) == ("ort/cpu:0", "cpu:0", False)
        assert (second.inference_ms, second.bundle) == (0, "test@1")
        assert (session.calls, session.rerouted) == (2, 0)
        stats = stats_of(session)
        assert (stats.hits, stats.misses, stats.hit_rate) == (1, 1, 0.5)
        assert [(level.name, level.hits, level.misses, level.entries) for level in stats.levels] == [
            ("memory", 1, 1, 1)
        ]


def test_another_frame_is_computed(bundle: Bundle) -> None:
    nearly = X.copy()
    nearly[0, 3] = np.nextafter(np.float32(1), np.float32(2))
    with Session(bundle, config()) as session:
        session.predict(X)
        assert session.infer(nearly).cached is None
        assert session.infer(np.ones((2, 4), np.float32)).cached is None


def test_nobody_can_spoil_what_is_kept(bundle: Bundle) -> None:
    with Session(bundle, config()) as session:
        for _ in range(3):
            outputs = session.predict(X)
            with pytest.raises(ValueError, match="read-only"):
                outputs["y"][0, 0] = 7
            outputs["y"] = X
            outputs.clear()
        assert session.predict(X)["y"].tolist() == [[2, 2, 2, 2]]


def test_a_frame_that_changes_while_it_is_computed_is_not_kept(
    numpy_engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera's buffer, into which the next frame comes while the engine reads this one."""
    run = numpy_engine.NumpyExecutable._run

    def run_while_the_camera_writes(executable: Any, inputs: dict[str, np.ndarray]) -> Any:
        outputs = run(executable, inputs)
        inputs["x"][0, 0] = 9
        return outputs

    monkeypatch.setattr(numpy_engine.NumpyExecutable, "_run", run_while_the_camera_writes)
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))
    with Session(bundle, config(engines=("numpy",))) as session:
        session.predict(X.copy())
        assert stats_of(session).unstable == 1
        assert level_of(session, "memory").entries == 0


def test_a_reload_never_answers_from_the_bundle_before(tmp_path: Path) -> None:
    two, three = (make_bundle(tmp_path / str(f), scaler(f), version=str(f)) for f in (2.0, 3.0))
    with Session(two, config()) as session:
        session.predict(X)
        session.reload(three)
        answer = session.infer(X)
        assert (answer.cached, answer.bundle, answer.outputs["y"][0, 0]) == (None, "test@3.0", 3)
        session.reload(two)
        answer = session.infer(X)
        assert (answer.cached, answer.bundle, answer.outputs["y"][0, 0]) == ("memory", "test@2.0", 2)


def test_another_level_of_the_same_bundle_is_not_answered_from_the_first(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", {0: scaler(2.0), 2: scaler(2.5)})
    with Session(bundle, config()) as session:
        assert session.predict(X)["y"][0, 0] == 2
        session.reload(optimization_level=2)
        answer = session.infer(X)
        assert (answer.cached, answer.outputs["y"][0, 0]) == (None, 2.5)


def test_reloading_while_threads_predict_mixes_nothing_up(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / str(f), scaler(f), version=str(f)) for f in (2.0, 3.0)]
    wrong: list[object] = []
    done = threading.Event()
    with Session(bundles[0], config()) as session:

        def work() -> None:
            while not done.is_set():
                answer = session.infer(X)
                if answer.outputs["y"][0, 0] != float(answer.bundle.partition("@")[2]):
                    wrong.append(answer)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            session.reload(bundles[turn % 2])
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert stats_of(session).hits > 0


def test_two_engines_do_not_answer_for_each_other(bundle: Bundle, tmp_path: Path) -> None:
    shared = CacheConfig(sqlite=tmp_path / "cache.db", memory_bytes=0)
    with Session(bundle, config(shared)) as session:
        session.predict(X)
    with Session(bundle, config(shared, engines=("openvino",))) as session:
        assert session.infer(X).cached is None
        wait_for(lambda: level_of(session, "sqlite").stored == 1)
        answer = session.infer(X)
        assert (answer.cached, answer.used_device) == ("sqlite", "openvino/cpu:0")


def test_a_standbys_answer_does_not_stand_in_for_the_first_choice(
    numpy_engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "cpu"))
    with Session(bundle, config(engines=("numpy", "ort"))) as session:
        numpy_engine.unplugged.add("npu:0")
        answer = session.infer(X)
        assert (answer.used_device, answer.fell_back, answer.cached) == ("ort/cpu:0", True, None)
        answer = session.infer(X)  # the standby leads now
        assert (answer.used_device, answer.cached) == ("ort/cpu:0", "memory")
        numpy_engine.unplugged.clear()
        placement = session._serving.placement
        assert isinstance(placement, Placement)
        monkeypatch.setattr(placement.pool, "_clock_s", lambda: 1e12)
        assert session.infer(2 * X).used_device == "ort/cpu:0"  # while the first choice is loaded again
        wait_trials()
        assert session.infer(3 * X).used_device == "numpy/npu:0"
        answer = session.infer(X)
        assert (answer.used_device, answer.cached) == ("numpy/npu:0", None)


def test_a_failing_call_is_not_kept(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", unhappy_reshape(), RESHAPE_SPECS)
    wrong = {"x": np.ones(6, np.float32), "s": np.array([4, 2])}
    right = {"x": np.ones(6, np.float32), "s": np.array([3, 2])}
    with Session(bundle, config()) as session:
        for _ in range(2):
            with pytest.raises(EngineError, match="reshaped"):
                session.predict(wrong)
        assert session.infer(right).cached is None
        answer = session.infer({"s": right["s"], "x": right["x"]})
        assert (answer.cached, answer.outputs["y"].shape) == ("memory", (3, 2))


def test_a_dead_device_answers_nothing_new_but_what_is_kept(numpy_engine: ModuleType, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))
    with Session(bundle, config(engines=("numpy",))) as session:
        session.predict(X)
        numpy_engine.unplugged.add("npu:0")
        with pytest.raises(DeviceLostError):
            session.predict(2 * X)
        assert session.infer(X).cached == "memory"


def test_a_result_larger_than_the_budget_is_not_kept(tmp_path: Path) -> None:
    with Session(make_bundle(tmp_path / "b", scaler(2.0)), config(CacheConfig(memory_bytes=2000))) as session:
        large = np.ones((1000, 4), np.float32)
        for _ in range(2):
            assert session.infer(large).cached is None
            assert session.infer(X).cached in (None, "memory")
        assert session.infer(X).cached == "memory"


def test_a_level_that_had_it_fills_those_before_it(bundle: Bundle, tmp_path: Path) -> None:
    cache = CacheConfig(sqlite=tmp_path / "cache.db")
    with Session(bundle, config(cache)) as session:
        session.predict(X)
        wait_for(lambda: level_of(session, "sqlite").stored == 1)
    with Session(bundle, config(cache)) as session:
        wait_for(lambda: level_of(session, "sqlite").up)  # on a busy disk it opens later than a session waits for
        assert [session.infer(X).cached for _ in range(3)] == ["sqlite", "memory", "memory"]
        assert stats_of(session).hit_rate == 1


def test_the_age_of_results_is_bounded(bundle: Bundle, tmp_path: Path) -> None:
    with Session(bundle, config(CacheConfig(ttl_s=0.05))) as session:
        session.predict(X)
        wait_for(lambda: session.infer(X).cached is None, what="the result to be forgotten")
        assert level_of(session, "memory").expired >= 1


def test_a_cache_that_cannot_work_is_told_when_the_session_opens(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="redis"):
        Session(bundle, config(CacheConfig(redis=("redis://h:no number",)))).close()
    with pytest.raises(ConfigError, match="CacheConfig"):
        Config(cache=True)  # type: ignore[arg-type]  # a wrong type on purpose


def test_scalars_and_empty_outputs_are_kept_as_they_are(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [("x", FLOAT, ["n", 4])], [("y", FLOAT, [])]
    )
    specs = (TensorSpec(name="x", shape=(-1, 4)),), (TensorSpec(name="y", shape=()),)
    cache = CacheConfig(sqlite=tmp_path / "cache.db", memory_bytes=0)
    with Session(make_bundle(tmp_path / "b", model, specs), config(cache)) as session:
        session.predict(X)
        wait_for(lambda: session.infer(X).cached == "sqlite")
        answer = session.infer(X)
        assert (answer.outputs["y"].shape, float(answer.outputs["y"])) == ((), 4)


def test_redis_without_its_client_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "lineside_runtime.cache.redis_", raising=False)
    with pytest.raises(MissingExtraError, match=r"lineside\[redis\]"):
        Session(bundle, config(CacheConfig(redis=("redis://127.0.0.1",))))


def test_a_session_that_cannot_open_gives_its_cache_back(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "level0/model.onnx").unlink()
    before = set(threading.enumerate())  # a store that hangs may outlive its session by its time-out
    with pytest.raises(LinesideError):
        Session(bundle.path, config(CacheConfig(sqlite=tmp_path / "cache.db")))
    new = set(threading.enumerate()) - before
    assert not [one for one in new if one.name.startswith("lineside-cache")]


def test_texts_are_neither_looked_up_nor_kept(tmp_path: Path) -> None:
    model = graph([helper.make_node("Identity", ["x"], ["y"])], [("x", STRING, ["n"])], [("y", STRING, ["n"])])
    specs = (TensorSpec(name="x", shape=(-1,), dtype="string"),), (TensorSpec(name="y", shape=(-1,), dtype="string"),)
    texts = np.array(["a", "b"], dtype=object)
    with Session(make_bundle(tmp_path / "b", model, specs), config()) as session:
        for _ in range(2):
            answer = session.infer(texts)
            assert (answer.cached, answer.outputs["y"].tolist()) == (None, ["a", "b"])
        assert stats_of(session).not_kept == 2
        assert session.submit(texts).result(60).outputs["y"].tolist() == ["a", "b"]


# A server that comes and goes while threads predict.


def test_redis_that_hangs_dies_and_comes_back_loses_no_call_and_stops_none(
    bundle: Bundle, redis_server: RedisServer
) -> None:
    cache = CacheConfig(memory_bytes=0, redis=(redis_server.url,), redis_timeout_s=0.25)
    done, wrong = threading.Event(), list[object]()
    answered = [0, 0]
    with Session(bundle, config(cache)) as session:

        def work(seed: int) -> None:
            number = 0
            while not done.is_set():
                number += 1
                value = np.float32(number % 20 + 100 * seed)
                answer = session.infer(np.full((1, 4), value, np.float32))
                answered[seed] += 1
                if answer.outputs["y"].tolist() != [[2 * value] * 4]:
                    wrong.append(answer)

        def hits() -> int:
            return level_of(session, "redis").hits

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: hits() > 50)
            for end, begin in ((redis_server.freeze, redis_server.thaw), (redis_server.kill, redis_server.start)):
                end()
                wait_for(lambda: not level_of(session, "redis").up)
                wait_for(functools.partial(lambda before: sum(answered) > before + 100, sum(answered)))
                begin()
                wait_for(functools.partial(lambda seen: hits() > seen + 50, hits()))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert (session.calls, session.fallback_count) == (sum(answered), 0)
        assert level_of(session, "redis").errors > 0


# Submitted calls.


def test_the_time_of_a_look_up_is_part_of_a_deadline(bundle: Bundle, redis_server: RedisServer) -> None:
    cache = CacheConfig(memory_bytes=0, redis=(redis_server.url,), redis_timeout_s=1.0)
    with Session(bundle, config(cache)) as session:
        wait_for(lambda: level_of(session, "redis").up)
        session.submit(X).result(60)
        wait_for(lambda: level_of(session, "redis").stored == 1)
        redis_server.freeze()
        try:
            future = session.submit(np.full((1, 4), 2, np.float32), deadline_s=0.5)
            with pytest.raises(DeadlineExceededError):
                future.result(60)
        finally:
            redis_server.thaw()
        assert session.submit_counts.expired == 1
        assert session.submit(X).result(60).outputs["y"][0, 0] == 2


def test_a_submitted_frame_that_is_known_is_done_at_once(bundle: Bundle) -> None:
    with Session(bundle, config()) as session:
        first = session.submit(X).result(60)
        assert (first.cached, first.used_device) == (None, "ort/cpu:0")
        future = session.submit(X)
        assert future.done()
        assert not future.cancel()
        assert (future.result(0).cached, future.result(0).outputs["y"][0, 0]) == ("memory", 2)
        assert session.infer(X).cached == "memory"
        assert (session.calls, session.submit_counts.taken) == (3, 1)
        with pytest.raises(ValueError, match="read-only"):
            first.outputs["y"][0, 0] = 7
        session.reload(make_bundle(bundle.path.parent / "three", scaler(3.0)))  # and nothing is held any more
        assert session.submit(X).result(60).outputs["y"][0, 0] == 3


def test_a_submitted_call_ends_even_if_its_answer_can_not_be_copied(
    numpy_engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRoom(np.ndarray):
        def tobytes(self, order: object = "C") -> bytes:
            raise MemoryError

    run = numpy_engine.NumpyExecutable._run

    def run_to_the_brim(executable: Any, inputs: dict[str, np.ndarray]) -> Any:
        return {name: array.view(NoRoom) for name, array in run(executable, inputs).items()}

    monkeypatch.setattr(numpy_engine.NumpyExecutable, "_run", run_to_the_brim)
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))
    with Session(bundle, config(engines=("numpy",))) as session, pytest.raises(MemoryError):
        session.submit(X).result(60)


def test_a_submitted_call_that_fails_or_is_cancelled_says_so(
    numpy_engine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    run = numpy_engine.NumpyExecutable._run

    def run_when_told(executable: Any, inputs: dict[str, np.ndarray]) -> Any:
        entered.set()
        go.wait(60)
        return run(executable, inputs)

    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))
    with Session(bundle, config(engines=("numpy",))) as session:
        session.submit(X).result(60)
        entered.clear()
        monkeypatch.setattr(numpy_engine.NumpyExecutable, "_run", run_when_told)
        runs = session.submit(2 * X)
        assert entered.wait(60)
        waits = session.submit(3 * X)
        assert runs.running()
        assert not runs.cancel()
        assert waits.cancel()
        assert waits.cancelled()
        assert not waits.running()
        go.set()
        assert runs.result(60).outputs["y"][0, 0] == 4
        assert not runs.running()
        numpy_engine.unplugged.add("npu:0")
        failed = session.submit(5 * X)
        assert isinstance(failed.exception(60), DeviceLostError)
        assert session.submit(X).result(60).cached == "memory"


def test_a_device_without_room_makes_the_cache_give_its_memory_back(bundle: Bundle) -> None:
    with Session(bundle, config()) as session:
        session.predict(X)
        assert relieve() > 0
        level = level_of(session, "memory")
        assert (level.entries, level.used_bytes, level.evictions) == (0, 0, 1)
        assert session.infer(X).cached is None
    assert relieve() == 0
