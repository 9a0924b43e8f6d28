"""The handshake with the line: a pure state machine; events with their time in, actions out.

What a PLC sees are levels (`LineState`)::

    Ready        ──────┐                       ┌───────
                       └───────────────────────┘
    Trigger      ──────┌──┐───────────────────────────
    Busy         ──────┌───────────────────────┐──────
    ResultValid  ──┐                           ┌──────   falls with the next trigger, or when it is acknowledged
                   └───────────────────────────┘
    PassFail     ─ old ─┤        (off)          ├─ new ─   set together with ResultValid

Invariants, held by ``tests/agent/line_io/test_handshake.py`` for any order of events:

- Each trigger gets the next number and is answered exactly once, in order of the numbers. One that comes while the
  agent is busy, not ready or at fault is answered too, and so is one that is malformed: reject.
- A pass is told before its part's deadline or not at all. Without a verdict by then the answer is ``LATE``: reject.
- What comes after the answer (an engine that was late) changes nothing any more.
- `late_max` late answers in a row are a fault. A fault ends by the operator's reset only; Ready is off meanwhile.
- While a challenge is on, Ready is off. It ends after so many parts, known to be bad, were rejected by judgement; one
  that was passed is a fault, and it begins anew. One of which the verdict was unsure counts as neither.
- Two edges of one input within the debounce time are one trigger; the second is counted as a bounce.
- With `acknowledge`, a result stays until the line has taken it, and those behind it wait.
- A planned stop takes Ready off first; what is under way then is judged, and meets the gate.
- A recipe that the line asked for and that can't run is a fault; it ends by one that runs, or by the reset.
- An encoder that jumps while parts are on their way to the gate, or stands still while parts come, is a fault.
- A gate that opens later than a pulse after its part has passed is a fault: the part has missed it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

from lineside_agent.line_io.events import (
    CHANGING_OVER,
    NO_BUNDLE,
    NO_DEFECTS,
    REFUSALS,
    STARTING,
    Action,
    Availability,
    BeginPart,
    ChallengeRequested,
    Code,
    DefectSummary,
    Encoder,
    Event,
    Fault,
    LineState,
    LogLine,
    PartAcknowledged,
    PartInspected,
    RecipeRefused,
    RecipeRuns,
    ResetPressed,
    Retiring,
    ShowState,
    Stopped,
    Tick,
    TriggerAnswer,
    Triggered,
    part_id_problem,
)
from lineside_agent.line_io.gate import COUNTS, STILL_MAX, GateEntry, GateSettings, RejectGate
from lineside_runtime.wording import counted

ENCODER_SILENT = "the encoder has not been heard of"
"""A reason not to be ready."""

RESULTS_MAX = 64
"""Results that may wait for the acknowledge; one more is a fault."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandshakeSettings:
    """Settings of the handshake.

    Attributes:
        deadline_s: From trigger to answer, unless the recipe has one.
        debounce_s: Edges of one input that are closer are one.
        queue: Parts that may be under way; further ones are answered ``BUSY``.
        late_max: Late answers in a row that are a fault; 0 for never.
        acknowledge: Whether the line acknowledges each result.
        challenge_parts: Known bad parts that must be rejected before Ready; 0 for none.
        gate: Place of the gate; ``None`` without one.
    """

    deadline_s: float
    debounce_s: float = 0.0
    queue: int = 1
    late_max: int = 3
    acknowledge: bool = False
    challenge_parts: int = 0
    gate: GateSettings | None = None


@dataclasses.dataclass(slots=True)
class HandshakeCounts:
    """Counts since the start.

    Attributes:
        rejected: Answered parts with a defect, or with an unsure verdict.
        faults: Answered parts that were not inspected; the line rejects them.
        late: Faults without a verdict by the deadline.
        refused: Faults since the agent was busy, not ready or at fault, or since the trigger was malformed.
        bounces: Edges that were no trigger.
        too_late: Verdicts that came after their part's answer.
        gated: Parts for which the gate was opened.
    """

    triggers: int = 0
    answered: int = 0
    passed: int = 0
    rejected: int = 0
    unsure: int = 0
    faults: int = 0
    late: int = 0
    refused: int = 0
    malformed: int = 0
    bounces: int = 0
    too_late: int = 0
    gated: int = 0


@dataclasses.dataclass(slots=True)
class _Part:
    begin: BeginPart
    event: Triggered
    challenge: bool
    code: Code | None = None
    reason: str = ""
    defects: DefectSummary = NO_DEFECTS


class Handshake:
    """The state machine.

    Attributes:
        problem: Why parts cannot be inspected; empty if they can.
        challenge_left: Challenge parts that must still be rejected.

    Args:
        next_number: Number of the first trigger.
    """

    def __init__(self, settings: HandshakeSettings, *, next_number: int = 0) -> None:
        self.counts = HandshakeCounts()
        self.fault = Fault.NONE
        self.problem = STARTING
        self.challenge_left = settings.challenge_parts
        self._settings = settings
        self._next_number = next_number
        self._gate = None if settings.gate is None else RejectGate(settings.gate)
        self._open: collections.deque[_Part] = collections.deque()
        self._results: collections.deque[TriggerAnswer] = collections.deque()
        self._last_result: TriggerAnswer | None = None
        self._result_valid = False
        self._late_in_a_row = 0
        self._edges_s: dict[str, float] = {}
        self._shown: LineState | None = None
        self._now_s = -math.inf
        self._retiring = False
        self._stopped = False
        self._acknowledging = False
        self._recipe = RecipeRuns("", 0)

    def step(self, event: Event, now_s: float) -> list[Action]:
        """Takes one event.

        Args:
            now_s: Its time, on a clock that never steps back. An event may be older than the one before it, such as an
                edge with the time of the kernel; levels do not go back with it.
        """
        actions: list[Action] = []
        match event:
            case Triggered():
                self._triggered(event, now_s, actions)
            case PartInspected():
                self._inspected(event, now_s, actions)
            case PartAcknowledged():
                self._acknowledged(event)
            case ResetPressed():
                self._reset(actions)
            case ChallengeRequested():
                self._begin_challenge(actions)
            case Availability():
                self._available(event, actions)
            case Encoder():
                self._count_moved(event, actions)
            case Retiring():
                self._retiring = True
            case Stopped():
                self._stop()
            case RecipeRuns():
                self._change_over(event)
            case RecipeRefused():
                self._set_fault(Fault.RECIPE, f"the recipe can't run: {event.reason}", actions)
            case Tick():
                pass
        self._now_s = max(self._now_s, now_s)
        self._pass_time(self._now_s, actions)
        self._show(actions)
        return actions

    def next_s(self) -> float | None:
        """Time at which `Tick` has something to do; ``None`` for not before another event."""
        times = [part.begin.deadline_s for part in self._open if part.code is None]
        if self._gate is not None and (gate_s := self._gate.next_s()) is not None:
            times.append(gate_s)
        return min(times, default=None)

    @property
    def last_number(self) -> int:
        """Number of the last trigger."""
        return self._next_number - 1

    @property
    def is_idle(self) -> bool:
        """Whether no part is under way."""
        return not self._open

    @property
    def is_drained(self) -> bool:
        """Whether no part is under way and none is on its way to the gate."""
        return self.is_idle and (self._gate is None or self._gate.is_idle)

    @property
    def gate_queue(self) -> tuple[GateEntry, ...]:
        """The parts on their way to the gate."""
        return () if self._gate is None else self._gate.queue

    def restore_gate(self, entries: Sequence[GateEntry], now_s: float) -> list[int]:
        """As `RejectGate.restore`; without a gate all entries are late."""
        return [entry.number for entry in entries] if self._gate is None else self._gate.restore(entries, now_s)

    @property
    def ready(self) -> bool:
        """Whether a part that comes now is inspected."""
        able = not self.fault and not self._problem() and not self._retiring and not self._stopped
        return able and not self.challenge_left and self._has_room()

    def is_open(self, number: int) -> bool:
        """Whether this trigger has no answer yet."""
        return any(part.begin.number == number for part in self._open)

    def deadline_s(self, number: int) -> float | None:
        """Deadline of a trigger; ``None`` if it was answered."""
        return next((part.begin.deadline_s for part in self._open if part.begin.number == number), None)

    # Events.

    def _triggered(self, event: Triggered, now_s: float, actions: list[Action]) -> None:
        if event.edge and self._is_bounce(event.input, now_s):
            self.counts.bounces += 1
            return
        if bad := event.malformed or part_id_problem(event.part_id):
            event = dataclasses.replace(event, part_id="", malformed=bad)
        deadline_s = self._settings.deadline_s if self._recipe.deadline_s is None else self._recipe.deadline_s
        begin = BeginPart(self._next_number, event.part_id, now_s, now_s + deadline_s)
        self._next_number += 1
        self.counts.triggers += 1
        part = _Part(begin, event, challenge=self.challenge_left > 0)
        self._refuse_or_begin(part, actions)
        self._open.append(part)
        if self._gate is not None:
            self._gate.enter(begin.number, now_s)
            if self._gate.stands_still:
                self._set_fault(Fault.ENCODER, f"{STILL_MAX} parts came, and the encoder has not moved", actions)
        if not self._settings.acknowledge:
            self._result_valid = False

    def _count_moved(self, event: Encoder, actions: list[Action]) -> None:
        if self._gate is None:
            return
        if lost := self._gate.take_count(event.count % COUNTS):
            parts = f"the parts of triggers {', '.join(map(str, lost))} have to be taken off by hand unless they passed"
            self._set_fault(Fault.ENCODER, f"the encoder has jumped to {event.count}: {parts}", actions)

    def _is_bounce(self, name: str, now_s: float) -> bool:
        before_s = self._edges_s.get(name)
        if before_s is not None and now_s - before_s < self._settings.debounce_s:
            return True
        self._edges_s[name] = now_s
        return False

    def _refuse_or_begin(self, part: _Part, actions: list[Action]) -> None:
        if self._stopped or self._retiring:
            part.code, part.reason = Code.STOPPED, "the agent was stopped"
        elif part.event.malformed:
            part.code, part.reason = Code.BAD_TRIGGER, part.event.malformed
            self.counts.malformed += 1
        elif self.fault:
            part.code, part.reason = Code.NOT_READY, f"the line is at fault ({self.fault.name}) and was not reset"
        elif problem := self._problem():
            part.code, part.reason = Code.NOT_READY, problem
        elif part.event.missed:
            part.code, part.reason = Code.NOT_READY, "the line sent it too late"
        elif not self._has_room():
            part.code, part.reason = Code.BUSY, self._busy_reason()
        else:
            actions.append(part.begin)
            return
        self.counts.refused += 1
        actions.append(LogLine(f"trigger {part.begin.number} is answered with reject, {part.code.name}: {part.reason}"))

    def _busy_reason(self) -> str:
        waiting = self._result_valid + len(self._results) if self._settings.acknowledge else 0
        if waiting and not self._open:
            return f"{waiting} {'result was' if waiting == 1 else 'results were'} not acknowledged"
        return f"{len(self._open)} {'part was' if len(self._open) == 1 else 'parts were'} under way"

    def _inspected(self, event: PartInspected, now_s: float, actions: list[Action]) -> None:
        for part in self._open:
            if part.begin.number == event.number and part.code is None:
                if now_s < part.begin.deadline_s:
                    part.code, part.defects, part.reason = event.code, event.defects, event.reason
                return  # else it is late, and `_pass_time` says so
        self.counts.too_late += 1
        actions.append(LogLine(f"the verdict on trigger {event.number} came after its answer and is dropped"))

    def _acknowledged(self, event: PartAcknowledged) -> None:
        self._acknowledging = event.on
        if self._settings.acknowledge and event.on and self._result_valid:
            self._result_valid = False

    def _reset(self, actions: list[Action]) -> None:
        if self.fault:
            actions.append(LogLine(f"the fault {self.fault.name} was reset", is_error=False))
        self.fault, self._late_in_a_row = Fault.NONE, 0

    def _begin_challenge(self, actions: list[Action]) -> None:
        self.challenge_left = self._settings.challenge_parts
        parts = counted(self.challenge_left, "part")
        actions.append(LogLine(f"a challenge begins: {parts} must be rejected", is_error=False))

    def _available(self, event: Availability, actions: list[Action]) -> None:
        if event.problem != self.problem:
            held = self._held_reason()
            text = f"not ready: {event.problem}" if event.problem else "parts can be inspected"
            if held and not event.problem:
                text = f"still not ready: {held}"
            is_start = (self.problem, event.problem) == (STARTING, NO_BUNDLE)
            is_planned = is_start or event.problem.startswith(CHANGING_OVER)
            actions.append(LogLine(text, is_error=bool(event.problem) and not is_planned))
        self.problem = event.problem

    def _held_reason(self) -> str:
        """Why Ready stays off although parts can be inspected; empty if it does not."""
        if self._stopped or self._retiring:
            return "the agent is to stop"
        if self.fault:
            return f"the line is at fault ({self.fault.name}) and was not reset"
        if self.challenge_left:
            return f"{counted(self.challenge_left, 'challenge part')} must be rejected first"
        return ENCODER_SILENT if self._gate is not None and self._gate.needs_count else ""

    def _change_over(self, event: RecipeRuns) -> None:
        self._recipe = event
        if self.fault is Fault.RECIPE:
            self.fault = Fault.NONE
        if self._gate is not None and self._settings.gate is not None:
            gate = self._settings.gate
            self._gate.use(
                dataclasses.replace(
                    gate,
                    delay_s=gate.delay_s if event.gate_delay_s is None else event.gate_delay_s,
                    counts=gate.counts if event.gate_counts is None else event.gate_counts,
                )
            )

    def _stop(self) -> None:
        self._stopped = True
        for part in self._open:
            if part.code is None:
                part.code, part.reason = Code.STOPPED, "the agent was stopped"

    # Time.

    def _pass_time(self, now_s: float, actions: list[Action]) -> None:
        for part in self._open:
            if part.code is None and now_s >= part.begin.deadline_s:
                part.code = Code.LATE
        self._answer(now_s, actions)
        if self._gate is None:
            return
        late = self._gate.overdue(now_s)
        reached = self._gate.move(now_s)
        self.counts.gated += len(reached)
        for part in self._open:
            if part.begin.number in reached and part.code not in REFUSALS:
                part.code, part.reason = Code.LATE, "it reached the gate first"
        self._answer(now_s, actions)
        if late:
            numbers = ", ".join(map(str, late))
            text = f"the gate opened too late, the parts of triggers {numbers} have to be taken off by hand"
            self._set_fault(Fault.GATE, text, actions)

    def _answer(self, now_s: float, actions: list[Action]) -> None:
        """Answers the decided parts, in order of the triggers."""
        while self._open and self._open[0].code is not None:
            part = self._open.popleft()
            begin, code = part.begin, part.code or Code.LATE
            if code is Code.PASS and now_s >= begin.deadline_s:
                code = Code.LATE  # it waited for the answer of a part before it
            if part.challenge:
                code = self._challenged(code, actions)
            if code is Code.PASS and self._gate is not None:
                self._gate.let_pass(begin.number)
            answer = TriggerAnswer(
                begin.number,
                begin.part_id,
                part.event.input,
                part.event.tag,
                code,
                begin.at_s,
                begin.deadline_s,
                now_s - begin.at_s,
                part.challenge,
                part.reason,
                part.defects if code.verdict == "reject" else NO_DEFECTS,
            )
            self._count(code)
            self._hold(answer, actions)
            self._show(actions)
            actions.append(answer)
            self._note_lateness(code, actions)

    def _challenged(self, code: Code, actions: list[Action]) -> Code:
        if code is Code.REJECT:
            self.challenge_left = max(0, self.challenge_left - 1)
            return code
        if code is not Code.PASS:
            return code
        self._set_fault(Fault.CHALLENGE, "a challenge part, which must be rejected, was passed", actions)
        self.challenge_left = self._settings.challenge_parts
        return Code.CHALLENGE_PASSED

    def _count(self, code: Code) -> None:
        counts = self.counts
        counts.answered += 1
        counts.passed += code is Code.PASS
        counts.rejected += code.verdict == "reject"
        counts.unsure += code is Code.UNSURE
        counts.faults += code.verdict == "fault"
        counts.late += code is Code.LATE

    def _note_lateness(self, code: Code, actions: list[Action]) -> None:
        if code in REFUSALS:
            return
        self._late_in_a_row = self._late_in_a_row + 1 if code is Code.LATE else 0
        if self._settings.late_max and self._late_in_a_row >= self._settings.late_max:
            self._set_fault(Fault.LATE, f"{self._late_in_a_row} parts in a row were late", actions)

    def _set_fault(self, fault: Fault, text: str, actions: list[Action]) -> None:
        if not self.fault:
            self.fault = fault
            actions.append(LogLine(f"fault: {text}; the line must be reset by the operator"))

    # What is shown.

    def _hold(self, answer: TriggerAnswer, actions: list[Action]) -> None:
        if not self._settings.acknowledge:
            self._last_result, self._result_valid = answer, True
            return
        self._results.append(answer)
        if len(self._results) > RESULTS_MAX:
            self._results.popleft()
            self._set_fault(Fault.RESULTS_NOT_TAKEN, "the line doesn't acknowledge results", actions)

    def _show(self, actions: list[Action]) -> None:
        if self._results and not self._result_valid and not self._acknowledging:
            self._last_result, self._result_valid = self._results.popleft(), True
        state = LineState(
            ready=self.ready,
            busy=bool(self._open),
            result_valid=self._result_valid,
            passed=self._result_valid and self._last_result is not None and self._last_result.code is Code.PASS,
            fault=self.fault,
            gate=self._gate is not None and self._gate.is_open,
            challenge=self.challenge_left > 0,
            result=self._last_result,
            recipe=self._recipe.name,
            recipe_number=self._recipe.number,
        )
        if state != self._shown:
            self._shown = state
            actions.append(ShowState(state))

    def _has_room(self) -> bool:
        waiting = len(self._open) + (self._result_valid + len(self._results) if self._settings.acknowledge else 0)
        return waiting < (1 if self.challenge_left else self._settings.queue)

    def _problem(self) -> str:
        if self._gate is not None and self._gate.needs_count:
            return self.problem or ENCODER_SILENT
        return self.problem
