"""A GPU or NPU that a bundle's variants are not for, as the GPU of a Jetson: it serves only as measured here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from lineside_agent.config import DegradeConfig, InspectConfig
from lineside_agent.inspection import variant_selection
from lineside_agent.inspection.faster_variant import load_faster
from lineside_agent.inspection.variant_selection import SUFFIX, TimedVariant, best_of, fastest_first, widest_within
from lineside_models import zoo
from lineside_models.inspector import Inspector
from lineside_runtime import registry
from lineside_runtime.backends.null import NullExecutable
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.engine_process import engine as engine_process
from lineside_runtime.planning import AS_CONFIGURED, ServingPlan
from lineside_runtime.session import Session
from tests.runtime.conftest import numpy_engine as numpy_engine
from tests.runtime.onnx_models import make_bundle, scaler

X = {"x": np.ones((1, 4), np.float32)}
NUMPY = Config(engines=("numpy",))
GPU = ServingPlan(kind="device", devices=("numpy/gpu:0",), variant="level0")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps isolated engines in this process, in which a test sets how the tests' engine behaves."""
    monkeypatch.setattr(engine_process, "isolated", lambda entry, timeout_s: registry.backend(entry))


@pytest.fixture
def for_npu(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    """A bundle for NPUs, on a board whose NPU is slow."""
    numpy_engine.slow_s["npu:0"] = 0.01
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))


def answers_zeros(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an engine as fast as none, and wrong."""
    monkeypatch.setattr(
        engine.NumpyBackend,
        "_load",
        lambda self, model, device, options: NullExecutable(options.inputs, options.outputs),
    )


@pytest.mark.usefixtures("in_this_process")
def test_a_faster_device_that_the_bundle_is_not_for_serves_and_the_others_stay_behind_it(
    for_npu: Bundle, numpy_engine: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with Session(for_npu, NUMPY) as session:
        assert session.infer(X).used_device == "numpy/npu:0"  # without a measurement, as the bundle says
    with caplog.at_level(logging.INFO, "lineside.agent"):
        chosen, plan = fastest_first(for_npu, NUMPY)
    assert plan == GPU
    assert "level0 is used on numpy/gpu:0" in caplog.text
    with Session(chosen, NUMPY, plan=plan) as session:
        assert session.infer(X).used_device == "numpy/gpu:0"
        numpy_engine.unplugged.add("gpu:0")
        assert session.infer(X).used_device == "numpy/npu:0"
    with Session(chosen, NUMPY, plan=plan) as session:  # a start without it
        assert session.infer(X).used_device == "numpy/npu:0"


@pytest.mark.usefixtures("in_this_process")
def test_it_is_measured_once_for_the_same_engines(for_npu: Bundle, numpy_engine: ModuleType) -> None:
    fastest_first(for_npu, NUMPY)
    calls = dict(numpy_engine.begun)
    assert fastest_first(for_npu, NUMPY)[1] == GPU
    assert dict(numpy_engine.begun) == calls
    place = for_npu.path.with_name(for_npu.path.name + SUFFIX)
    place.write_text(json.dumps({**json.loads(place.read_text()), "others": []}))  # the engine came later
    assert fastest_first(for_npu, NUMPY)[1] == GPU
    assert dict(numpy_engine.begun) != calls


@pytest.mark.usefixtures("in_this_process")
def test_a_limit_of_time_holds_where_the_bundle_is_served(tmp_path: Path, numpy_engine: ModuleType) -> None:
    made = make_bundle(tmp_path / "b", {0: scaler(2.0), 1: scaler(3.0)}, device_kinds=("npu",))
    wide, narrow = made.manifest.variants
    of_widths = (wide, msgspec.structs.replace(narrow, level=0, width=0.5))
    bundle = write_manifest(made.path, msgspec.structs.replace(made.manifest, variants=of_widths))
    numpy_engine.slow_s["npu:0"] = 0.1
    widest_within(bundle, NUMPY, 50.0, device="numpy/gpu:0")
    assert set(numpy_engine.begun) == {"gpu:0"}, "timed where it is to serve"
    widest_within(bundle, NUMPY, 50.0)
    assert numpy_engine.begun["npu:0"] > 0


@pytest.mark.usefixtures("in_this_process")
def test_a_slower_one_changes_nothing(for_npu: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.slow_s["gpu:0"] = 0.1
    assert fastest_first(for_npu, NUMPY)[1] == AS_CONFIGURED


@pytest.mark.usefixtures("in_this_process")
def test_one_that_takes_long_to_start_is_not_used(
    for_npu: Bundle, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy_engine.slow_load_s["gpu:0"] = 0.2
    monkeypatch.setattr(variant_selection, "START_MAX_S", 0.1)
    assert fastest_first(for_npu, NUMPY)[1] == AS_CONFIGURED
    kept = json.loads(for_npu.path.with_name(for_npu.path.name + SUFFIX).read_text())
    assert "to start" in kept["timed"][-1]["why"]


@pytest.mark.usefixtures("in_this_process")
def test_one_that_computes_something_else_is_not_used(
    tmp_path: Path, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_zeros(numpy_engine, monkeypatch)
    config = Config(engines=("ort", "numpy"), threads=1)
    bundle, plan = fastest_first(open_bundle(zoo.path("surface-starter")), config, tmp_path / "speed.json")
    assert plan == AS_CONFIGURED
    timed = json.loads((tmp_path / "speed.json").read_text())["timed"]
    assert timed[0]["device"] == "ort/cpu:0"
    refused = {(one["device"], "golden output" in one["why"]) for one in timed if one["device"].startswith("numpy")}
    assert refused == {("numpy/npu:0", True), ("numpy/gpu:0", True)}
    with Session(bundle, config, plan=plan) as session:
        assert session.requested_device == "cpu:0"


def test_the_faster_variant_of_reduced_service_runs_where_the_regular_one_runs(
    numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_zeros(numpy_engine, monkeypatch)
    bundle, config = open_bundle(zoo.path("surface-12")), Config(engines=("ort", "numpy"), threads=1)
    plan = ServingPlan(kind="device", devices=("numpy/gpu:0",), variant="onnx-int8-mirrored", threads=1)
    degrade = DegradeConfig(steps=("variant",), variant="onnx-int8")
    with Session(bundle, config, plan=plan) as session:
        rules = InspectConfig()
        fast = load_faster(bundle, session, config, rules, degrade, {}, lambda one, rules: Inspector(one, rules=rules))
        assert fast is not None
        with fast.session:
            assert (fast.session.variant, fast.session.used_device) == ("onnx-int8", "numpy/gpu:0")


@pytest.mark.parametrize("dies", ["", "gpu:0"])
def test_a_driver_that_crashes_takes_only_its_own_process_down(
    for_npu: Bundle, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    monkeypatch.setenv(numpy_engine.DIES, dies)
    _, plan = fastest_first(for_npu, NUMPY)
    timed = json.loads(for_npu.path.with_name(for_npu.path.name + SUFFIX).read_text())["timed"]
    [gpu] = [one for one in timed if one["undeclared"]]
    assert (gpu["device"], gpu["ms"] is None, "ended with exit status 11" in gpu["why"]) == (
        "numpy/gpu:0",
        bool(dies),
        bool(dies),
    )
    assert not dies or plan == AS_CONFIGURED
    assert set(numpy_engine.begun) == {"npu:0"}, "the other one ran elsewhere"


@pytest.mark.parametrize(("ms", "device"), [(9.5, "ort/cpu:0"), (9.0, "ort/gpu:0")])
def test_a_small_gain_is_no_reason_to_leave_the_kind_of_device(tmp_path: Path, ms: float, device: str) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    able = [
        TimedVariant(variant="level0", device="ort/gpu:0", ms=ms, undeclared=True),
        TimedVariant(variant="level0", device="ort/cpu:0", ms=10.0),
    ]
    assert best_of(bundle.manifest, able).device == device
