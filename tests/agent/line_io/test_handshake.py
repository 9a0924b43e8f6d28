"""The machine's invariants, for any order of events; and the handshake as a PLC sees it."""

from __future__ import annotations

import collections
import dataclasses

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineside_agent.line_io.events import (
    Acknowledged,
    Action,
    Answer,
    Availability,
    Begin,
    ChallengeAsked,
    Code,
    Encoder,
    Event,
    Fault,
    Judged,
    LineState,
    RecipeRefused,
    RecipeRuns,
    ResetPressed,
    Say,
    Show,
    Stopped,
    Tick,
    Triggered,
)
from lineside_agent.line_io.gate import GateSettings
from lineside_agent.line_io.handshake import Handshake, Settings


class Line:
    """A machine, its clock, and what it said."""

    def __init__(self, made: Settings, *, next_number: int = 0) -> None:
        self.machine = Handshake(made, next_number=next_number)
        self.now_s = 100.0
        self.actions: list[Action] = []
        self.step(Availability(""))

    def step(self, event: Event, after_s: float = 0.0) -> list[Action]:
        self.now_s += after_s
        found = self.machine.step(event, self.now_s)
        self.actions += found
        return found

    def trigger(self, after_s: float = 0.0, *, edge: bool = False) -> list[Action]:
        return self.step(Triggered("plc", edge=edge), after_s)

    @property
    def state(self) -> LineState:
        return next(action.state for action in reversed(self.actions) if isinstance(action, Show))

    @property
    def answers(self) -> list[Answer]:
        return [action for action in self.actions if isinstance(action, Answer)]

    @property
    def codes(self) -> list[Code]:
        return [answer.code for answer in self.answers]


PLAIN = Settings(deadline_s=0.1)

SETTINGS = st.builds(
    Settings,
    deadline_s=st.just(0.1),
    debounce_s=st.sampled_from([0.0, 0.02]),
    queue=st.integers(1, 3),
    late_max=st.integers(0, 3),
    acknowledge=st.booleans(),
    challenge_parts=st.integers(0, 2),
    gate=st.sampled_from([None, GateSettings(delay_s=0.15, pulse_s=0.03), GateSettings(counts=50, pulse_s=0.03)]),
)
JUDGEMENTS = (Code.PASS, Code.REJECT, Code.UNSURE, Code.NOT_JUDGED, Code.NO_FRAME)
EVENTS = st.one_of(
    st.builds(
        Triggered,
        input=st.sampled_from(["a", "b"]),
        edge=st.booleans(),
        missed=st.sampled_from([False] * 5 + [True]),
        malformed=st.sampled_from([""] * 5 + ["no trigger"]),
        part_id=st.sampled_from(["A-1", "", "A\n1", "A" * 129]),
    ),
    st.builds(Judged, number=st.integers(0, 12), code=st.sampled_from(JUDGEMENTS)),
    st.builds(Acknowledged, on=st.booleans()),
    st.just(ResetPressed()),
    st.just(ChallengeAsked()),
    st.sampled_from([Availability(""), Availability(""), Availability("no bundle runs")]),
    st.builds(Encoder, count=st.integers(0, 400)),
    st.just(Tick()),
)
STEPS = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.12])), max_size=60)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(SETTINGS, STEPS)
def test_each_trigger_is_answered_exactly_once_and_in_order(made: Settings, steps: list[tuple[Event, float]]) -> None:
    line = Line(made)
    for event, after_s in steps:
        line.step(event, after_s)
    line.step(Stopped())
    triggers = sum(isinstance(event, Triggered) for event, _ in steps)
    counts = line.machine.counts
    assert counts.triggers + counts.bounces == triggers
    assert [answer.number for answer in line.answers] == list(range(counts.triggers))
    assert counts.answered == counts.triggers == counts.passed + counts.rejected + counts.faults
    begun = [action.number for action in line.actions if isinstance(action, Begin)]
    refused = {Code.BUSY, Code.NOT_READY, Code.BAD_TRIGGER}
    assert counts.refused == sum(code in refused for code in line.codes) == counts.triggers - len(begun)


@MANY
@given(SETTINGS, STEPS)
def test_pass_is_told_in_time_and_only_where_it_was_judged(made: Settings, steps: list[tuple[Event, float]]) -> None:
    line = Line(made)
    judged: set[int] = set()
    for event, after_s in steps:
        if isinstance(event, Judged) and event.code is Code.PASS:
            judged.add(event.number)
        for action in line.step(event, after_s):
            if isinstance(action, Answer) and action.code is Code.PASS:
                assert action.number in judged
                assert line.now_s < action.deadline_s
                assert not action.challenge


@MANY
@given(SETTINGS, STEPS)
def test_nothing_waits_longer_than_its_deadline(made: Settings, steps: list[tuple[Event, float]]) -> None:
    line = Line(made)
    for event, after_s in steps:
        line.step(event, after_s)
        assert all(line.machine.is_open(number) for number in _open(line))
        next_s = line.machine.next_s()
        if _open(line):
            assert next_s is not None and next_s <= line.now_s + made.deadline_s + 1e-9
    line.step(Tick(), made.deadline_s)
    assert not _open(line)


def _open(line: Line) -> set[int]:
    return set(range(line.machine.counts.triggers)) - {answer.number for answer in line.answers}


@MANY
@given(SETTINGS, STEPS)
def test_levels_never_contradict_each_other(made: Settings, steps: list[tuple[Event, float]]) -> None:
    line = Line(made)
    for event, after_s in steps:
        line.step(event, after_s)
    for action in line.actions:
        if isinstance(action, Show):
            state = action.state
            assert not (state.ready and (state.fault or state.challenge))
            assert not (state.ready and made.queue == 1 and state.busy)
            assert not (state.passed and not state.result_valid)
            if state.result_valid:
                assert state.result is not None and state.passed == (state.result.code is Code.PASS)


@MANY
@given(SETTINGS, STEPS)
def test_gate_opens_for_all_parts_but_those_passed(made: Settings, steps: list[tuple[Event, float]]) -> None:
    made = dataclasses.replace(made, gate=GateSettings(delay_s=0.15, pulse_s=0.03))
    line = Line(made)
    for event, after_s in steps:
        line.step(event, after_s)
    for _ in range(40):
        line.step(Tick(), 0.01)
    assert line.machine.counts.gated == sum(code is not Code.PASS for code in line.codes)
    assert not line.state.gate


@MANY
@given(SETTINGS, STEPS)
def test_fault_ends_by_a_reset_only(made: Settings, steps: list[tuple[Event, float]]) -> None:
    line = Line(made)
    fault = Fault.NONE
    for event, after_s in steps:
        line.step(event, after_s)
        if not isinstance(event, ResetPressed):
            assert not fault or line.machine.fault is fault
        fault = line.machine.fault


def test_handshake_as_a_plc_sees_it() -> None:
    line = Line(PLAIN)
    assert line.state == LineState(ready=True)
    begin = line.trigger()[0]
    assert isinstance(begin, Begin) and begin.deadline_s == line.now_s + 0.1
    assert line.state == LineState(busy=True)
    line.step(Judged(0, Code.PASS), 0.02)
    assert (line.state.ready, line.state.busy, line.state.result_valid, line.state.passed) == (True, False, True, True)
    line.trigger(0.1)
    assert (line.state.busy, line.state.result_valid, line.state.passed) == (True, False, False)


def test_levels_are_set_before_the_answer_is_told_and_recorded() -> None:
    line = Line(PLAIN)
    line.trigger()
    kinds = [type(action) for action in line.step(Judged(0, Code.REJECT), 0.01)]
    assert kinds == [Show, Answer]


def test_trigger_while_busy_is_answered_after_the_one_before_it() -> None:
    line = Line(PLAIN)
    line.trigger()
    line.trigger(0.01)
    assert not line.answers
    line.step(Judged(0, Code.PASS), 0.01)
    assert line.codes == [Code.PASS, Code.BUSY]


def test_queue_lets_so_many_parts_be_under_way() -> None:
    line = Line(dataclasses.replace(PLAIN, queue=2))
    line.trigger()
    assert line.state.ready
    line.trigger()
    line.trigger()
    for number in (1, 0):
        line.step(Judged(number, Code.PASS), 0.01)
    assert line.codes == [Code.PASS, Code.PASS, Code.BUSY]


def test_late_part_is_rejected_at_its_deadline_and_its_verdict_dropped() -> None:
    line = Line(PLAIN)
    line.trigger()
    line.step(Tick(), 0.1)
    assert line.codes == [Code.LATE]
    line.step(Judged(0, Code.PASS), 0.001)
    assert line.codes == [Code.LATE] and line.machine.counts.too_late == 1


def test_three_late_in_a_row_are_a_fault_until_the_operator_resets() -> None:
    line = Line(PLAIN)
    for _ in range(3):
        assert line.state.fault is Fault.NONE
        line.trigger()
        line.step(Tick(), 0.1)
    assert line.state.fault is Fault.LATE and not line.state.ready
    line.trigger()
    assert line.codes[-1] is Code.NOT_READY
    line.step(ResetPressed())
    assert line.state.ready


def test_late_ones_with_a_verdict_between_them_are_no_fault() -> None:
    line = Line(PLAIN)
    for number in range(9):
        line.trigger()
        line.step(Judged(number, Code.REJECT) if number % 3 == 2 else Tick(), 0.05 if number % 3 == 2 else 0.1)
    assert collections.Counter(line.codes) == {Code.LATE: 6, Code.REJECT: 3}
    assert line.state.fault is Fault.NONE


def test_bounces_are_counted_and_are_no_triggers() -> None:
    line = Line(dataclasses.replace(PLAIN, debounce_s=0.01))
    line.trigger(edge=True)
    line.trigger(0.005, edge=True)
    line.trigger(0.006, edge=True)
    assert (line.machine.counts.triggers, line.machine.counts.bounces) == (2, 1)


def test_line_is_not_ready_until_the_challenge_parts_were_rejected() -> None:
    line = Line(dataclasses.replace(PLAIN, challenge_parts=2))
    assert line.state == LineState(challenge=True)
    for number, code in enumerate((Code.REJECT, Code.NOT_JUDGED, Code.REJECT)):
        assert not line.state.ready
        line.trigger(0.1)
        line.step(Judged(number, code), 0.01)
    assert line.state.ready and not line.state.challenge
    assert all(answer.challenge for answer in line.answers)


def test_challenge_part_that_passes_is_rejected_and_a_fault_and_the_challenge_begins_anew() -> None:
    line = Line(dataclasses.replace(PLAIN, challenge_parts=2))
    line.trigger()
    line.step(Judged(0, Code.REJECT))
    line.trigger()
    line.step(Judged(1, Code.PASS))
    assert line.codes == [Code.REJECT, Code.CHALLENGE_PASSED]
    assert line.state.fault is Fault.CHALLENGE
    line.step(ResetPressed())
    assert line.machine.challenge_left == 2 and not line.state.ready


def test_challenge_part_of_which_the_verdict_is_unsure_counts_as_neither() -> None:
    line = Line(dataclasses.replace(PLAIN, challenge_parts=1))
    line.trigger()
    line.step(Judged(0, Code.UNSURE))
    assert line.codes == [Code.UNSURE]
    assert line.machine.challenge_left == 1
    assert line.state.fault is Fault.NONE and not line.state.passed


def test_an_unsure_part_is_rejected_and_counted_apart() -> None:
    line = Line(PLAIN)
    for number, code in enumerate((Code.UNSURE, Code.REJECT, Code.PASS)):
        line.trigger(0.1)
        line.step(Judged(number, code), 0.01)
    counts = line.machine.counts
    assert (counts.passed, counts.rejected, counts.unsure, counts.faults) == (1, 2, 1, 0)
    assert [answer.code.verdict for answer in line.answers] == ["reject", "reject", "pass"]


def test_shift_that_begins_asks_for_the_challenge_again() -> None:
    line = Line(dataclasses.replace(PLAIN, challenge_parts=1))
    line.trigger()
    line.step(Judged(0, Code.REJECT))
    assert line.state.ready
    line.step(ChallengeAsked())
    assert line.state.challenge and not line.state.ready


def test_result_stays_until_it_is_acknowledged_and_the_next_waits_behind_it() -> None:
    line = Line(dataclasses.replace(PLAIN, acknowledge=True, queue=2))
    for number in range(2):
        line.trigger()
        line.step(Judged(number, Code.PASS), 0.01)
    assert line.state.result is not None and line.state.result.number == 0 and not line.state.ready
    line.step(Acknowledged(True))
    assert not line.state.result_valid
    line.step(Acknowledged(False))
    assert line.state.result_valid and line.state.result.number == 1


def test_results_that_nobody_takes_are_a_fault() -> None:
    line = Line(dataclasses.replace(PLAIN, acknowledge=True))
    for _ in range(70):
        line.trigger(0.01)
        line.step(Judged(0, Code.PASS))
    assert line.state.fault is Fault.RESULTS_NOT_TAKEN
    assert len(line.answers) == 70


def test_gate_counts_the_encoder_and_wraps_around_with_it() -> None:
    line = Line(dataclasses.replace(PLAIN, gate=GateSettings(counts=100, pulse_s=0.05)))
    assert not line.state.ready  # the encoder has not been heard of
    line.step(Encoder((1 << 32) - 30))
    line.trigger()
    line.step(Judged(0, Code.REJECT), 0.01)
    line.step(Encoder(69), 0.01)
    assert not line.state.gate
    line.step(Encoder(70), 0.01)
    assert line.state.gate
    line.step(Tick(), 0.06)
    assert not line.state.gate


def test_part_that_reaches_the_gate_without_a_verdict_is_late() -> None:
    line = Line(dataclasses.replace(PLAIN, gate=GateSettings(counts=10)))
    line.step(Encoder(0))
    line.trigger()
    line.step(Encoder(10), 0.01)
    assert line.codes == [Code.LATE] and line.state.gate


def test_gate_stays_open_for_parts_that_follow_closely() -> None:
    line = Line(dataclasses.replace(PLAIN, queue=2, gate=GateSettings(delay_s=0.2, pulse_s=0.05)))
    for number, after_s in ((0, 0.0), (1, 0.03)):
        line.trigger(after_s)
        line.step(Judged(number, Code.REJECT))
    line.step(Tick(), 0.17)
    line.step(Tick(), 0.03)
    line.step(Tick(), 0.04)
    assert line.state.gate
    line.step(Tick(), 0.011)
    assert not line.state.gate
    assert line.machine.counts.gated == 2


def test_numbers_go_on_after_a_restart() -> None:
    line = Line(PLAIN, next_number=41)
    line.trigger()
    line.step(Judged(41, Code.PASS), 0.01)
    assert [answer.number for answer in line.answers] == [41]


def test_recipe_that_cannot_run_is_a_fault_until_one_runs_or_a_person_resets() -> None:
    line = Line(Settings(deadline_s=1.0))
    line.step(RecipeRuns("a", 1))
    assert line.state.ready and (line.state.recipe, line.state.recipe_number) == ("a", 1)
    line.step(RecipeRefused("unknown"))
    assert (line.state.fault, line.state.ready, line.state.recipe) == (Fault.RECIPE, False, "a")
    line.trigger()
    assert line.answers[-1].code is Code.NOT_READY
    line.step(RecipeRuns("b", 2))
    assert line.state.ready and line.state.recipe == "b"
    line.step(RecipeRefused("unknown"))
    line.step(ResetPressed())
    assert line.state.ready and line.state.recipe == "b"


def test_recipe_ends_no_fault_of_another_kind() -> None:
    line = Line(Settings(deadline_s=1.0, late_max=1))
    line.trigger()
    line.step(Tick(), 1.0)
    assert line.state.fault is Fault.LATE
    line.step(RecipeRuns("b", 2))
    assert line.state.fault is Fault.LATE


def test_gate_of_the_next_product_counts_from_its_first_part_on() -> None:
    line = Line(Settings(deadline_s=0.1, queue=2, gate=GateSettings(delay_s=1.0, pulse_s=0.05)))
    line.trigger()
    line.step(Judged(0, Code.REJECT))
    line.step(RecipeRuns("near", 2, gate_delay_s=0.3))
    line.trigger(0.1)
    line.step(Judged(1, Code.REJECT))
    assert not line.state.gate
    line.step(Tick(), 0.31)
    assert line.state.gate and line.machine.counts.gated == 1  # the second part, which is there first
    line.step(Tick(), 0.1)
    assert not line.state.gate
    line.step(Tick(), 0.5)
    assert line.state.gate and line.machine.counts.gated == 2


def test_the_way_of_every_start_is_said_and_is_no_error() -> None:
    machine = Handshake(Settings(deadline_s=1.0), next_number=1)
    first = machine.step(Availability("no bundle runs"), 0.0)
    later = machine.step(Availability("the camera top has given nothing for 2 s"), 0.1)
    said = [(one.text, one.is_error) for one in (*first, *later) if isinstance(one, Say)]
    assert said[0] == ("not ready: no bundle runs", False)
    assert said[1][1]
    other = Handshake(Settings(deadline_s=1.0), next_number=1)
    (first_of_all,) = [one for one in other.step(Availability("recipe b can't run"), 0.0) if isinstance(one, Say)]
    assert first_of_all.is_error, "a start that goes wrong is one"


def test_changeover_is_said_and_is_no_error() -> None:
    line = Line(Settings(deadline_s=1.0))
    said = [action for action in line.step(Availability("changing over to recipe b")) if isinstance(action, Say)]
    assert [(one.text, one.is_error) for one in said] == [("not ready: changing over to recipe b", False)]
    said = [action for action in line.step(Availability("no bundle runs")) if isinstance(action, Say)]
    assert [one.is_error for one in said] == [True]
