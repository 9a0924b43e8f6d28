"""`Benchmark`: what it counts, compares and says, checked against engines that write down what was asked of them."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_runtime import registry
from lineside_runtime.benchmark import (
    Accuracy,
    Benchmark,
    BenchmarkReport,
    Contestant,
    page,
    table,
    text_table,
    write_page,
)
from lineside_runtime.benchmark.measurement.rounds import PROFILE_RUNS
from lineside_runtime.bundle import Bundle
from lineside_runtime.bundle.archive import pack_archive
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.errors import (
    BadInputFormatError,
    ConfigError,
    EngineCrashedError,
    IncompatibleBundleError,
    InputNotFoundError,
    NoDeviceError,
)
from lineside_runtime.tensors import TensorSpec
from tests.runtime.onnx_models import make_bundle, scaler
from tests.runtime.stages.test_stages import cut_bundle

ONE_THREAD = Config(threads=1)


@pytest.fixture(scope="module", autouse=True)
def engines(short_warm_up: None) -> Iterator[None]:
    """Installs the engines as an installed package's are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "bench_engine"))
        importlib.invalidate_caches()
        yield
    for name in ("swift", "slow", "dying", "unready"):
        registry._loaded.pop(name, None)
    sys.modules.pop("lineside_bench_engines", None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file in which the engines note their calls."""
    monkeypatch.setenv("LINESIDE_TEST_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture
def doubler(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "doubler", scaler(2), name="doubler")


def measure(
    bundle: Bundle | Contestant, *, engines: tuple[str, ...] | str | None = None, profile: bool = False, **more: Any
) -> BenchmarkReport:
    options: dict[str, Any] = {"rounds": 6, "alone_runs": 1, **more}
    return Benchmark(bundle, ONE_THREAD, engines=engines, **options).run(profile=profile)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkReport:
    bundle = make_bundle(tmp_path_factory.mktemp("report") / "doubler", scaler(2), name="doubler")
    return measure(bundle, engines=("swift", "slow"), profile=True)


def test_a_slowed_engine_shows_up_as_slower(report: BenchmarkReport) -> None:
    swift, slow = report.results
    assert (swift.name, slow.name) == ("swift", "slow")
    assert swift.latency_ratio is None
    assert slow.latency_ratio is not None
    assert slow.latency_ratio.low > 1
    assert slow.latency_ratio.differs
    assert slow.latency_ms.p5 >= 4  # it spins for 4 ms, so no measured call can be shorter
    assert slow.throughput_fps < 250  # for the same reason
    assert slow.cpu_ms > swift.cpu_ms > 0


def test_percentiles_are_in_order_and_of_all_calls(report: BenchmarkReport) -> None:
    for one in report.results:
        times = one.latency_ms
        ordered = (times.p5, times.p25, times.p50, times.p75, times.p95, times.p99, times.slowest)
        assert list(ordered) == sorted(ordered)
        assert times.iqr == pytest.approx(times.p75 - times.p25)
        assert len(one.turns_ms) == report.rounds == 6


def test_the_engine_counts_the_calls_that_the_report_claims_in_processes_of_its_own(
    calls: Path, doubler: Bundle
) -> None:
    swift, slow = measure(doubler, engines=("swift", "slow")).results
    noted = [line.split()[:2] for line in calls.read_text().splitlines()]
    by_process = Counter(map(tuple, noted))
    for one in (swift, slow):
        mine = sorted(count for (name, _), count in by_process.items() if name == one.name)
        together = 1 + one.warm_up_calls + one.latency_ms.calls + 6  # the first answer, and one untimed call a turn
        assert mine == sorted([22, 22, together])  # whether it runs, one alone for memory, and the rounds
    assert len({pid for _, pid in by_process}) == 6  # nobody shares a process
    lengths = {one.name: one.latency_ms.calls // 6 + 1 for one in (swift, slow)}  # one call a turn isn't timed
    expected = [name for _ in range(3) for name in ("swift", "slow", "slow", "swift") for _ in range(lengths[name])]
    assert [name for name, _ in noted][-len(expected) :] == expected  # turns alternate, and so does who begins


def test_memory_and_start_are_measured_alone(report: BenchmarkReport) -> None:
    for one in report.results:
        assert one.memory is not None
        assert one.start is not None
        assert one.memory.peak_mb >= one.memory.resident_mb > one.memory.before_mb * 0.9 > 5
        assert one.memory.resident_mb >= one.memory.pss_mb > 0
        assert one.start.first_result_ms > one.start.load_ms > 0


def test_the_profile_becomes_a_table_whose_shares_sum_to_one(report: BenchmarkReport) -> None:
    for one in report.results:
        found = one.bottleneck
        assert found is not None
        assert found.runs == PROFILE_RUNS + 1
        assert sum(each.share for each in found.operators) == pytest.approx(1)
        assert sum(each.share for each in found.kinds) == pytest.approx(1)
        assert [each.kind for each in found.kinds] == ["Spin", "Mul"]
        assert found.kinds[0].operators == 2
        assert found.kinds[0].us_per_run == pytest.approx(70)
        assert [each.name for each in found.operators] == ["wait", "double", "wait again"]
        assert {each.calls for each in found.operators} == {PROFILE_RUNS + 1}
        assert found.operators_ms == pytest.approx(0.1)
        assert found.source == f"{one.name} 1.5's own profile"


def test_onnx_runtimes_profile_names_the_graphs_operators(doubler: Bundle) -> None:
    (one,) = measure(doubler, engines=("ort",), profile=True, alone_runs=0).results
    assert one.bottleneck is not None
    assert [each.kind for each in one.bottleneck.kinds] == ["Mul"]
    assert sum(each.share for each in one.bottleneck.kinds) == pytest.approx(1)
    assert any("only once" in remark for remark in one.bottleneck.remarks)


def test_an_engine_without_a_profile_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2))
    (one,) = measure(bundle, engines=("null",), profile=True, alone_runs=0).results
    assert one.bottleneck is None
    assert any("no profile" in remark for remark in one.remarks)


def test_an_npu_that_does_not_load_is_shown_and_never_silently_the_cpu(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(2), device_kinds=("npu", "cpu"))
    found = measure(Contestant(bundle, Config(threads=1, engines=("unready", "swift"))), alone_runs=0)
    (one,) = found.results
    assert one.requested_device == "npu:0"
    assert one.used_devices == ("swift/cpu:0",)
    assert any("no firmware" in reason for reason in one.fallbacks)
    assert one.rerouted > 0
    assert text_table.fell_back(one)
    assert "ASKED FOR npu:0" in table(found)
    assert "ASKED FOR npu:0" in page(found)


def test_an_engine_that_takes_its_process_down_is_an_error_of_ours(doubler: Bundle) -> None:
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        measure(doubler, engines=("dying",))


def test_what_was_asked_for_by_name_and_is_not_here_is_an_error(doubler: Bundle) -> None:
    with pytest.raises(NoDeviceError, match="absent"):
        measure(doubler, engines=("absent",))
    with pytest.raises(IncompatibleBundleError, match="level 3"):
        measure(doubler, levels=(3,))
    with pytest.raises(InputNotFoundError):
        Benchmark(doubler.path / "nowhere").run()


def test_all_engines_means_those_that_can_and_says_why_the_others_cannot(
    doubler: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PREFERENCE", ("tensorrt", "ort"))  # each of the others takes a process
    found = measure(doubler, engines="all", alone_runs=0, rounds=1)
    names = {one.name for one in found.results}
    assert {"ort", "swift", "slow"} <= names
    left_out = {one.name: one for one in found.left_out}
    assert left_out["tensorrt"].code == 1005
    assert left_out["dying"].code == 1009
    assert not names & set(left_out)
    assert "tensorrt was left out" in table(found)


def test_a_model_in_stages_names_all_its_devices_and_is_no_fallback(tmp_path: Path) -> None:
    staged = Contestant(cut_bundle(tmp_path / "cut"), Config(threads=1, stage_engines=("ort", "openvino")), streams=2)
    (one,) = measure(staged, profile=True, alone_runs=0).results
    assert one.used_devices == ("ort/cpu:0+openvino/cpu:0",)
    assert one.engine == "ort+openvino"
    assert not text_table.fell_back(one)
    assert any("in stages is not profiled" in remark for remark in one.remarks)


def test_levels_are_compared_in_one_run(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "two", {1: scaler(2), 0: scaler(2)})
    found = measure(bundle, engines=("swift",), levels=(0, 1), alone_runs=0)
    assert [(one.name, one.level, one.variant) for one in found.results] == [
        ("level 0", 0, "level0"),
        ("level 1", 1, "level1"),
    ]


def test_what_stands_against_is_the_baseline_and_accuracy_comes_from_whoever_measured_it(tmp_path: Path) -> None:
    def judge(bundle: Bundle, config: Config) -> Accuracy:
        return Accuracy(name="mAP@0.5", value=0.5, source=f"{bundle.manifest.identity} on {config.engines}")

    old = make_bundle(tmp_path / "old", scaler(2), version="1")
    new = make_bundle(tmp_path / "new", scaler(2), version="2")
    found = measure(new, engines=("swift",), against=[old], alone_runs=0, judge=judge)
    assert [one.name for one in found.results] == ["test@1", "test@2"]
    assert found.baseline == "test@1"
    assert found.results[1].accuracy == Accuracy(name="mAP@0.5", value=0.5, source="test@2 on ('swift',)")
    assert "test@2 on" in table(found)


def test_batches_and_callers_reach_the_engine(calls: Path, doubler: Bundle) -> None:
    found = measure(doubler, engines=("slow",), batches=(1, 4), streams=(2,), alone_runs=0, rounds=2)
    assert [(one.batch, one.streams) for one in found.results] == [(1, 2), (4, 2)]
    batches = {line.split()[2] for line in calls.read_text().splitlines()}
    assert batches == {"1", "4"}
    for one in found.results:
        assert one.shapes == {"x": (one.batch, 4)}
        assert one.latency_ms.calls % one.streams == 0


def test_a_fixed_batch_is_not_measured_as_another(tmp_path: Path) -> None:
    specs = ((TensorSpec(name="x", shape=(2, 4), layout="NC"),), (TensorSpec(name="y", shape=(2, 4)),))
    bundle = make_bundle(tmp_path / "fixed", scaler(2), specs)
    with pytest.raises(BadInputFormatError, match="batch of 2"):
        measure(bundle, engines=("swift",))
    assert measure(bundle, engines=("swift",), batches=(2,), alone_runs=0).results[0].shapes == {"x": (2, 4)}


def test_inputs_of_the_caller_are_what_is_run(calls: Path, doubler: Bundle) -> None:
    given = {"x": np.full((3, 4), 0.625, np.float32)}
    found = measure(doubler, engines=("swift",), inputs=given, alone_runs=0)
    assert found.material == "given by the caller"
    assert {line.split()[2:] == ["3", "0.625000"] for line in calls.read_text().splitlines()} == {True}


def test_an_archive_is_measured_like_a_folder_without_its_cache_and_tells_what_nobody_has_measured(
    calls: Path, doubler: Bundle, tmp_path: Path
) -> None:
    pack_archive(doubler, tmp_path / "doubler.lsb")
    cached = Contestant(tmp_path / "doubler.lsb", Config(threads=1, engines=("swift",), cache=CacheConfig()))
    found = measure(cached, alone_runs=0)
    (one,) = found.results
    assert (one.bundle, one.digest) == ("doubler@1", doubler.digest)
    assert len(calls.read_text().splitlines()) > one.latency_ms.calls
    assert any("result cache" in remark for remark in one.remarks)
    assert one.accuracy is None and one.bottleneck is None
    assert "nobody has measured it" in table(found)


def test_the_report_is_json_and_back(report: BenchmarkReport) -> None:
    assert msgspec.json.decode(report.to_json(), type=BenchmarkReport) == report
    assert report.machine.cores >= 1
    assert "numpy" in report.machine.packages
    assert report.turn_ms == 20
    assert report.baseline == "swift"


class Outline(HTMLParser):
    """Collects what a page opens and does not close, and what it would fetch."""

    void = frozenset({"meta", "line", "rect", "circle", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(report: BenchmarkReport, tmp_path: Path) -> None:
    write_page(report, tmp_path / "bench.html")
    text = (tmp_path / "bench.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.fetched == []
    assert "http" not in text
    assert outline.seen["svg"] == 4  # latency, rounds, and an operator picture each
    assert outline.seen["script"] == 0
    assert "NaN" not in text


def test_names_on_the_page_are_text(report: BenchmarkReport) -> None:
    named = msgspec.structs.replace(report.results[0], name="<b>&\"'")
    text = page(msgspec.structs.replace(report, results=(named, *report.results[1:])))
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_nonsense_is_refused(doubler: Bundle) -> None:
    nonsense: list[dict[str, Any]] = [
        {"rounds": 0},
        {"alone_runs": -1},
        {"batches": (0,)},
        {"streams": ()},
        {"engines": ()},
        {"engines": "ort"},
        {"levels": ()},
    ]
    for options in nonsense:
        with pytest.raises(ConfigError):
            Benchmark(doubler, **options)
