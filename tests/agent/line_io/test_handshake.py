"""The machine's invariants, for any order of events; and the handshake as a PLC sees it."""

from __future__ import annotations

import collections
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_agent.line_io.events import (
    NO_DEFECTS,
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
    ShowState,
    Stopped,
    Tick,
    TriggerAnswer,
    Triggered,
)
from lineside_agent.line_io.gate import GateEntry, GateSettings
from lineside_agent.line_io.handshake import Handshake, HandshakeSettings


class HandshakeDriver:
    """A `Handshake` with the test's clock, and its actions."""

    def __init__(self, made: HandshakeSettings, *, next_number: int = 0) -> None:
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
        return next(action.state for action in reversed(self.actions) if isinstance(action, ShowState))

    @property
    def answers(self) -> list[TriggerAnswer]:
        return [action for action in self.actions if isinstance(action, TriggerAnswer)]

    @property
    def codes(self) -> list[Code]:
        return [answer.code for answer in self.answers]


PLAIN = HandshakeSettings(deadline_s=0.1)

SETTINGS = st.builds(
    HandshakeSettings,
    deadline_s=st.just(0.1),
    debounce_s=st.sampled_from([0.0, 0.02]),
    queue=st.integers(1, 3),
    late_max=st.integers(0, 3),
    acknowledge=st.booleans(),
    challenge_parts=st.integers(0, 2),
    gate=st.sampled_from(
        [None, *[GateSettings(delay_s=0.15, pulse_s=0.03)] * 2, GateSettings(counts=50, pulse_s=0.03)]
    ),
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
    st.builds(PartInspected, number=st.integers(0, 12), code=st.sampled_from(JUDGEMENTS)),
    st.builds(PartAcknowledged, on=st.booleans()),
    st.just(ResetPressed()),
    st.just(ChallengeRequested()),
    st.sampled_from([Availability(""), Availability(""), Availability("no bundle runs")]),
    st.builds(Encoder, count=st.integers(0, 400)),
    st.just(Tick()),
)
STEPS = st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.12])), max_size=60)


@settings(max_examples=300, deadline=None)
@given(SETTINGS, STEPS, st.booleans())
def test_no_order_of_events_breaks_an_invariant(
    made: HandshakeSettings, steps: list[tuple[Event, float]], stops: bool
) -> None:
    driver = HandshakeDriver(made)
    judged: set[int] = set()
    for event, after_s in steps:
        if isinstance(event, PartInspected) and event.code is Code.PASS:
            judged.add(event.number)
        fault = driver.machine.fault
        for action in driver.step(event, after_s):
            if isinstance(action, TriggerAnswer) and action.code is Code.PASS:
                assert action.number in judged, "a pass is told only where it was judged"
                assert driver.now_s < action.deadline_s
                assert not action.challenge
        # Only a reset ends a fault.
        assert not fault or driver.machine.fault is fault or isinstance(event, ResetPressed), (
            "only a reset ends a fault"
        )
        assert all(driver.machine.is_open(number) for number in _open(driver))
        next_s = driver.machine.next_s()
        assert not _open(driver) or (next_s is not None and next_s <= driver.now_s + made.deadline_s + 1e-9)
    driver.step(Stopped() if stops else Tick(), 0.0 if stops else made.deadline_s)
    check_answers(driver, [event for event, _ in steps])
    check_levels(driver, made)
    if made.gate is not None and made.gate.counts is None:
        for _ in range(40):
            driver.step(Tick(), 0.01)
        assert driver.machine.counts.gated == sum(code is not Code.PASS for code in driver.codes)
        assert not driver.state.gate


def _open(driver: HandshakeDriver) -> set[int]:
    return set(range(driver.machine.counts.triggers)) - {answer.number for answer in driver.answers}


def check_answers(driver: HandshakeDriver, events: list[Event]) -> None:
    """Each trigger is answered exactly once and in order; nothing waits longer than its deadline."""
    counts = driver.machine.counts
    assert counts.triggers + counts.bounces == sum(isinstance(event, Triggered) for event in events)
    assert [answer.number for answer in driver.answers] == list(range(counts.triggers))
    assert counts.answered == counts.triggers == counts.passed + counts.rejected + counts.faults
    begun = [action.number for action in driver.actions if isinstance(action, BeginPart)]
    refused = {Code.BUSY, Code.NOT_READY, Code.BAD_TRIGGER}
    assert counts.refused == sum(code in refused for code in driver.codes) == counts.triggers - len(begun)


def check_levels(driver: HandshakeDriver, made: HandshakeSettings) -> None:
    """The levels never contradict each other."""
    for state in [action.state for action in driver.actions if isinstance(action, ShowState)]:
        assert not (state.ready and (state.fault or state.challenge))
        assert not (state.ready and made.queue == 1 and state.busy)
        assert not (state.passed and not state.result_valid)
        if state.result_valid:
            assert state.result is not None and state.passed == (state.result.code is Code.PASS)


def test_handshake_as_a_plc_sees_it() -> None:
    driver = HandshakeDriver(PLAIN)
    assert driver.state == LineState(ready=True)
    begin = driver.trigger()[0]
    assert isinstance(begin, BeginPart) and begin.deadline_s == driver.now_s + 0.1
    assert driver.state == LineState(busy=True)
    driver.step(PartInspected(0, Code.PASS), 0.02)
    assert (driver.state.ready, driver.state.busy, driver.state.result_valid, driver.state.passed) == (
        True,
        False,
        True,
        True,
    )
    driver.trigger(0.1)
    assert (driver.state.busy, driver.state.result_valid, driver.state.passed) == (True, False, False)


def test_levels_are_set_before_the_answer_is_told_and_recorded() -> None:
    driver = HandshakeDriver(PLAIN)
    driver.trigger()
    kinds = [type(action) for action in driver.step(PartInspected(0, Code.REJECT), 0.01)]
    assert kinds == [ShowState, TriggerAnswer]


def test_trigger_while_busy_is_answered_after_the_one_before_it() -> None:
    driver = HandshakeDriver(PLAIN)
    driver.trigger()
    driver.trigger(0.01)
    assert not driver.answers
    driver.step(PartInspected(0, Code.PASS), 0.01)
    assert driver.codes == [Code.PASS, Code.BUSY]


def test_queue_lets_so_many_parts_be_under_way() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, queue=2))
    driver.trigger()
    assert driver.state.ready
    driver.trigger()
    driver.trigger()
    for number in (1, 0):
        driver.step(PartInspected(number, Code.PASS), 0.01)
    assert driver.codes == [Code.PASS, Code.PASS, Code.BUSY]


def test_late_part_is_rejected_at_its_deadline_and_its_verdict_dropped() -> None:
    driver = HandshakeDriver(PLAIN)
    driver.trigger()
    driver.step(Tick(), 0.1)
    assert driver.codes == [Code.LATE]
    driver.step(PartInspected(0, Code.PASS), 0.001)
    assert driver.codes == [Code.LATE] and driver.machine.counts.too_late == 1


def test_three_late_in_a_row_are_a_fault_until_the_operator_resets() -> None:
    driver = HandshakeDriver(PLAIN)
    for _ in range(3):
        assert driver.state.fault is Fault.NONE
        driver.trigger()
        driver.step(Tick(), 0.1)
    assert driver.state.fault is Fault.LATE and not driver.state.ready
    driver.trigger()
    assert driver.codes[-1] is Code.NOT_READY
    driver.step(ResetPressed())
    assert driver.state.ready


def test_late_ones_with_a_verdict_between_them_are_no_fault() -> None:
    driver = HandshakeDriver(PLAIN)
    for number in range(9):
        driver.trigger()
        driver.step(PartInspected(number, Code.REJECT) if number % 3 == 2 else Tick(), 0.05 if number % 3 == 2 else 0.1)
    assert collections.Counter(driver.codes) == {Code.LATE: 6, Code.REJECT: 3}
    assert driver.state.fault is Fault.NONE


def test_bounces_are_counted_and_are_no_triggers() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, debounce_s=0.01))
    driver.trigger(edge=True)
    driver.trigger(0.005, edge=True)
    driver.trigger(0.006, edge=True)
    assert (driver.machine.counts.triggers, driver.machine.counts.bounces) == (2, 1)


def test_line_is_not_ready_until_the_challenge_parts_were_rejected() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, challenge_parts=2))
    assert driver.state == LineState(challenge=True)
    for number, code in enumerate((Code.REJECT, Code.NOT_JUDGED, Code.REJECT)):
        assert not driver.state.ready
        driver.trigger(0.1)
        driver.step(PartInspected(number, code), 0.01)
    assert driver.state.ready and not driver.state.challenge
    assert all(answer.challenge for answer in driver.answers)


def test_challenge_part_that_passes_is_rejected_and_a_fault_and_the_challenge_begins_anew() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, challenge_parts=2))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT))
    driver.trigger()
    driver.step(PartInspected(1, Code.PASS))
    assert driver.codes == [Code.REJECT, Code.CHALLENGE_PASSED]
    assert driver.state.fault is Fault.CHALLENGE
    driver.step(ResetPressed())
    assert driver.machine.challenge_left == 2 and not driver.state.ready


def test_challenge_part_of_which_the_verdict_is_unsure_counts_as_neither() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, challenge_parts=1))
    driver.trigger()
    driver.step(PartInspected(0, Code.UNSURE))
    assert driver.codes == [Code.UNSURE]
    assert driver.machine.challenge_left == 1
    assert driver.state.fault is Fault.NONE and not driver.state.passed


def test_an_unsure_part_is_rejected_and_counted_apart() -> None:
    driver = HandshakeDriver(PLAIN)
    for number, code in enumerate((Code.UNSURE, Code.REJECT, Code.PASS)):
        driver.trigger(0.1)
        driver.step(PartInspected(number, code), 0.01)
    counts = driver.machine.counts
    assert (counts.passed, counts.rejected, counts.unsure, counts.faults) == (1, 2, 1, 0)
    assert [answer.code.verdict for answer in driver.answers] == ["reject", "reject", "pass"]


def test_shift_that_begins_asks_for_the_challenge_again() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, challenge_parts=1))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT))
    assert driver.state.ready
    driver.step(ChallengeRequested())
    assert driver.state.challenge and not driver.state.ready


def test_result_stays_until_it_is_acknowledged_and_the_next_waits_behind_it() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, acknowledge=True, queue=2))
    for number in range(2):
        driver.trigger()
        driver.step(PartInspected(number, Code.PASS), 0.01)
    assert driver.state.result is not None and driver.state.result.number == 0 and not driver.state.ready
    driver.step(PartAcknowledged(True))
    assert not driver.state.result_valid
    driver.step(PartAcknowledged(False))
    assert driver.state.result_valid and driver.state.result.number == 1


def test_results_that_nobody_takes_are_a_fault() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, acknowledge=True))
    for _ in range(70):
        driver.trigger(0.01)
        driver.step(PartInspected(0, Code.PASS))
    assert driver.state.fault is Fault.RESULTS_NOT_TAKEN
    assert len(driver.answers) == 70


def test_answer_and_result_carry_what_was_found_on_a_rejected_part_alone() -> None:
    found = DefectSummary("pits", 2, 1, 0.9, "top", 1)
    driver = HandshakeDriver(dataclasses.replace(PLAIN, queue=2))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT, found), 0.01)
    assert driver.answers[-1].defects == found
    assert driver.state.result is not None and driver.state.result.defects == found
    driver.trigger()
    driver.trigger()
    driver.step(PartInspected(2, Code.REJECT, found), 0.01)
    driver.step(Tick(), 0.2)
    assert driver.codes[1:] == [Code.LATE, Code.REJECT]
    assert [answer.defects for answer in driver.answers[1:]] == [NO_DEFECTS, found]


def test_gate_counts_the_encoder_and_wraps_around_with_it() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, gate=GateSettings(counts=100, pulse_s=0.05)))
    assert not driver.state.ready  # the encoder has not been heard of
    driver.step(Encoder((1 << 32) - 30))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT), 0.01)
    driver.step(Encoder(69), 0.01)
    assert not driver.state.gate
    driver.step(Encoder(70), 0.01)
    assert driver.state.gate
    driver.step(Tick(), 0.06)
    assert not driver.state.gate


def by_counts(*, queue: int = 1) -> HandshakeDriver:
    return HandshakeDriver(dataclasses.replace(PLAIN, queue=queue, gate=GateSettings(counts=100, pulse_s=0.05)))


@pytest.mark.parametrize("count", [0, 1_000_000, 4_900])
def test_encoder_that_jumps_with_parts_on_their_way_is_a_fault_and_opens_no_gate(count: int) -> None:
    driver = by_counts()
    driver.step(Encoder(5_000))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT), 0.01)
    driver.step(Encoder(count), 0.01)
    assert driver.state.fault is Fault.ENCODER and not driver.state.gate
    driver.step(ResetPressed())
    driver.step(Encoder(count + 100), 0.01)
    assert driver.state.ready and not driver.state.gate


@pytest.mark.parametrize("count", [0, 4_990, 5_099, 1_000_000])
def test_encoder_may_jump_with_no_part_on_its_way_and_move_a_little_with_one(count: int) -> None:
    driver = by_counts()
    driver.step(Encoder(5_000))
    driver.trigger()
    driver.step(PartInspected(0, Code.PASS if abs(count - 5_000) > 100 else Code.REJECT), 0.01)
    driver.step(Encoder(count), 0.01)
    assert driver.state.fault is Fault.NONE and not driver.state.gate


def test_encoder_that_stands_still_while_parts_come_is_a_fault() -> None:
    driver = by_counts()
    driver.step(Encoder(7))
    for number in range(3):
        assert driver.state.fault is Fault.NONE
        driver.trigger(0.01)
        driver.step(PartInspected(number, Code.PASS), 0.01)
    assert driver.state.fault is Fault.ENCODER


def test_parts_of_before_a_restart_are_lost_if_the_encoder_began_anew() -> None:
    entries = [GateEntry(0, 0.0, 5_050), GateEntry(1, 0.0, 5_090)]
    driver = by_counts()
    driver.machine.restore_gate(entries, driver.now_s)
    driver.step(Encoder(5_010))
    assert driver.state.fault is Fault.NONE and driver.machine.gate_queue == tuple(entries)
    driver = by_counts()
    driver.machine.restore_gate(entries, driver.now_s)
    driver.step(Encoder(3))
    assert driver.state.fault is Fault.ENCODER and not driver.machine.gate_queue


def test_part_that_reaches_the_gate_without_a_verdict_is_late() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, gate=GateSettings(counts=10)))
    driver.step(Encoder(0))
    driver.trigger()
    driver.step(Encoder(10), 0.01)
    assert driver.codes == [Code.LATE] and driver.state.gate


def test_gate_that_is_closed_does_not_open_again_for_an_event_that_is_older() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, gate=GateSettings(delay_s=0.2, pulse_s=0.05)))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT), 0.01)
    driver.step(Tick(), 0.19)
    assert driver.state.gate
    driver.step(Tick(), 0.05)
    assert not driver.state.gate
    begin = driver.trigger(-0.001)[0]  # an edge has the kernel's time
    assert isinstance(begin, BeginPart) and begin.at_s == driver.now_s
    assert not driver.state.gate


def test_gate_that_opens_when_its_part_has_passed_is_a_fault() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, queue=3, gate=GateSettings(delay_s=0.2, pulse_s=0.05)))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT), 0.01)
    driver.trigger(0.05)
    driver.step(PartInspected(1, Code.PASS), 0.01)
    driver.step(Tick(), 0.17)  # 40 ms late, within the pulse
    assert driver.state.gate and driver.state.fault is Fault.NONE
    driver.trigger()
    driver.step(PartInspected(2, Code.REJECT), 0.01)
    found = driver.step(Tick(), 0.3)
    assert driver.state.gate and driver.machine.fault is Fault.GATE and not driver.state.ready
    text = "fault: the gate opened too late, the parts of triggers 2 have to be taken off by hand"
    assert any(isinstance(action, LogLine) and action.text.startswith(text) for action in found)
    driver.step(ResetPressed(), 0.1)
    assert driver.state.ready


def test_gate_stays_open_for_parts_that_follow_closely() -> None:
    driver = HandshakeDriver(dataclasses.replace(PLAIN, queue=2, gate=GateSettings(delay_s=0.2, pulse_s=0.05)))
    for number, after_s in ((0, 0.0), (1, 0.03)):
        driver.trigger(after_s)
        driver.step(PartInspected(number, Code.REJECT))
    driver.step(Tick(), 0.17)
    driver.step(Tick(), 0.03)
    driver.step(Tick(), 0.04)
    assert driver.state.gate
    driver.step(Tick(), 0.011)
    assert not driver.state.gate
    assert driver.machine.counts.gated == 2


def test_numbers_go_on_after_a_restart() -> None:
    driver = HandshakeDriver(PLAIN, next_number=41)
    driver.trigger()
    driver.step(PartInspected(41, Code.PASS), 0.01)
    assert [answer.number for answer in driver.answers] == [41]


def test_recipe_that_cannot_run_is_a_fault_until_one_runs_or_a_person_resets() -> None:
    driver = HandshakeDriver(HandshakeSettings(deadline_s=1.0))
    driver.step(RecipeRuns("a", 1))
    assert driver.state.ready and (driver.state.recipe, driver.state.recipe_number) == ("a", 1)
    driver.step(RecipeRefused("unknown"))
    assert (driver.state.fault, driver.state.ready, driver.state.recipe) == (Fault.RECIPE, False, "a")
    driver.trigger()
    assert driver.answers[-1].code is Code.NOT_READY
    driver.step(RecipeRuns("b", 2))
    assert driver.state.ready and driver.state.recipe == "b"
    driver.step(RecipeRefused("unknown"))
    driver.step(ResetPressed())
    assert driver.state.ready and driver.state.recipe == "b"


def test_recipe_ends_no_fault_of_another_kind() -> None:
    driver = HandshakeDriver(HandshakeSettings(deadline_s=1.0, late_max=1))
    driver.trigger()
    driver.step(Tick(), 1.0)
    assert driver.state.fault is Fault.LATE
    driver.step(RecipeRuns("b", 2))
    assert driver.state.fault is Fault.LATE


def test_a_part_has_the_deadline_of_its_recipe() -> None:
    driver = HandshakeDriver(HandshakeSettings(deadline_s=0.1))
    driver.step(RecipeRuns("slow", 2, deadline_s=0.4))
    driver.trigger()
    driver.step(Tick(), 0.3)
    assert driver.machine.counts.late == 0
    driver.step(Tick(), 0.11)
    assert driver.machine.counts.late == 1
    driver.step(RecipeRuns("plain", 1))
    driver.trigger(0.1)
    driver.step(Tick(), 0.11)
    assert driver.machine.counts.late == 2


def test_gate_of_the_next_product_counts_from_its_first_part_on() -> None:
    driver = HandshakeDriver(HandshakeSettings(deadline_s=0.1, queue=2, gate=GateSettings(delay_s=1.0, pulse_s=0.05)))
    driver.trigger()
    driver.step(PartInspected(0, Code.REJECT))
    driver.step(RecipeRuns("near", 2, gate_delay_s=0.3))
    driver.trigger(0.1)
    driver.step(PartInspected(1, Code.REJECT))
    assert not driver.state.gate
    driver.step(Tick(), 0.31)
    assert driver.state.gate and driver.machine.counts.gated == 1  # the second part, which is there first
    driver.step(Tick(), 0.1)
    assert not driver.state.gate
    driver.step(Tick(), 0.5)
    assert driver.state.gate and driver.machine.counts.gated == 2


def test_the_way_of_every_start_is_said_and_is_no_error() -> None:
    machine = Handshake(HandshakeSettings(deadline_s=1.0), next_number=1)
    first = machine.step(Availability("no bundle runs"), 0.0)
    later = machine.step(Availability("the camera top has given nothing for 2 s"), 0.1)
    said = [(one.text, one.is_error) for one in (*first, *later) if isinstance(one, LogLine)]
    assert said[0] == ("not ready: no bundle runs", False)
    assert said[1][1]
    other = Handshake(HandshakeSettings(deadline_s=1.0), next_number=1)
    (first_of_all,) = [one for one in other.step(Availability("recipe b can't run"), 0.0) if isinstance(one, LogLine)]
    assert first_of_all.is_error, "a start that goes wrong is one"


def test_changeover_is_said_and_is_no_error() -> None:
    driver = HandshakeDriver(HandshakeSettings(deadline_s=1.0))
    said = [action for action in driver.step(Availability("changing over to recipe b")) if isinstance(action, LogLine)]
    assert [(one.text, one.is_error) for one in said] == [("not ready: changing over to recipe b", False)]
    said = [action for action in driver.step(Availability("no bundle runs")) if isinstance(action, LogLine)]
    assert [one.is_error for one in said] == [True]
