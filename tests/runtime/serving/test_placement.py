"""Placement over real engines: ONNX Runtime, OpenVINO, and a third-party one that offers an NPU and a GPU."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lineside_models import zoo
from lineside_runtime.bundle import Bundle
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BundleFormatError,
    ConfigError,
    DeviceError,
    DeviceLostError,
    EngineError,
    EngineMissingError,
    IncompatibleBundleError,
    NoDeviceError,
    UnsupportedModelError,
)
from lineside_runtime.serving import fastest_candidate
from lineside_runtime.serving.candidates import choose
from lineside_runtime.serving.health import RETRY_FIRST_S, RETRY_MAX_S, Failures, pause_s
from lineside_runtime.serving.placement import Placement
from lineside_runtime.session import Session
from tests.runtime.clock import Clock
from tests.runtime.onnx_models import (
    EATER_SPECS,
    RESHAPE_SPECS,
    SWISH_SPECS,
    make_bundle,
    memory_eater,
    openvino_only,
    scaler,
    unhappy_reshape,
)
from tests.runtime.trials import wait_trials

X = np.ones((1, 4), np.float32)
EVERYWHERE = ("npu", "gpu", "cpu")


@pytest.fixture
def everywhere(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=EVERYWHERE)


def placed(bundle: Bundle, config: Config, clock: Clock) -> tuple[Placement, Failures]:
    failures = Failures()
    return Placement(bundle, choose(bundle.manifest, config), config, failures, clock_s=clock), failures


def names(bundle: Bundle, config: Config, share: float = 1.0) -> list[str]:
    return [str(candidate) for candidate in choose(bundle.manifest, config, share=share).candidates]


def test_kinds_come_before_engines(everywhere: Bundle) -> None:
    small = names(everywhere, Config(), share=0.1)
    assert small == ["numpy/npu:0", "numpy/gpu:0", "ort/cpu:0", "openvino/cpu:0"]


def test_npu_threshold_decides_whether_the_npu_or_the_gpu_leads(everywhere: Bundle) -> None:
    assert names(everywhere, Config(npu_threshold=0.2), share=0.2)[0] == "numpy/npu:0"
    assert names(everywhere, Config(npu_threshold=0.2), share=0.3)[:2] == ["numpy/gpu:0", "numpy/npu:0"]
    assert names(everywhere, Config(npu_threshold=1))[0] == "numpy/npu:0"


def test_a_lone_npu_is_used_whatever_the_threshold(tmp_path: Path, numpy_engine: ModuleType) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0), device_kinds=("npu", "cpu"))
    assert names(bundle, Config(npu_threshold=0))[0] == "numpy/npu:0"


def test_the_order_of_engines_is_the_users(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0))
    assert names(bundle, Config(engines=("openvino", "ort"))) == ["openvino/cpu:0", "ort/cpu:0"]
    assert names(bundle, Config(engines=("ort",))) == ["ort/cpu:0"]


@pytest.mark.parametrize(("ratio", "gpu_calls"), [(0.6, 6), (0.0, 0), (1.0, 10), (0.25, 2)])
def test_gpu_ratio_is_the_share_of_calls_that_start_on_the_gpu(
    everywhere: Bundle, ratio: float, gpu_calls: int
) -> None:
    with Session(everywhere, Config(gpu_ratio=ratio)) as session:
        predictions = [session.infer(X) for _ in range(10)]
        used = Counter(prediction.used_device for prediction in predictions)
        assert used == Counter({"numpy/gpu:0": gpu_calls, "ort/cpu:0": 10 - gpu_calls})
        assert session.unused_settings == ()
        assert all(not prediction.fell_back for prediction in predictions)
        assert {prediction.requested_device for prediction in predictions} <= {"gpu:0", "cpu:0"}


def test_an_engine_that_cannot_load_gives_way_to_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_bundle(tmp_path / "b", openvino_only(), SWISH_SPECS)
    with caplog.at_level(logging.WARNING), Session(bundle) as session:
        assert session.requested_device == "cpu:0"
        assert session.used_device == "openvino/cpu:0"
        np.testing.assert_allclose(session.predict(X)["y"], 1 / (1 + np.exp(-1.0)), rtol=1e-5)
        (fallback,) = session.fallbacks
        assert (fallback.device, fallback.during, fallback.code) == ("ort/cpu:0", "load", 2007)
        assert "Swish" in fallback.reason
        assert session.rerouted == 1
    assert "ort/cpu:0 failed during load" in caplog.text


def test_an_engine_that_runs_out_of_memory_gives_way_and_comes_back(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", memory_eater(), EATER_SPECS)
    clock = Clock()
    placement, failures = placed(bundle, Config(), clock)
    huge, small = {"s": np.array([1 << 42])}, {"s": np.array([3])}
    first = placement.run(huge)
    assert (first.used_device, first.requested_device, first.fell_back) == ("openvino/cpu:0", "cpu:0", True)
    assert [fallback.code for fallback in failures.kept] == [1001]
    assert placement.run(small).used_device == "openvino/cpu:0"
    clock.now_s += RETRY_FIRST_S
    assert placement.run(small).used_device == "openvino/cpu:0", "no call waits while it is loaded again"
    wait_trials()
    again = placement.run(small)
    assert (again.used_device, again.fell_back) == ("ort/cpu:0", False)
    assert failures.count == 1


def test_the_pause_grows_with_each_failure_up_to_a_bound(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    clock = Clock()
    placement, failures = placed(everywhere, Config(gpu_ratio=1.0), clock)
    numpy_engine.unplugged.add("gpu:0")
    tried_at: list[float] = []
    for _ in range(40):
        before = failures.count
        assert placement.run({"x": X}).used_device == "numpy/npu:0"
        wait_trials()
        tried_at += [clock.now_s] * (failures.count - before)
        clock.now_s += 1
    assert np.diff(tried_at).tolist() == [1, 2, 4, 8, 16]
    assert pause_s(1000) == RETRY_MAX_S
    numpy_engine.unplugged.clear()
    clock.now_s += RETRY_MAX_S
    placement.run({"x": X})
    wait_trials()
    assert placement.run({"x": X}).used_device == "numpy/gpu:0"


def test_no_call_waits_for_a_device_that_is_loaded_again(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    clock = Clock()
    placement, failures = placed(everywhere, Config(gpu_ratio=1.0), clock)
    numpy_engine.unplugged.add("gpu:0")
    assert placement.run({"x": X}).used_device == "numpy/npu:0"
    numpy_engine.unplugged.clear()
    numpy_engine.slow_load_s["gpu:0"] = 2.0
    clock.now_s += RETRY_FIRST_S
    assert {placement.run({"x": X}).used_device for _ in range(20)} == {"numpy/npu:0"}
    wait_trials()
    assert placement.run({"x": X}).used_device == "numpy/gpu:0"
    assert failures.count == 1


def test_with_error_nothing_takes_over(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    with Session(everywhere, Config(fallback_strategy="error")) as session:
        numpy_engine.unplugged.add("gpu:0")
        with pytest.raises(DeviceLostError):
            session.predict(X)
        assert session.fallback_count == 1
        numpy_engine.unplugged.clear()
        assert session.infer(X).used_device == "numpy/gpu:0"


def test_with_error_a_device_that_cannot_load_raises_at_once(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.unplugged.add("gpu:0")
    with pytest.raises(DeviceLostError):
        Session(everywhere, Config(fallback_strategy="error"))


def test_if_nobody_answers_the_first_error_is_raised_and_nobody_is_taken_out(
    everywhere: Bundle, numpy_engine: ModuleType
) -> None:
    with Session(everywhere, Config(engines=("numpy",), gpu_ratio=1.0)) as session:
        numpy_engine.unplugged.update({"gpu:0", "npu:0"})
        for _ in range(3):
            with pytest.raises(DeviceLostError, match="gpu:0"):
                session.predict(X)
        numpy_engine.unplugged.clear()
        prediction = session.infer(X)
        assert (prediction.used_device, prediction.fell_back) == ("numpy/gpu:0", False)


def test_a_failure_inside_the_graph_takes_no_device_out(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", unhappy_reshape(), RESHAPE_SPECS)
    with Session(bundle) as session:
        with pytest.raises(EngineError):
            session.predict({"x": np.ones(5, np.float32), "s": np.array([2, 3])})
        assert session.infer({"x": np.ones(6, np.float32), "s": np.array([2, 3])}).used_device == "ort/cpu:0"


def test_fastest_begins_with_the_device_that_is_measured_to_be_fastest(
    everywhere: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(everywhere, Config(fallback_strategy="fastest")) as session:
        measured = {
            key[1]: value for key, value in fastest_candidate._measured_ms.items() if key[0] == everywhere.digest
        }
        assert set(measured) == {"numpy/gpu:0", "numpy/npu:0", "ort/cpu:0", "openvino/cpu:0"}
        assert all(0 < value < 10_000 for value in measured.values())
        fastest = min(measured, key=lambda name: measured[name])
        assert session.used_device == fastest


def test_fastest_puts_what_fails_last(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.unplugged.update({"gpu:0", "npu:0"})
    config = Config(fallback_strategy="fastest", engines=("numpy", "openvino"))
    with Session(everywhere, config) as session:
        assert session.used_device == "openvino/cpu:0"


def test_an_engine_asked_for_by_name_that_is_absent_is_a_noted_fallback(
    tmp_path: Path, numpy_engine: ModuleType
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0))
    with Session(bundle, Config(engines=("absent", "ort"))) as session:
        assert [(one.device, one.during, one.code) for one in session.fallbacks] == [("absent", "probe", 1006)]
    with pytest.raises(EngineMissingError):
        Session(bundle, Config(engines=("absent", "ort"), fallback_strategy="error"))
    with pytest.raises(NoDeviceError, match="absent"):
        Session(bundle, Config(engines=("absent",)))


def test_the_npu_of_a_named_engine_that_is_absent_was_asked_for(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0))
    with Session(bundle, Config(engines=("hailo", "ort"), cache=CacheConfig())) as session:
        answers = [session.infer(X), session.infer(X)]
        assert session.requested_device == "npu:0"
        assert {(one.requested_device, one.used_device) for one in answers} == {("npu:0", "ort/cpu:0")}
        assert [(one.fell_back, one.cached) for one in answers] == [(True, None), (False, "memory")]
    with Session(bundle, Config(engines=("openvino", "ort"), threads=1)) as session:
        assert session.requested_device == "cpu:0"


def test_a_bundle_for_another_kind_of_device_finds_none(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0), device_kinds=("npu",))
    with pytest.raises(NoDeviceError) as caught:
        Session(bundle, Config(engines=("ort",)))
    assert caught.value.code == 1005


def test_a_bundle_that_needs_a_newer_engine_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0), requires={"onnxruntime": ">=99", "openvino": ">=2020"})
    assert names(bundle, Config()) == ["openvino/cpu:0"]
    with pytest.raises(IncompatibleBundleError, match="onnxruntime >=99"):
        Session(bundle, Config(engines=("ort",)))


def test_a_version_range_that_is_none_is_a_format_error(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0), requires={"onnxruntime": "newest"})
    with pytest.raises(BundleFormatError, match="newest"):
        Session(bundle)


def test_a_model_that_no_engine_reads_is_unsupported(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", b"no model")
    with pytest.raises(UnsupportedModelError):
        Session(bundle)


def test_a_closed_placement_keeps_no_executable_open(everywhere: Bundle, numpy_engine: ModuleType) -> None:
    session = Session(everywhere)
    session.predict(X)
    assert numpy_engine.open_executables
    session.close()
    session.close()
    assert not numpy_engine.open_executables
    with pytest.raises(DeviceError, match="closed"):
        session.predict(X)


def test_calls_are_shared_by_variants_of_one_level() -> None:
    with Session(zoo.path("surface-12"), Config(engines=("ort", "litert"), balance=True, threads=1)) as session:
        image = np.zeros((1, 1, 64, 64), np.float32)
        assert {session.infer(image).used_device for _ in range(10)} == {"ort/cpu:0"}
        placement = session._serving.placement
        assert isinstance(placement, Placement)
        assert {slot.candidate.variant.level for slot in placement.pool.all_slots()} == {0, 1}, (
            "another level stands by"
        )


def test_each_replica_keeps_to_its_own_cores_and_there_must_be_cores_for_each(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    core = min(os.sched_getaffinity(0))
    both = ("ort", "openvino")
    with Session(bundle, Config(engines=both, balance=True, replica_cores=((core,), (core,)))) as session:
        used = {session.infer(X).used_device for _ in range(10)}
        assert used == {"ort/cpu:0", "openvino/cpu:0"}
        placement = session._serving.placement
        assert isinstance(placement, Placement)
        assert [slot.cores for slot in placement.pool.replicas] == [(core,), (core,)]
    with pytest.raises(ConfigError, match="ort/cpu:0, openvino/cpu:0"):
        Session(bundle, Config(engines=both, balance=True, replica_cores=((core,),)))
    with pytest.raises(ConfigError, match="cores"):
        Session(bundle, Config(engines=both, balance=True, replica_cores=((core,), (4096,))))
