"""The benchmark's arithmetic, what it knows of the machine, and how it runs calls."""

from __future__ import annotations

import contextlib
import math
import random
import statistics
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_runtime.benchmark import machine, summary_statistics
from lineside_runtime.benchmark.measurement.contestants import Contestant, open_contestants
from lineside_runtime.benchmark.measurement.input_data import noise
from lineside_runtime.benchmark.measurement.process_tree import cpu_of_children_s, memory_use
from lineside_runtime.benchmark.measurement.protocol import (
    MeasurementTask,
    OperatorRow,
    Profiled,
    WarmUpResult,
    config_from_plain,
    config_to_plain,
    decode_command,
    encode,
    failed,
    to_error,
)
from lineside_runtime.benchmark.measurement.rounds import ROUNDS_MAX, ROUNDS_MIN, calls_in_a_turn, rounds_in_budget
from lineside_runtime.benchmark.measurement.runner import TurnRunner
from lineside_runtime.benchmark.operators import bottleneck
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import GPU_RATIO, Config
from lineside_runtime.errors import ConfigError, DeviceLostError, OutOfDeviceMemoryError
from lineside_runtime.tensors import TensorSpec
from tests.peers.waiting import wait_for
from tests.runtime.onnx_models import make_bundle, scaler

times = st.lists(st.floats(0.001, 1000), min_size=1, max_size=200)


@given(times)
def test_percentiles_are_measured_times_in_order(values: list[float]) -> None:
    found = summary_statistics.latency(values)
    ordered = [found.p5, found.p25, found.p50, found.p75, found.p95, found.p99, found.slowest]
    assert ordered == sorted(ordered)
    assert set(ordered) <= set(values)
    assert found.calls == len(values)
    assert min(values) * (1 - 1e-9) <= found.mean <= max(values) * (1 + 1e-9)  # the mean of equal values is rounded


def test_percentiles_of_a_hundred_are_those_of_the_textbook() -> None:
    found = summary_statistics.latency([float(number) for number in range(100, 0, -1)])
    assert (found.p5, found.p25, found.p50, found.p75, found.p95, found.p99) == (5, 25, 50, 75, 95, 99)
    assert (found.iqr, found.mad, found.slowest) == (50, 25, 100)


@given(times)
def test_a_ratio_of_equals_is_one_and_differs_from_nothing(values: list[float]) -> None:
    found = summary_statistics.ratio(values, values)
    assert (found.low, found.median, found.high) == (1, 1, 1)
    assert not found.differs


@given(times, st.floats(0.1, 10))
def test_the_interval_holds_the_median(values: list[float], factor: float) -> None:
    found = summary_statistics.ratio([value * factor for value in values], values)
    assert found.low <= found.median <= found.high
    assert found.median == pytest.approx(factor)


def test_the_interval_is_that_of_the_sign_test() -> None:
    found = summary_statistics.ratio([float(number) for number in range(1, 101)], [1.0] * 100)
    assert (found.low, found.high) == (41, 61)  # order statistics 41 and 61 of 100, as tables of the binomial have it
    assert found.median == 50.5
    assert found.differs


def test_the_interquartile_mean_ignores_outliers_and_its_error_is_honest() -> None:
    assert summary_statistics.interquartile_mean([1.0, 2.0, 3.0, 1000.0])[0] == 2.5
    assert summary_statistics.interquartile_mean([5.0]) == (5.0, math.inf)
    chance = random.Random(1)
    found = [summary_statistics.interquartile_mean([chance.gauss(0, 1) for _ in range(40)]) for _ in range(2000)]
    assert statistics.stdev(mean for mean, _ in found) == pytest.approx(
        statistics.fmean(error for _, error in found), rel=0.05
    )


def test_noise_drift_and_few_calls_are_said_and_calm_is_not() -> None:
    calm = summary_statistics.latency([1.0 + 0.001 * (number % 5) for number in range(200)])
    assert summary_statistics.noise(calm, [1.0] * 30) == ()
    rough = summary_statistics.latency([1.0 + 0.5 * (number % 2) for number in range(200)])
    assert summary_statistics.noise(rough, [1.0] * 30)[0].startswith("noisy")
    assert summary_statistics.noise(calm, [1.0] * 20 + [1.3] * 10)[0].startswith(
        "drifts: the last third of the rounds took +30%"
    )
    few = summary_statistics.latency([1.0] * 10)
    assert summary_statistics.noise(few, [1.0] * 10)[0].startswith("few calls")


def board(root: Path, *, throttled: str, governor: str = "ondemand", steal: int = 0) -> Path:
    for core in ("cpu0", "cpu1"):
        folder = root / "sys/devices/system/cpu" / core / "cpufreq"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_cur_freq").write_text("1500000\n" if core == "cpu0" else "2400000\n")
        (folder / "cpuinfo_max_freq").write_text("2400000\n")
    zone = root / "sys/class/thermal/thermal_zone0"
    pi = root / "sys" / machine.THROTTLED
    for folder in (zone, pi.parent, root / "proc/device-tree"):
        folder.mkdir(parents=True, exist_ok=True)
    (zone / "temp").write_text("83500\n")
    pi.write_text(f"{throttled}\n")
    (root / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    (root / "proc/loadavg").write_text("1.60 0.5 0.2 1/100 999\n")
    (root / "proc/stat").write_text(f"cpu  1 2 3 4 5 6 7 {steal} 0 0\n")
    (root / "proc/meminfo").write_text("MemTotal:        8245248 kB\n")
    (root / "proc/cpuinfo").write_text("processor\t: 0\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
    return root


def test_a_boards_conditions_are_read_from_its_files(tmp_path: Path) -> None:
    root = board(tmp_path, throttled="0x0")
    found = machine.conditions(root)
    assert found.governor == "ondemand"
    assert (found.clock_mhz, found.clock_max_mhz) == ((1500.0, 2400.0), 2400.0)
    assert (found.temperature_c, found.load, found.stolen_s) == (83.5, 1.6, 0.0)
    assert found.throttled == ""
    here = machine.machine(root)
    assert here.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert here.memory_mb == 8052
    assert "numpy" in here.packages


def test_throttling_governor_load_and_neighbours_are_remarked(tmp_path: Path) -> None:
    before = machine.conditions(board(tmp_path, throttled="0x0"))
    after = machine.conditions(board(tmp_path, throttled="0x50005", steal=400))
    found = machine.remarks(before, after, seconds=10.0, cores=2)
    assert found[0] == "throttled while measuring: no → now (0x50005)"
    assert found[1].startswith("the clock's governor is ondemand")
    assert found[2].startswith("other virtual machines took 20%")
    assert found[3] == "other processes were running at the start: load 1.6 on 2 cores"
    earlier = machine.conditions(board(tmp_path, throttled="0x50000", governor="performance"))
    assert earlier.throttled == "since its start (0x50000)"
    assert machine.remarks(earlier, earlier, seconds=10.0, cores=8) == ()


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    assert machine.conditions(tmp_path) == machine.Conditions()
    assert machine.machine(tmp_path).memory_mb == 0


def test_memory_of_this_process_is_what_the_kernel_says() -> None:
    found = memory_use()
    assert found.peak_mb is not None
    assert found.resident_mb is not None
    assert found.pss_mb is not None
    assert found.peak_mb >= found.resident_mb > found.pss_mb > 1


def test_processor_time_and_memory_of_a_child_are_counted() -> None:
    alone, used_s = memory_use(), cpu_of_children_s()
    spin = "import sys\nwhile True: sys.stdout.write('x' * 100); sys.stdout.flush()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: cpu_of_children_s() > used_s + 0.05, what="the child has run")
        both = memory_use()
    finally:
        child.kill()
        child.wait()
    assert both.resident_mb is not None
    assert alone.resident_mb is not None
    assert both.resident_mb > alone.resident_mb + 3


class Counted:
    def __init__(self) -> None:
        self.calls = 0
        self.threads: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.calls += 1
            self.threads[threading.get_ident()] += 1


def test_a_turn_runs_one_call_more_than_it_times() -> None:
    call = Counted()
    timed = TurnRunner(call, 1).turn(7)
    assert (len(timed.times_ms), call.calls) == (7, 8)
    assert sum(timed.times_ms) <= timed.wall_s * 1e3


def test_callers_share_the_calls_of_a_turn() -> None:
    call = Counted()
    runner = TurnRunner(call, 3)
    timed = runner.turn(30)
    assert (len(timed.times_ms), call.calls) == (30, 33)
    assert len(call.threads) == 3
    runner.close()


@pytest.mark.parametrize("streams", [1, 2])
def test_an_error_of_one_caller_ends_the_turn_with_it(streams: int) -> None:
    def refuse() -> None:
        raise DeviceLostError("gone")

    runner = TurnRunner(refuse, streams)
    with pytest.raises(DeviceLostError, match="gone"):
        runner.turn(5)
    runner.close()


def test_warming_counts_its_calls() -> None:
    call = Counted()
    warmed = TurnRunner(call, 1).warm()
    assert warmed.calls == call.calls
    assert warmed.call_ms > 0


def test_turns_last_and_rounds_fit_whatever_a_call_takes() -> None:
    swift, slow = WarmUpResult(calls=9, stable=True, call_ms=0.01), WarmUpResult(calls=9, stable=True, call_ms=900.0)
    assert calls_in_a_turn(swift, 1) == 2000
    assert calls_in_a_turn(slow, 1) == 1
    assert calls_in_a_turn(slow, 4) == 4
    assert rounds_in_budget([swift]) == ROUNDS_MAX
    assert rounds_in_budget([swift, slow]) == ROUNDS_MIN


def profiled(rows: list[OperatorRow], *, warm: bool = True) -> Profiled:
    return Profiled(runs=10, run_ms=2.0, warm=warm, operators=tuple(rows))


rows = st.lists(
    st.builds(
        OperatorRow,
        kind=st.sampled_from(["Conv", "Add", "Mul"]),
        name=st.text(max_size=5),
        calls=st.integers(1, 50),
        mean_us=st.floats(0.1, 1e4),
    ),
    min_size=1,
    max_size=30,
)


@given(rows)
def test_shares_of_operators_and_kinds_sum_to_one(made: list[OperatorRow]) -> None:
    found = bottleneck(profiled(made), "engine 1", usual_ms=2.0)
    assert found is not None
    assert sum(one.share for one in found.operators) == pytest.approx(1)
    assert sum(one.share for one in found.kinds) == pytest.approx(1)
    assert [one.share for one in found.kinds] == sorted((one.share for one in found.kinds), reverse=True)
    assert sum(one.operators for one in found.kinds) == len(made)
    total_us = sum(one.us_per_run for one in found.kinds)
    assert found.operators_ms == pytest.approx(total_us / 1e3)


def test_a_profile_says_what_it_costs_and_what_is_in_it() -> None:
    row = OperatorRow(kind="Conv", name="a", calls=10, mean_us=5.0)
    slowed = bottleneck(profiled([row]), "engine 1", usual_ms=1.0)
    cold = bottleneck(profiled([row], warm=False), "engine 1", usual_ms=2.0)
    assert slowed is not None
    assert cold is not None
    assert "2.000 ms a run instead of 1.000" in slowed.remarks[0]
    assert "warm-up" in cold.remarks[0]
    assert bottleneck(profiled([]), "engine 1", usual_ms=1.0) is None


def test_a_configuration_travels_without_its_cache() -> None:
    config = Config(
        threads=2,
        engines=("ort", "openvino"),
        replica_cores=((0,), (1,)),
        balance=True,
        fallback_strategy="fastest",
        cache=CacheConfig(),
    )
    sent = MeasurementTask(folder="somewhere", config=config_to_plain(config), level=1)
    arrived = decode_command(encode(sent))
    assert isinstance(arrived, MeasurementTask)
    again = config_from_plain(arrived.config)
    assert again.cache is None
    assert (again.threads, again.engines, again.replica_cores) == (2, ("ort", "openvino"), ((0,), (1,)))
    assert again.fallback_strategy == "fastest"
    assert again.gpu_ratio is GPU_RATIO  # not set, so that the process does not warn of it
    assert config_from_plain(config_to_plain(Config(gpu_ratio=0.6))).gpu_ratio is not GPU_RATIO


def test_an_error_arrives_as_the_one_that_was_raised() -> None:
    raised = OutOfDeviceMemoryError("too large", expected="less", actual=7)
    arrived = to_error(failed(raised))
    assert type(arrived) is OutOfDeviceMemoryError
    assert arrived.as_dict() == raised.as_dict()


def test_names_say_what_differs_and_nothing_else(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", {0: scaler(2), 1: scaler(2)})
    contestants = [
        Contestant(bundle, Config(engines=("ort",)), level=0),
        Contestant(bundle, Config(engines=("openvino",)), level=0),
        Contestant(bundle, Config(engines=("openvino",), threads=2), level=1, batch=4),
        Contestant(bundle, Config(engines=("openvino",), threads=2), level=1, batch=4),
        Contestant(bundle, name="mine"),
    ]
    with contextlib.ExitStack() as resources:
        entries = open_contestants(contestants, resources, optional=False)
    assert [one.name for one in entries] == [
        "ort, level 0, engine's threads, batch 1",
        "openvino, level 0, engine's threads, batch 1",
        "openvino, level 1, 2 threads, batch 4",
        "openvino, level 1, 2 threads, batch 4 #2",
        "mine",
    ]
    assert [[variant.level for variant in one.bundle.manifest.variants] for one in entries[:3]] == [[0], [0], [1]]


def test_one_contestant_is_named_after_its_bundle(tmp_path: Path) -> None:
    with contextlib.ExitStack() as resources:
        (one,) = open_contestants([Contestant(make_bundle(tmp_path / "b", scaler(2)))], resources, optional=False)
    assert one.name == "test@1"


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"streams": -1}, {"batch": True}])
def test_a_contestant_needs_at_least_one_of_each(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Contestant("somewhere", **wrong)


def test_noise_has_the_shape_type_and_range_of_a_frame(tmp_path: Path) -> None:
    inputs = (
        TensorSpec(name="x", shape=(-1, 1, -1, -1), layout="NCHW"),
        TensorSpec(name="count", shape=(3,), dtype="int64"),
    )
    specs = (inputs, (TensorSpec(name="y", shape=(-1,)),))
    manifest = make_bundle(tmp_path / "b", scaler(2), specs).manifest
    made = noise(manifest, 2)
    assert made["x"].shape == (2, 1, 224, 224)
    assert made["x"].dtype == "float32"
    assert 0 <= made["x"].min() < 10 < 240 < made["x"].max() <= 255
    assert made["count"].tolist() == [0, 0, 0]
    assert noise(manifest, 2)["x"].tobytes() == made["x"].tobytes()
    assert statistics.fmean(made["x"].flat) == pytest.approx(127.5, abs=1)
