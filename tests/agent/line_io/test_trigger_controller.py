"""The trigger controller: signals, their order, and the records; without an engine."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lineside_agent.inspection.frame_sources import TriggeredFrames
from lineside_agent.line_io import LineOutput, Signal
from lineside_agent.line_io.events import Code, Encoder, LineState, Triggered, Verdict
from lineside_agent.line_io.gate import GateSettings
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from tests.peers.waiting import wait_for


class RecordingLine(LineOutput):
    """A line that keeps its signals."""

    def __init__(self, name: str, log: list[object], *, waits: bool = False) -> None:
        super().__init__(name)
        self.waits = waits
        self.log = log
        self.go = threading.Event()
        self.go.set()

    def show(self, state: LineState) -> None:
        self.log.append(state)

    def _open(self) -> None:
        return None

    def _send(self, signal: Signal) -> None:
        self.go.wait(60.0)
        self.log.append(signal)

    def _close(self) -> None:
        return None


class Bench:
    def __init__(self, settings: HandshakeSettings, *, slow: bool = False) -> None:
        self.log: list[object] = []
        self.slow_log: list[object] = []
        self.stop = threading.Event()
        self.frames = TriggeredFrames(self.stop)
        self.problem = self.recipe = ""
        self.slow = RecordingLine("slow", self.slow_log, waits=True)
        self.controller = TriggerController(
            Handshake(settings, next_number=5),
            frames=self.frames,
            reporter=VerdictReporter(
                [RecordingLine("quick", self.log), *([self.slow] if slow else [])], lambda row, _: self.log.append(row)
            ),
            source="cam",
            problem=lambda: self.problem,
            recipe=lambda: self.recipe,
            stop=self.stop,
        )
        self.controller.listen()
        self.thread = threading.Thread(target=self.controller.run)
        self.thread.start()

    def trigger(self, part_id: str = "", *, with_frame: bool = True) -> None:
        self.controller.post(Triggered("plc", part_id, 9), time.monotonic())
        if with_frame:
            image = np.zeros((4, 4, 3), np.uint8)
            self.frames.put(Frame(image=image, source="cam", sequence=0, part_id="0.png"), wait=False)

    def judge(self, verdict: Verdict) -> None:
        """Does the pipeline's work for the next part."""
        shot = self.controller.take()
        assert isinstance(shot, Frame)
        row = ResultRow(
            seq=0,
            part_id=shot.part_id,
            source="cam",
            sequence=shot.sequence,
            verdict=verdict,
            bundle="b@1",
        )
        self.controller.deliver(row, shot)

    @property
    def rows(self) -> list[ResultRow]:
        return [entry for entry in self.log if isinstance(entry, ResultRow)]

    @property
    def signals(self) -> list[Signal]:
        return [entry for entry in self.log if isinstance(entry, Signal)]

    def end(self) -> None:
        self.stop.set()
        self.slow.go.set()
        self.controller.close()
        self.thread.join(60.0)


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.end()


def test_part_is_told_before_it_is_recorded_under_the_triggers_number_and_name(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0)))
    bench.trigger("A-1")
    bench.judge("reject")
    (row,), (signal,) = bench.rows, bench.signals
    assert (row.sequence, row.part_id, row.verdict, row.bundle) == (5, "A-1", "reject", "b@1")
    assert (signal.sequence, signal.code, signal.input, signal.tag) == (5, Code.REJECT, "plc", 9)
    assert bench.log.index(signal) < bench.log.index(row)
    shown = [entry for entry in bench.log[: bench.log.index(signal)] if isinstance(entry, LineState)]
    assert shown[-1].result_valid and not shown[-1].passed


def test_part_without_a_name_bears_the_frames(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0)))
    bench.trigger()
    bench.judge("pass")
    assert bench.rows[0].part_id == "0.png"


def test_part_without_a_frame_of_its_own_ends_no_thread_while_others_are_triggered(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=120.0, queue=10_000, late_max=0)))
    bench.trigger()
    assert bench.controller.take() is not None  # under way: those behind it wait for its answer
    for _ in range(3000):
        bench.trigger(with_frame=False)
    bench.trigger()  # nobody knows whose frame this is
    deaths: list[BaseException] = []

    def take() -> None:
        try:
            bench.controller.take()
        except RuntimeError as error:
            deaths.append(error)

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=take)
        thread.start()
        for _ in range(1500):
            bench.trigger(with_frame=False)
        bench.stop.set()
        thread.join(60.0)
    finally:
        sys.setswitchinterval(before_s)
    assert not deaths


def test_record_of_a_late_part_says_so_and_names_the_recipe_of_its_trigger(benches: list[Bench]) -> None:
    gate = GateSettings(counts=10)
    benches.append(bench := Bench(HandshakeSettings(deadline_s=120.0, queue=2, late_max=0, gate=gate)))
    bench.controller.post(Encoder(0), time.monotonic())
    bench.recipe = "before"
    bench.trigger("A-1")
    bench.trigger("A-2")
    failed = ResultRow(seq=0, part_id="A-2", source="cam", sequence=6, verdict="fault", error="the engine failed")
    bench.controller.deliver(failed, None)
    bench.recipe = "after"
    bench.controller.post(Encoder(10), time.monotonic())
    assert [signal.code for signal in bench.signals] == [Code.LATE, Code.LATE]
    assert {row.error for row in bench.rows} == {"LATE: it reached the gate first"}
    assert {row.recipe for row in bench.rows} == {"before"}


def test_engine_that_hangs_is_answered_for_at_the_deadline_and_its_verdict_dropped(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=0.2)))
    bench.trigger("A-1")
    wait_for(lambda: bench.rows)
    assert bench.rows[0].verdict == "fault"
    assert bench.rows[0].error == "LATE: no verdict within 200 ms of the trigger"
    row = ResultRow(seq=0, part_id="A-1", source="cam", sequence=5, verdict="pass")
    bench.controller.deliver(row, None)
    assert len(bench.rows) == 1 and bench.controller.status()["too_late"] == 1


def test_camera_that_gives_no_frame_is_named_in_the_record(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=0.1)))
    bench.trigger(with_frame=False)
    wait_for(lambda: bench.rows)
    assert bench.rows[0].error == "LATE: no frame of the camera within 100 ms of the trigger"
    assert bench.rows[0].part_id == "trigger-5"


@pytest.mark.parametrize("queue", [1, 2])
def test_frame_that_may_be_of_the_next_part_answers_no_part(benches: list[Bench], queue: int) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0, queue=queue)))
    bench.trigger("A-1", with_frame=False)
    bench.trigger("A-2")
    taker = threading.Thread(target=bench.controller.take)
    taker.start()
    wait_for(lambda: len(bench.rows) == 2)
    bench.stop.set()
    taker.join(60.0)
    assert bench.rows[0].error == "NO_FRAME: the camera gave no frame between this trigger and the next"
    assert [row.verdict for row in bench.rows] == ["fault", "fault"]


def test_trigger_while_no_part_can_be_judged_is_rejected_at_once_and_says_why(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0)))
    bench.problem = "no bundle runs"
    bench.trigger("A-1", with_frame=False)
    assert (bench.rows[0].verdict, bench.rows[0].error) == ("fault", "NOT_READY: no bundle runs")
    assert bench.controller.status()["ready"] is False


def test_pass_that_a_slow_line_cannot_tell_in_time_is_told_as_a_fault(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=1.0, queue=2), slow=True))
    bench.slow.go.clear()
    for _ in range(2):  # the first is in the line's hands when the second is told
        bench.trigger()
        bench.judge("pass")
    told = [signal.deadline_s for signal in bench.signals]
    if len(told) < 2 or any(signal.verdict != "pass" for signal in bench.signals):
        pytest.skip("this machine took more than a second for two parts")
    wait_for(lambda: time.monotonic() > max(deadline_s or 0.0 for deadline_s in told))
    bench.slow.go.set()
    wait_for(lambda: sum(isinstance(entry, Signal) for entry in bench.slow_log) == 2)
    second = [entry for entry in bench.slow_log if isinstance(entry, Signal)][1]
    assert (second.verdict, second.code) == ("fault", Code.LATE)


def test_challenge_parts_bear_it_in_their_name(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0, challenge_parts=1)))
    bench.trigger("K-1")
    bench.judge("pass")
    assert bench.rows[0].part_id == "challenge:K-1"
    assert (bench.rows[0].verdict, bench.rows[0].error) == ("fault", "CHALLENGE_PASSED")
    assert bench.controller.status()["fault"] == "CHALLENGE"


def test_end_answers_what_is_under_way(benches: list[Bench]) -> None:
    benches.append(bench := Bench(HandshakeSettings(deadline_s=20.0)))
    bench.trigger("A-1")
    bench.stop.set()
    bench.controller.close()
    assert (bench.rows[0].verdict, bench.rows[0].error) == ("fault", "STOPPED: the agent was stopped")
