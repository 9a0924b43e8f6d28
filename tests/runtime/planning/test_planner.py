"""The planner with real engines and with one whose devices take a chosen time; the plan that a session follows."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside_runtime.bundle import Bundle, write_manifest
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, DeviceError, NoDeviceError
from lineside_runtime.planning import Objective, PlacementPlan, ServingPlan, plan_placement, planner, selection
from lineside_runtime.planning.arrivals import as_fast_as_possible, warm_up
from lineside_runtime.planning.crash_trial import NO_TIME, try_accelerators
from lineside_runtime.planning.selection import FRAMES_LEAST, PILOT_ROUNDS, ROUNDS_MIN, TimedWay
from lineside_runtime.serving.plan_file import forget_plan, plan_file, read_plan, save_plan
from lineside_runtime.session import Session
from tests.runtime.onnx_models import make_bundle, scaler

X = {"x": np.ones((1, 4), np.float32)}
ONLY = Config(engines=("numpy",), gpu_ratio=1.0)
ONE_AT_A_TIME, MANY = Objective(), Objective(kind="throughput")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends after the fewest rounds that decide, and takes what is clear even in so few of them on a busy machine."""
    monkeypatch.setattr(planner, "ROUNDS_MAX", ROUNDS_MIN)
    monkeypatch.setattr(selection, "SURE_ERRORS", 5.0)


@pytest.fixture
def accelerated(tmp_path: Path, numpy_engine: ModuleType) -> Bundle:
    """A bundle for the GPU, which leads, and the NPU of the third-party engine."""
    return make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu", "gpu"))


def planned(bundle: Bundle, objective: Objective = ONE_AT_A_TIME, config: Config = ONLY) -> PlacementPlan:
    return plan_placement(bundle, config, objective=objective, feeds=[X], limit_s=60.0)


def used(bundle: Bundle, config: Config = ONLY) -> tuple[str, ServingPlan]:
    with Session(bundle, config) as session:
        assert session.predict(X)["y"].tolist() == [[2.0] * 4]
        return session.used_device, session.plan


def test_a_faster_device_is_taken_and_a_session_follows_the_plan(accelerated: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.slow_s.update({"npu:0": 0.004, "gpu:0": 0.04})
    assert used(accelerated) == ("numpy/gpu:0", ServingPlan())
    plan = planned(accelerated)
    assert (plan.chosen.kind, plan.chosen.devices) == ("device", ("numpy/npu:0",))
    assert plan.why.startswith("latency of one frame at a time: numpy/npu:0: ")
    assert "as configured (numpy/gpu:0)" in plan.why
    save_plan(plan, plan_file(accelerated, ONLY))
    assert used(accelerated) == ("numpy/npu:0", plan.chosen)
    with Session(accelerated, ONLY) as session:  # the rest stays for when it fails
        numpy_engine.unplugged.add("npu:0")
        assert session.infer(X).used_device == "numpy/gpu:0"


def test_what_is_measured_to_be_slower_is_not_taken(accelerated: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.slow_s["npu:0"] = 0.04
    plan = planned(accelerated)
    assert plan.chosen == ServingPlan()
    slow = next(one for one in plan.measured if one.plan.devices == ("numpy/npu:0",))
    assert slow.over_best > 2
    assert slow.rounds < plan.measured[0].rounds  # it was not measured to the end


def test_a_device_that_the_bundle_is_not_for_serves_only_by_a_plan(tmp_path: Path, numpy_engine: ModuleType) -> None:
    numpy_engine.slow_s.update({"npu:0": 0.1, "gpu:0": 0.004})
    bundle = make_bundle(tmp_path / "b", scaler(2.0), device_kinds=("npu",))
    assert used(bundle) == ("numpy/npu:0", ServingPlan())
    plan = planned(bundle)
    assert plan.chosen.devices == ("numpy/gpu:0",)
    save_plan(plan, plan_file(bundle, ONLY))
    assert used(bundle) == ("numpy/gpu:0", plan.chosen)
    together = next(one for one in plan.measured if one.plan.kind == "replicas")
    assert set(together.used.split("+")) <= {"numpy/gpu:0", "numpy/npu:0"} and not together.error


def test_what_a_way_pays_after_the_turn_of_another_one_is_not_counted(
    accelerated: Bundle, numpy_engine: ModuleType
) -> None:
    numpy_engine.slow_s.update({"npu:0": 0.005, "gpu:0": 0.02})
    numpy_engine.cold_s["npu:0"] = 0.25  # a line that runs one way never meets it
    assert planned(accelerated).chosen.devices == ("numpy/npu:0",)


def test_replicas_for_throughput_and_for_more_frames_than_one_device_takes(
    accelerated: Bundle, numpy_engine: ModuleType
) -> None:
    numpy_engine.slow_s.update({"npu:0": 0.06, "gpu:0": 0.06})  # far more than a busy machine takes to hand a call on
    assert planned(accelerated, MANY).chosen.kind == "replicas"
    crowded = planned(accelerated, Objective(rate_hz=24))  # one device takes 16
    assert crowded.chosen.kind == "replicas"
    assert crowded.measured[0].ms > 60


@pytest.mark.parametrize(
    ("other", "rate_hz", "back_to_back"),
    [
        (ServingPlan(kind="device", devices=("numpy/npu:0",)), 100.0, ROUNDS_MIN - PILOT_ROUNDS),
        (ServingPlan(kind="device", devices=("numpy/npu:0",), workers=2), 150.0, 0),
        (ServingPlan(kind="replicas", devices=("numpy/gpu:0", "numpy/npu:0")), 150.0, 0),  # too many for one device
    ],
)
def test_frames_are_given_back_to_back_only_where_each_way_runs_one_call_after_the_other(
    accelerated: Bundle,
    numpy_engine: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    other: ServingPlan,
    rate_hz: float,
    back_to_back: int,
) -> None:
    numpy_engine.slow_s.update({"npu:0": 0.006, "gpu:0": 0.009})
    paces: list[Objective] = []

    def noted(running: Sequence[TimedWay], number: int, objective: Objective) -> Objective:
        paces.append(selection.pace(running, number, objective))
        return paces[-1]

    monkeypatch.setattr(planner, "alternatives", lambda *_, **__: [ServingPlan(), other])
    monkeypatch.setattr(planner, "pace", noted)
    plan = planned(accelerated, Objective(rate_hz=rate_hz))
    assert not plan.measured[1].error
    assert paces.count(ONE_AT_A_TIME) == back_to_back
    assert plan.measured[0].p50_ms > 9


def test_frames_without_pause_are_timed_between_others(accelerated: Bundle, numpy_engine: ModuleType) -> None:
    with Session(accelerated, ONLY, plan=ServingPlan(kind="device", devices=("numpy/npu:0",), workers=2)) as session:
        warm_up(session, [X], 1, workers=2)  # loads the engine, and tries it
        before = numpy_engine.begun["npu:0"]
        served = as_fast_as_possible(session, [X], 4, depth=4, untimed=2, workers=2)
        assert numpy_engine.begun["npu:0"] - before == 2 + 4 + 1
    assert len(served.latencies_ms) == 4 and served.elapsed_s > 0


def test_the_time_that_is_given_ends_the_measuring_and_leaves_the_configuration(
    accelerated: Bundle, numpy_engine: ModuleType
) -> None:
    numpy_engine.slow_s["gpu:0"] = 0.05
    plan = plan_placement(accelerated, ONLY, feeds=[X], limit_s=1e-9)
    assert plan.chosen == ServingPlan()
    assert plan.why.endswith("there was no time to measure others")
    assert [one.rounds for one in plan.measured if not one.error] == [1]
    loaded, piloted, timed = planner.WARM_CALLS + 1, 1, 1 + FRAMES_LEAST
    assert numpy_engine.begun == {"gpu:0": loaded + piloted + timed}


def test_a_driver_that_crashes_ends_its_own_process_and_not_the_planners(
    tmp_path: Path, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(4.0), device_kinds=("npu", "gpu"))
    monkeypatch.setenv(numpy_engine.DIES, "gpu:0")
    plan = planned(bundle)
    assert (plan.chosen.kind, plan.measured[0].used) == ("configured", "numpy/npu:0")
    refused = {str(one.plan): one.error for one in plan.measured if one.error}
    assert set(refused) == {"numpy/gpu:0", "replicas on numpy/gpu:0 and numpy/npu:0"}
    assert all("numpy/gpu:0 was tried in a process of its own" in error for error in refused.values())
    save_plan(plan, plan_file(bundle, ONLY))
    with Session(bundle, ONLY) as session:
        numpy_engine.unplugged.add("npu:0")
        with pytest.raises(DeviceError):  # gpu:0 would end this process
            session.infer(X)
    assert set(numpy_engine.begun) == {"npu:0"}


def test_no_way_uses_a_device_that_crashed_not_even_as_a_fallback(
    tmp_path: Path, numpy_engine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(9.0), device_kinds=("npu", "gpu", "cpu"))
    config = Config(engines=("numpy", "ort"), threads=1, gpu_ratio=1.0)
    monkeypatch.setenv(numpy_engine.DIES, "gpu:0")
    plan = planned(bundle, MANY, config)
    (together,) = (one for one in plan.measured if one.plan.kind == "replicas")
    assert together.plan.devices == ("numpy/npu:0", "ort/cpu:0") and not together.error
    assert {one.plan.excluded for one in plan.measured} == {("numpy/gpu:0",)}
    alone = msgspec.structs.replace(together.plan, kind="device", devices=("numpy/npu:0",))
    gone = msgspec.structs.replace(alone, devices=("hailo/npu:0",))
    for way in (together.plan, alone, gone):
        numpy_engine.unplugged.clear()
        with Session(bundle, config, plan=way) as session:
            numpy_engine.unplugged.add("npu:0")
            assert {session.infer(X).used_device for _ in range(3)} == {"ort/cpu:0"}  # gpu:0 would end this process
    assert set(numpy_engine.begun) == {"npu:0"}


def test_a_device_without_time_for_its_trial_still_serves_as_configured(
    tmp_path: Path, numpy_engine: ModuleType
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(7.0), device_kinds=("npu", "gpu"))  # none that passed its trial before
    tried = try_accelerators(bundle, ONLY, 1.0, X, time.monotonic() + 0.9)
    assert tried.refused == {"numpy/gpu:0": NO_TIME, "numpy/npu:0": NO_TIME}
    assert not tried.crashed and tried.reason_against(ServingPlan()) == ""


def test_a_split_model_runs_whole_where_stages_are_slower(tmp_path: Path, numpy_engine: ModuleType) -> None:
    from tests.runtime.stages.test_stages import cut_bundle

    bundle = cut_bundle(tmp_path / "cut")  # ONNX Runtime and OpenVINO: two calls of a tiny model in place of one
    plan = plan_placement(bundle, Config(threads=1), limit_s=60.0)
    staged = [one for one in plan.measured if one.plan.kind == "stages"]
    assert {one.plan.devices for one in staged} == {
        ("ort/cpu:0", "openvino/cpu:0"),
        ("openvino/cpu:0", "ort/cpu:0"),
    }
    assert not any(one.error for one in staged)
    assert plan.chosen.kind != "stages"
    with Session(bundle, Config(threads=1), plan=staged[0].plan) as session:
        assert session.infer(X).used_device == "ort/cpu:0+openvino/cpu:0"
        session.reload()
        assert (session.plan, session.used_device) == (staged[0].plan, "ort/cpu:0+openvino/cpu:0")


def test_a_way_that_cannot_serve_is_left_out_with_its_reason(accelerated: Bundle, numpy_engine: ModuleType) -> None:
    numpy_engine.full.add("npu:0")
    plan = planned(accelerated)
    npu = next(one for one in plan.measured if one.plan.devices == ("numpy/npu:0",))
    assert "numpy/npu:0" in npu.error
    assert plan.chosen != npu.plan  # which of the others is faster depends on what else runs here
    numpy_engine.full.add("gpu:0")
    with pytest.raises(NoDeviceError):
        planned(accelerated)


def test_a_plan_of_another_machine_version_or_bundle_is_not_used(
    accelerated: Bundle, numpy_engine: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    numpy_engine.slow_s["gpu:0"] = 0.04
    plan, path = planned(accelerated), plan_file(accelerated, ONLY)
    for changed, reason in (
        ({"machine": "another processor, 64 cores"}, "another processor"),
        ({"versions": {"numpy": "0.9"}}, "numpy 0.9"),
        ({"digest": "0" * 64}, "another bundle"),
        ({"versions": {"null": "1.0"}}, "null is none of numpy"),  # an engine that computes nothing
    ):
        save_plan(msgspec.structs.replace(plan, **changed), path)
        caplog.clear()
        assert used(accelerated)[1] == ServingPlan()
        assert reason in caplog.text
    out_of_range = json.loads(path.read_bytes())
    out_of_range["objective"]["rate_hz"] = -1
    for damaged in ("{", json.dumps(out_of_range)):
        path.write_text(damaged)
        assert read_plan(path, accelerated, ONLY) is None


def test_a_user_without_a_home_has_no_plans(accelerated: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # as in a container
    with pytest.raises(ConfigError, match="XDG_STATE_HOME"):
        plan_file(accelerated, ONLY)
    assert used(accelerated)[1] == ServingPlan()


def test_a_device_that_is_gone_leaves_the_configuration(
    accelerated: Bundle, numpy_engine: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        Session(accelerated, ONLY, plan=ServingPlan(kind="device", devices=("hailo/npu:0",))) as session,
    ):
        assert (session.plan, session.infer(X).used_device) == (ServingPlan(), "numpy/gpu:0")
    assert "hailo/npu:0 is not here" in caplog.text


def test_the_plan_is_of_a_bundle_and_what_its_configuration_leaves_open(accelerated: Bundle, tmp_path: Path) -> None:
    other = write_manifest(accelerated.path, msgspec.structs.replace(accelerated.manifest, version="2"))
    assert plan_file(other, ONLY) != plan_file(accelerated, ONLY)
    assert plan_file(accelerated, Config(threads=1)) != plan_file(accelerated, Config())
    assert plan_file(accelerated, Config(submit_queue=8, submit_workers=4)) == plan_file(accelerated, Config())


@pytest.mark.parametrize("objective", [{"rate_hz": 0}, {"rate_hz": -1.0}, {"kind": "throughput", "rate_hz": 5.0}])
def test_an_objective_that_cannot_be_is_refused(objective: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="rate_hz"):
        Objective(**objective)  # type: ignore[arg-type]  # what a command line may give


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf"])
def test_a_time_in_which_nothing_can_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    with pytest.raises(ConfigError, match="limit_s"):
        plan_placement(bundle, ONLY, limit_s=float(seconds))
    with pytest.raises(SystemExit):
        main(["plan", str(bundle.path), "--seconds", seconds])
    assert "--seconds: expected" in capsys.readouterr().err


def test_calls_at_once_are_measured_where_there_are_cores(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    ways = plan_placement(bundle, Config(engines=("ort",)), limit_s=60.0).measured
    most = max(one.plan.workers for one in ways)
    assert most == len(os.sched_getaffinity(0))
    assert not any(one.error for one in ways)


def test_the_command_keeps_a_plan_and_forgets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2.0))
    assert main(["plan", str(bundle.path), "--throughput", "--seconds", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inputs"] == "noise"
    config = Config()
    path = plan_file(bundle, config)
    kept = read_plan(path, bundle, config)
    assert kept is not None
    assert kept.why == told["why"]
    with Session(bundle) as session:
        assert session.plan == kept.chosen
    assert main(["plan", str(bundle.path), "--forget"]) == 0
    assert str(path) in capsys.readouterr().out
    assert not forget_plan(path)
