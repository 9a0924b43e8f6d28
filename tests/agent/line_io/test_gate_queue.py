"""Parts to be rejected meet the gate, also when the agent ends or is killed between their trigger and the gate."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_agent.inspection.frame_sources import TriggeredFrames
from lineside_agent.line_io import LineOutput, Signal
from lineside_agent.line_io.events import Code, LineState, RecipeRuns, Triggered
from lineside_agent.line_io.gate import GateEntry, GateSettings
from lineside_agent.line_io.gate_queue import NAME, GateQueueFile
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings
from lineside_agent.line_io.trigger_controller import TriggerController
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import ResultRow
from tests.peers.waiting import wait_for


class RecordingLine(LineOutput):
    """A line that keeps its levels and answers."""

    waits = False

    def __init__(self) -> None:
        super().__init__("line")
        self.states: list[LineState] = []
        self.codes: list[Code] = []

    def show(self, state: LineState) -> None:
        self.states.append(state)

    @property
    def pulses(self) -> int:
        gates = [False, *(state.gate for state in self.states)]
        return sum(now and not before for before, now in itertools.pairwise(gates))

    def _open(self) -> None:
        return None

    def _send(self, signal: Signal) -> None:
        self.codes.append(signal.code)

    def _close(self) -> None:
        return None


class Process:
    """One process of the agent for a line with a gate."""

    def __init__(self, folder: Path, *, first: int = 0, delay_s: float = 1.0, recipe: str = "") -> None:
        self.stop = threading.Event()
        self.line = RecordingLine()
        gate = GateSettings(delay_s=delay_s, pulse_s=0.05)
        self.controller = TriggerController(
            Handshake(HandshakeSettings(deadline_s=delay_s / 2, queue=4, gate=gate), next_number=first),
            frames=TriggeredFrames(self.stop),
            reporter=VerdictReporter([self.line], lambda _row, _seen: None),
            source="cam",
            problem=lambda: "",
            stop=self.stop,
            gate_queue=GateQueueFile(folder),
        )
        if recipe:  # as the agent's start does on a line with recipes
            self.controller.post(RecipeRuns(recipe, 1), time.monotonic())
        self.controller.listen()
        self.thread = threading.Thread(target=self.controller.run)
        self.thread.start()

    def trigger(self, number: int, verdict: str) -> None:
        self.controller.post(Triggered("plc"), time.monotonic())
        row = ResultRow(seq=0, part_id="p", sequence=number, verdict=verdict)  # type: ignore[arg-type]
        self.controller.deliver(row, None)

    def kill(self) -> None:
        """As SIGKILL: nothing more is done, and the next process opens the same file."""
        self.stop.set()
        self.thread.join(60.0)

    def end(self) -> None:
        self.controller.retire(60.0)
        self.stop.set()
        self.controller.close()
        self.thread.join(60.0)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    """Processes whose folder, that of the test, is deleted after they have ended."""
    del tmp_path
    made: list[Process] = []
    yield made
    for process in made:
        process.kill()
        process.controller.close()


def test_planned_stop_fires_the_gate_for_every_part_that_is_on_its_way(
    processes: list[Process], tmp_path: Path
) -> None:
    processes.append(process := Process(tmp_path, delay_s=3.0))
    process.trigger(0, "reject")
    process.trigger(1, "pass")
    process.end()
    assert process.line.codes[0] is Code.REJECT
    assert process.line.pulses == 1
    assert not process.line.states[-1].ready
    assert not process.line.states[-1].gate, "the pulse has ended too"


def test_trigger_during_a_planned_stop_is_refused_and_the_part_under_way_is_judged(
    processes: list[Process], tmp_path: Path
) -> None:
    processes.append(process := Process(tmp_path, delay_s=60.0))
    process.controller.post(Triggered("plc"), time.monotonic())
    retiring = threading.Thread(target=process.controller.retire, args=(2.0,))
    retiring.start()
    wait_for(lambda: not process.line.states[-1].ready, what="Ready off")
    process.controller.post(Triggered("plc"), time.monotonic())
    process.controller.deliver(ResultRow(seq=0, part_id="p", sequence=0, verdict="pass"), None)
    retiring.join(60.0)
    assert process.line.codes == [Code.PASS, Code.STOPPED]
    assert [entry.number for entry in process.controller.machine.gate_queue] == [1], "the passed part is taken out"


@pytest.mark.parametrize("recipe", ["", "A"])
def test_after_a_kill_the_next_process_fires_for_the_parts_that_are_still_on_their_way(
    processes: list[Process], tmp_path: Path, recipe: str
) -> None:
    processes.append(first := Process(tmp_path, delay_s=10.0, recipe=recipe))
    first.trigger(0, "reject")
    first.trigger(1, "pass")
    first.kill()
    assert first.line.pulses == 0
    processes.append(second := Process(tmp_path, first=1000, delay_s=10.0, recipe=recipe))
    assert [entry.number for entry in second.controller.machine.gate_queue] == [0]
    wait_for(lambda: second.line.pulses == 1, what="the pulse of the part of before")
    wait_for(lambda: not second.controller.machine.gate_queue)
    second.end()
    assert second.line.pulses == 1


def test_a_part_that_has_passed_the_gate_meanwhile_is_told_of_and_hits_no_other(
    processes: list[Process], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = GateQueueFile(tmp_path)
    before.write([GateEntry(7, time.monotonic() - 0.01, 0)])
    before.close()
    processes.append(process := Process(tmp_path, first=1000))
    process.end()
    assert "passed the gate while no agent ran: triggers [7]" in caplog.text
    assert process.line.pulses == 0


def kept_in(folder: Path) -> list[int]:
    file = GateQueueFile(folder)
    try:
        return [entry.number for entry in file.read()]
    finally:
        file.close()


def test_a_queue_of_another_boot_or_a_torn_one_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = GateQueueFile(tmp_path)
    file.write([GateEntry(7, time.monotonic() + 60.0, 0)])
    file.close()
    assert kept_in(tmp_path) == [7]
    _, _, data = (tmp_path / NAME).read_bytes().partition(b"\n")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
    other = data.replace(boot, b"0" * len(boot))
    assert other != data
    (tmp_path / NAME).write_bytes(b"%08x\n%s" % (zlib.crc32(other), other))
    assert kept_in(tmp_path) == []
    assert not caplog.records
    (tmp_path / NAME).write_bytes(b"%08x\n%s" % (zlib.crc32(data), data[:-3]))
    assert kept_in(tmp_path) == []
    assert "checksum" in caplog.text
