"""Runs the handshake: inputs of the line to the state machine, its actions to the line.

- The thread that brings an event executes its actions, under one lock, so that answers leave in their order. Nothing in
  there waits: a line whose sending can take time has a thread of its own.
- The signal does not wait for the disk: the record, which says what the line is told, is noted in memory before it and
  committed after it.
- A thread watches the time: deadlines, the gate, whether parts can be inspected, the heartbeat. It waits by `select`,
  which a change of the clock does not affect: timed waits of Python 3.10's locks use the system's time.
- A pass that its line could not be told before the deadline is told as a fault.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from lineside_agent.cameras import Shot
from lineside_agent.inspection.frame_sources import PartFrames, TriggeredFrames
from lineside_agent.inspection.views import Capture, Views, has_picture
from lineside_agent.line_io.base import LineOutput, Signal
from lineside_agent.line_io.codes import code_of
from lineside_agent.line_io.events import (
    Action,
    Availability,
    BeginPart,
    Code,
    Event,
    LineState,
    LogLine,
    PartInspected,
    Retiring,
    SelectRecipe,
    ShowState,
    Stopped,
    Tick,
    TriggerAnswer,
    Triggered,
)
from lineside_agent.line_io.gate_queue import GateQueueFile
from lineside_agent.line_io.handshake import Handshake
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_link.messages import ResultRow

log = logging.getLogger("lineside.line_io")

LOOK_S = 0.05
"""Time between two checks whether parts can be inspected."""

BEAT_S = 0.1

WAITING_MAX = 256
"""Signals that may wait for a slow line; further ones are missed."""


class _Sender:
    """The thread of a slow line."""

    def __init__(self, output: LineOutput) -> None:
        self._output = output
        self._queue: queue.Queue[Signal | LineState | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name=f"send {output.name}", daemon=True)
        self._thread.start()

    def put(self, item: Signal | LineState) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._output.missed += isinstance(item, Signal)
            log.error("%s is too slow: %s is not sent", self._output.name, item)

    def close(self) -> None:
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            log.error("%s doesn't take what is waiting for it", self._output.name)
        self._thread.join(2.0)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, LineState):
                self._output.show(item)
            else:
                self._output.signal(_in_time(item, self._output.name))


class TriggerController:
    """Connects the line, the cameras and the pipeline where the line triggers.

    Attributes:
        machine: The handshake; its counts may be read from any thread.

    Args:
        reporter: Tells the line and records; its outputs are read and written here.
        begin: Takes the number of a part before anything else is done with it.
        source: Name of the cameras in the records.
        problem: Returns why parts cannot be inspected; empty if they can.
        recipe: Returns the name of the current recipe; empty without one.
        select: Takes a line's request for a recipe.
        gate_queue: Keeps the parts on their way to the gate over a restart; ``None`` without a gate.
        is_numbered: Returns whether triggers can be numbered; until then none is read.
    """

    def __init__(
        self,
        machine: Handshake,
        *,
        frames: TriggeredFrames | PartFrames,
        reporter: VerdictReporter,
        source: str,
        problem: Callable[[], str],
        stop: threading.Event,
        recipe: Callable[[], str] = lambda: "",
        select: Callable[[SelectRecipe], None] = lambda _: None,
        gate_queue: GateQueueFile | None = None,
        begin: Callable[[int], None] = lambda _: None,
        is_numbered: Callable[[], bool] = lambda: True,
    ) -> None:
        self.machine = machine
        self.frames = frames
        self._reporter, self._outputs = reporter, reporter.outputs
        self._senders = {output.name: _Sender(output) for output in self._outputs if output.waits}
        self._source = source
        self._problem = problem
        self._recipe = recipe
        self._select = select
        self._gate_queue = gate_queue
        self._keeps_gate_queue = False  # what the process before this one has left is read first
        self._begin = begin
        self._is_numbered = is_numbered
        self._listening = False
        self._begun_number = machine.last_number
        self._stop = stop
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._begun: collections.deque[BeginPart] = collections.deque()
        self._results: dict[int, tuple[ResultRow, Capture | None]] = {}
        self._triggered: dict[int, tuple[int, str]] = {}  # Unix time and recipe
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def listen(self) -> None:
        """Starts to read the lines' inputs; parts that were on their way to the gate before a restart still meet it."""
        if self._gate_queue is not None:
            kept = self._gate_queue.read()
            late = self.machine.restore_gate(kept, time.monotonic())
            self._keeps_gate_queue = True
            if late:
                log.error("%d parts to be rejected passed the gate while no agent ran: triggers %s", len(late), late)
            if len(kept) > len(late):
                log.warning("%d parts are on their way to the gate since before this start", len(kept) - len(late))
        self.post(Availability(self._problem()), time.monotonic())
        self._listen_to_lines()

    def _listen_to_lines(self) -> None:
        if not self._listening and self._is_numbered():
            self._listening = True
            for output in self._outputs:
                output.listen(self.post)

    def post(self, event: Event | SelectRecipe, at_s: float) -> None:
        """Takes an event of a line's input, and its time on the monotonic clock."""
        if isinstance(event, SelectRecipe):
            self._select(event)  # not under the lock: it may come back here at once
        with self._changed:
            if isinstance(event, (Triggered, SelectRecipe)):
                self._execute(self.machine.step(Availability(self._problem()), at_s))
            if not isinstance(event, SelectRecipe):
                self._step(event, at_s)
            self._changed.notify_all()
        os.eventfd_write(self._wake, 1)

    def left_s(self, number: int) -> float | None:
        """Returns the time until a trigger's deadline; ``None`` if it was answered."""
        with self._lock:
            deadline_s = self.machine.deadline_s(number)
        return None if deadline_s is None else deadline_s - time.monotonic()

    def wait_idle(self) -> bool:
        """Waits until no part is under way, at most until its deadline; false if the agent stops."""
        with self._changed:
            while not self.machine.is_idle and not self._stop.is_set():
                self._changed.wait(LOOK_S)
            return not self._stop.is_set()

    def take(self) -> Shot | Views | None:
        """Waits for the frames of the next part, under its trigger's number; ``None`` at the end."""
        while (begin := self._next_begun()) is not None:
            shot = self.frames.wait_for_frame(begin.number, begin.deadline_s)
            if shot is not None:
                return _for_part(shot, begin)
            if self.left_s(begin.number) is not None and (reason := self.frames.lost_reason(begin.number)):
                self.post(PartInspected(begin.number, Code.NO_FRAME, reason=reason), time.monotonic())
        return None

    def deliver(self, row: ResultRow, frame: Capture | None) -> None:
        """Takes the pipeline's result, whose sequence is the trigger's number, and the images."""
        code = code_of(row, has_frame=has_picture(frame, row))
        with self._changed:
            self._results[row.sequence] = (row, frame)
            inspected = PartInspected(row.sequence, code, self._reporter.summarize(row))
            self._execute(self.machine.step(inspected, time.monotonic()))
            if not self.machine.is_open(row.sequence):
                self._results.pop(row.sequence, None)
            self._changed.notify_all()

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says of the line."""
        machine = self.machine
        with self._lock:
            return {
                "ready": machine.ready,
                "fault": machine.fault.name if machine.fault else None,
                "problem": machine.problem or None,
                "challenge_left": machine.challenge_left,
                **dataclasses.asdict(machine.counts),
            }

    def run(self) -> None:
        """Watches the time, until stopped."""
        beat_at_s = 0.0
        while not self._stop.is_set():
            self._listen_to_lines()
            now_s = time.monotonic()
            if now_s >= beat_at_s:
                beat_at_s = now_s + BEAT_S
                for output in self._outputs:
                    output.beat()
            with self._changed:
                self._execute(self.machine.step(Availability(self._problem()), now_s))
                self._execute(self.machine.step(Tick(), time.monotonic()))
                next_s = self.machine.next_s()
            wait_s = LOOK_S if next_s is None else min(LOOK_S, next_s - time.monotonic())
            if wait_s > 0 and select.select([self._wake], [], [], wait_s)[0]:
                os.eventfd_read(self._wake)

    def retire(self, timeout_s: float) -> None:
        """Takes Ready away, and waits at most ``timeout_s`` until parts under way have met the gate."""
        self.post(Retiring(), time.monotonic())
        until_s = time.monotonic() + timeout_s
        with self._changed:
            while not self.machine.is_drained and time.monotonic() < until_s and not self._stop.is_set():
                self._changed.wait(LOOK_S)
            if left := self.machine.gate_queue:
                log.error("%d parts have not reached the gate; the next start goes on with them", len(left))

    def close(self) -> None:
        """Answers the parts under way with reject, takes Ready away and ends the slow lines' threads."""
        self.post(Stopped(), time.monotonic())
        for sender in self._senders.values():
            sender.close()
        if self._gate_queue is not None:
            self._gate_queue.close()

    # What the machine says; under the lock.

    def _step(self, event: Event, at_s: float) -> None:
        last_number = self.machine.last_number
        actions = self.machine.step(event, at_s)
        is_part = isinstance(event, Triggered) and not event.missed and self.machine.last_number != last_number
        if is_part and not any(isinstance(action, BeginPart) for action in actions):
            self.frames.note_refused(at_s)
        self._execute(actions)

    def _execute(self, actions: list[Action]) -> None:
        if self.machine.last_number != self._begun_number:
            self._begun_number = self.machine.last_number
            self._begin(self._begun_number)
        if self._gate_queue is not None and self._keeps_gate_queue:
            self._gate_queue.write(self.machine.gate_queue)
        for action in actions:
            match action:
                case BeginPart():
                    self._triggered[action.number] = (time.time_ns(), self._recipe())
                    self.frames.request(action.number, action.at_s)
                    self._begun.append(action)
                case ShowState():
                    self._tell(action.state)
                case TriggerAnswer():
                    self._answer(action)
                case LogLine():
                    log.log(logging.ERROR if action.is_error else logging.INFO, "%s", action.text)

    def _tell(self, item: Signal | LineState) -> None:
        for output in self._outputs:
            sender = self._senders.get(output.name)
            if sender is not None:
                sender.put(item)
            elif isinstance(item, LineState):
                output.show(item)
            else:
                output.signal(item)

    def _answer(self, answer: TriggerAnswer) -> None:
        row, frame = self._row(answer)
        signal = Signal(
            answer.number,
            row.part_id,
            row.verdict,
            answer.code,
            answer.input,
            answer.tag,
            1000 * answer.took_s,
            answer.deadline_s,
            answer.defects,
        )
        self._reporter.report(signal, row, frame, took_s=answer.took_s, tell=self._tell)
        self.frames.forget(answer.number)

    def _row(self, answer: TriggerAnswer) -> tuple[ResultRow, Capture | None]:
        """The record of what the line is told, with the findings if they are what it is told."""
        captured_at_ns, recipe = self._triggered.pop(answer.number, (time.time_ns(), self._recipe()))
        result, frame = self._results.pop(answer.number, (None, None))
        part_id = result.part_id if result is not None else answer.part_id or f"trigger-{answer.number}"
        if answer.challenge:
            part_id = f"challenge:{part_id}"
        if result is not None and result.verdict == answer.code.verdict and answer.code is not Code.LATE:
            return _with_part(result, part_id), frame
        row = ResultRow(
            seq=0,
            part_id=part_id,
            source=self._source,
            sequence=answer.number,
            captured_at_ns=captured_at_ns,
            verdict=answer.code.verdict,
            error=self._reason(answer),
            recipe=recipe,
        )
        return row, frame

    def _reason(self, answer: TriggerAnswer) -> str:
        if answer.code is Code.LATE and not answer.reason:
            is_there = self.frames.has_frame(answer.number)
            stage = "no verdict" if is_there else self.frames.missing_reason(answer.number)
            return f"LATE: {stage} within {1000 * (answer.deadline_s - answer.at_s):.0f} ms of the trigger"
        return f"{answer.code.name}: {answer.reason}" if answer.reason else answer.code.name

    def _next_begun(self) -> BeginPart | None:
        with self._changed:
            while not self._begun:
                if self._stop.is_set() or self.frames.ended:
                    return None
                self._changed.wait(LOOK_S)
            return None if self._stop.is_set() else self._begun.popleft()


def _in_time(signal: Signal, name: str) -> Signal:
    if signal.verdict != "pass" or signal.deadline_s is None or time.monotonic() < signal.deadline_s:
        return signal
    log.error("%s was too slow to signal the pass of part %r in time: it is signalled as a fault", name, signal.part_id)
    return dataclasses.replace(signal, verdict="fault", code=Code.LATE)


def _for_part(shot: Shot | Views, begin: BeginPart) -> Shot | Views:
    """Returns the frame under the number and the id of its part."""
    part_id = begin.part_id or shot.part_id
    if isinstance(shot, Views):
        shots = tuple(dataclasses.replace(one, sequence=begin.number, part_id=part_id) for one in shot.shots)
        return dataclasses.replace(shot, shots=shots, sequence=begin.number, part_id=part_id)
    return dataclasses.replace(shot, sequence=begin.number, part_id=part_id)


def _with_part(row: ResultRow, part_id: str) -> ResultRow:
    return row if row.part_id == part_id else msgspec.structs.replace(row, part_id=part_id)
