"""The flow: one record a frame, the line first, a swap between two frames; with real engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from lineside_agent.cameras import LostFrame, Shot
from lineside_agent.config import InspectConfig
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import LoadedBundle, load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.views import Views
from lineside_agent.line_io import LineOutput, Signal
from lineside_agent.line_io.events import Code
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import ConfigError
from tests.peers.waiting import wait_for
from tests.worlds.bundles import bright, dark, make_bundle, shade


class RecordingLine(LineOutput):
    """A line output that keeps the signals, beside the records."""

    def __init__(self, log: list[object]) -> None:
        super().__init__("told")
        self.log = log

    def _open(self) -> None:
        return None

    def _send(self, signal: Signal) -> None:
        self.log.append(signal)

    def _close(self) -> None:
        return None


class Bench:
    """A pipeline with the test's frames."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self.log: list[object] = []
        self.active = ActiveBundle()
        self.stop = threading.Event()
        self.pipeline = InspectionPipeline(
            lambda: self.shots.pop(0) if self.shots else None,
            self.active,
            reporter=VerdictReporter([RecordingLine(self.log)], self.record),
            stop=self.stop,
        )

    def record(self, row: ResultRow, frame: object, crop: object = None) -> bool:
        self.log.append(row)
        return True

    @property
    def rows(self) -> list[ResultRow]:
        return [entry for entry in self.log if isinstance(entry, ResultRow)]

    def run(self, *shots: Shot) -> list[ResultRow]:
        self.shots += shots
        self.pipeline.run()
        return self.rows


def frame(sequence: int, image: np.ndarray) -> Frame:
    return Frame(image=image, source="cam", sequence=sequence, part_id=f"p{sequence}", captured_at_ns=5)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedBundle]:
    made = load("a", make_bundle(tmp_path_factory.mktemp("one") / "b"), InspectConfig())
    yield made
    made.close()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedBundle]:
    bundle = make_bundle(tmp_path_factory.mktemp("two") / "b", version="2.0.0", fragile=True)
    made = load("b", bundle, InspectConfig())
    yield made
    made.close()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_verdict_carries_where_it_comes_from(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    passed, rejected = bench.run(frame(0, dark()), frame(1, bright()))
    assert (passed.verdict, passed.detections, rejected.verdict) == ("pass", (), "reject")
    assert {found[0] for found in rejected.detections} == {"bright"}
    assert (rejected.part_id, rejected.sequence, rejected.source, rejected.captured_at_ns) == ("p1", 1, "cam", 5)
    assert (rejected.bundle, rejected.bundle_sha256) == ("bright-spots@1.0.0", loaded.bundle.digest)
    assert (rejected.requested_device, rejected.used_device) == ("cpu:0", "ort/cpu:0")
    assert (rejected.width, rejected.height) == (96, 96)
    assert rejected.latency_ms > 0


def test_unsure_part_is_rejected_and_said_to_be_unsure(bench: Bench, loaded: LoadedBundle) -> None:
    rules = InspectConfig(unsure_from={"bright": 0.2})
    doubting = load(loaded.slot, loaded.bundle, rules)
    bench.active.swap(doubting)
    try:
        unsure, good = bench.run(frame(0, shade(122)), frame(1, dark()))
    finally:
        doubting.close()
    assert (unsure.verdict, unsure.unsure, unsure.detections) == ("reject", True, ())
    assert {found[0] for found in unsure.doubtful} == {"bright"}
    assert 0.2 <= unsure.doubtful[0][1] < 0.5
    assert (good.verdict, good.unsure, good.doubtful) == ("pass", False, ())
    told = [entry for entry in bench.log if isinstance(entry, Signal)]
    assert [(signal.verdict, signal.code) for signal in told] == [("reject", Code.UNSURE), ("pass", Code.PASS)]
    counts = bench.pipeline.counts
    assert (counts.passed, counts.rejected, counts.unsure) == (1, 1, 1)


def test_rules_that_dont_fit_the_bundle_are_refused_when_it_is_loaded(loaded: LoadedBundle) -> None:
    with pytest.raises(ConfigError, match="no type 'scratches'"):
        load(loaded.slot, loaded.bundle, InspectConfig(thresholds={"scratches": 0.4}))


def test_line_is_told_before_the_record_is_kept(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    bench.run(frame(0, dark()), frame(1, bright()))
    assert [type(entry) for entry in bench.log] == [Signal, ResultRow, Signal, ResultRow]
    assert [entry.verdict for entry in bench.log] == ["pass", "pass", "reject", "reject"]  # type: ignore[attr-defined]  # rows and signals alone


def test_frame_without_an_image_is_a_fault_and_the_line_rejects(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    (row,) = bench.run(LostFrame("cam", 3, "p3", 7, "damaged"))
    assert (row.verdict, row.error, row.sequence) == ("fault", "damaged", 3)
    assert bench.log[0] == Signal(3, "p3", "fault", Code.NO_FRAME)


def test_a_frame_without_light_is_a_fault_and_a_defect_on_a_dark_one_is_rejected(
    bench: Bench, loaded: LoadedBundle
) -> None:
    limited = load(loaded.slot, loaded.bundle, InspectConfig(brightness=(60, 250)))
    bench.active.swap(limited)
    try:
        rows = bench.run(frame(0, np.zeros((96, 96, 3), np.uint8)), frame(1, bright()), frame(2, shade(100)))
    finally:
        limited.close()
    assert [(row.verdict, row.unsure) for row in rows] == [("fault", False), ("reject", False), ("pass", False)]
    assert ["too dark" in row.error for row in rows] == [True, True, False]
    assert (bench.pipeline.counts.faults, bench.pipeline.counts.passed) == (1, 1)


def test_engine_error_is_a_fault_with_its_reason_and_the_line_goes_on(bench: Bench, fragile: LoadedBundle) -> None:
    bench.active.swap(fragile)
    rows = bench.run(frame(0, bright(64, 96)), frame(1, bright()))
    assert [row.verdict for row in rows] == ["fault", "reject"]
    assert rows[0].error
    assert rows[0].bundle == "bright-spots@2.0.0"
    assert (bench.pipeline.counts.inspected, bench.pipeline.counts.faults) == (2, 1)
    broken, _ = bench.active.watch(1, 0.0)
    assert broken == rows[0].error


def test_frames_wait_for_the_first_bundle(bench: Bench, loaded: LoadedBundle) -> None:
    thread = threading.Thread(target=bench.run, args=(frame(0, dark()),))
    thread.start()
    wait_for(lambda: bench.shots)
    assert bench.rows == []
    bench.active.swap(loaded)
    thread.join(60.0)
    assert [row.verdict for row in bench.rows] == ["pass"]


def test_stop_before_the_first_bundle_records_nothing(bench: Bench) -> None:
    thread = threading.Thread(target=bench.run, args=(frame(0, dark()),))
    thread.start()
    bench.stop.set()
    thread.join(60.0)
    assert (bench.rows, len(bench.shots)) == ([], 1)


def test_swap_falls_between_two_frames(bench: Bench, loaded: LoadedBundle, fragile: LoadedBundle) -> None:
    count = 200
    bench.active.swap(loaded)
    bench.shots = [frame(sequence, bright()) for sequence in range(count)]
    thread = threading.Thread(target=bench.pipeline.run)
    thread.start()
    wait_for(lambda: len(bench.rows) > 5)
    before = len(bench.rows)
    assert bench.active.swap(fragile) is loaded
    after = len(bench.rows)  # this thread may have waited meanwhile: the swap lies somewhere between the two
    thread.join(60.0)
    assert [row.sequence for row in bench.rows] == list(range(count))
    bundles = [row.bundle for row in bench.rows]
    first_new = bundles.index("bright-spots@2.0.0")
    assert set(bundles[first_new:]) == {"bright-spots@2.0.0"}
    assert before <= first_new <= after + 1  # what ran at the swap ended with the bundle that it began with
    assert all(row.verdict == "reject" for row in bench.rows)


def test_frames_that_nobody_judges_any_more_are_recorded(bench: Bench) -> None:
    bench.pipeline.abandon([frame(0, dark()), LostFrame("cam", 1, "p1", 0, "x")])
    assert [(row.sequence, row.verdict) for row in bench.rows] == [(0, "fault"), (1, "fault")]


def test_what_workers_find_leaves_in_the_order_in_which_the_frames_came(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    images = [
        cv2.resize(dark() if number % 2 else bright(), (96 + 400 * (number % 3 == 0), 96)) for number in range(60)
    ]
    bench.shots += [frame(number, image) for number, image in enumerate(images)]
    threads = [threading.Thread(target=bench.pipeline.run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert [row.sequence for row in bench.rows] == list(range(60))
    told = [entry.sequence if isinstance(entry, (Signal, ResultRow)) else -1 for entry in bench.log]
    assert told == [number for number in range(60) for _ in range(2)], "each is told, then recorded, then the next one"
    assert (bench.pipeline.counts.taken, bench.pipeline.counts.inspected) == (60, 60)


def test_worker_that_ends_by_a_defect_lets_no_later_frame_be_recorded(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    arrived = threading.Barrier(2)

    def judge(shot: Shot | Views) -> ResultRow | None:
        assert isinstance(shot, Frame)
        arrived.wait(60.0)
        if shot.sequence == 0:
            raise AssertionError("a defect")
        return judged(shot)

    judged = bench.pipeline._process
    bench.pipeline._process = judge  # type: ignore[method-assign]  # the pipeline is of this test
    bench.shots += [frame(0, dark()), frame(1, dark())]
    failed: list[BaseException] = []

    def run() -> None:
        try:
            bench.pipeline.run()
        except AssertionError as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert len(failed) == 1
    assert bench.rows == []


def test_swap_waits_for_every_worker_that_uses_the_old_bundle(loaded: LoadedBundle, fragile: LoadedBundle) -> None:
    active = ActiveBundle()
    active.swap(loaded)
    with active.use() as first:
        with active.use() as second:
            assert first is second is loaded
            swapping = threading.Thread(target=lambda: active.swap(fragile))
            swapping.start()
            wait_for(lambda: active.loaded is fragile)
        swapping.join(0.2)
        assert swapping.is_alive()
        with active.use() as third:
            assert third is fragile
    swapping.join(60.0)
    assert not swapping.is_alive()


def test_watch_ends_at_enough_good_frames(bench: Bench, loaded: LoadedBundle) -> None:
    bench.active.swap(loaded)
    bench.run(*(frame(sequence, dark()) for sequence in range(3)))
    assert bench.active.watch(3, 5.0) == ("", True)
    assert bench.active.watch(4, 0.01) == ("", False)
