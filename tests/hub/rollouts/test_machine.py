"""The rollout machine, without any rim: its invariants under any order of answers, absences and orders."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lineside_hub.rollouts.machine import (
    AGAIN_MIN_S,
    Action,
    AnswerCounts,
    GroupView,
    Observed,
    Ordered,
    RestoreGroup,
    Rollout,
    RolloutPlan,
    RolloutStage,
    RolloutStarted,
    SetDevice,
    SetGroup,
    WithdrawDevice,
    count,
    step,
)
from lineside_link.messages import BundleRef

NEW = BundleRef(name="m", version="2", target="g/m-2.json", sha256="2" * 64)
OLD = BundleRef(name="m", version="1", target="g/m-1.json", sha256="1" * 64)
CANARY = RolloutPlan(stages=(RolloutStage(count=1),), max_failed=0.1, healthy_for_s=60)


def begin(plan: RolloutPlan, devices: tuple[GroupView, ...]) -> tuple[Rollout, tuple[Action, ...]]:
    return step(
        Rollout(id="g-1", group="g", kind="bundle", target=NEW, before=OLD, plan=plan), RolloutStarted(0.0, devices)
    )


def group(size: int, **verdicts: str) -> tuple[GroupView, ...]:
    """``size`` devices ``d0`` … that are up and pending but for those named; a leading ``-`` means away."""
    views = []
    for number in range(size):
        said = verdicts.get(f"d{number}", "pending")
        views.append(GroupView(f"d{number}", not said.startswith("-"), said.removeprefix("-")))  # type: ignore[arg-type]  # drawn as text
    return tuple(views)


def see(rollout: Rollout, now_s: float, size: int, **verdicts: str) -> tuple[Rollout, tuple[Action, ...]]:
    return step(rollout, Observed(now_s, group(size, **verdicts)))


def test_the_canary_comes_first_and_the_rest_when_it_has_been_well_for_the_time() -> None:
    rollout, actions = begin(CANARY, group(3))
    assert actions == (SetDevice("d0"),)
    rollout, actions = see(rollout, 10, 3, d0="healthy")
    assert actions == ()
    assert see(rollout, 69.9, 3, d0="healthy") == (rollout, ())
    rollout, actions = see(rollout, 70, 3, d0="healthy")
    assert actions == (SetGroup(), WithdrawDevice("d0"))
    rollout, actions = see(rollout, 80, 3, d0="healthy", d1="healthy", d2="healthy")
    rollout, actions = see(rollout, 140, 3, d0="healthy", d1="healthy", d2="healthy")
    assert (rollout.state, actions) == ("completed", ())


def test_a_canary_that_goes_away_after_its_answer_proves_nothing() -> None:
    rollout, _ = begin(CANARY, group(2))
    rollout, _ = see(rollout, 10, 2, d0="healthy")
    rollout, _ = see(rollout, 20, 2, d0="-healthy")
    assert rollout.settled_at_s is None
    rollout, actions = see(rollout, 90, 2, d0="-healthy")
    assert (rollout.stage, actions) == (0, ())
    rollout, _ = see(rollout, 100, 2, d0="healthy")
    assert see(rollout, 159, 2, d0="healthy")[1] == ()
    assert see(rollout, 160, 2, d0="healthy")[1][0] == SetGroup()


def test_a_canary_that_fails_stops_everything_and_the_group_never_hears_of_it() -> None:
    rollout, _ = begin(CANARY, group(3))
    rollout, actions = see(rollout, 10, 3, d0="failed")
    assert (rollout.state, actions) == ("rolled_back", (WithdrawDevice("d0"),))
    assert "1 of 1" in rollout.reason


def test_a_stage_in_which_all_fail_goes_back_even_where_every_share_is_borne() -> None:
    rollout, _ = begin(RolloutPlan(stages=(RolloutStage(count=1),), max_failed=1.0), group(3))
    assert see(rollout, 10, 3, d0="failed")[0].state == "rolled_back"


def test_a_group_in_which_all_fail_goes_back_even_where_every_share_is_borne() -> None:
    rollout, actions = begin(RolloutPlan(max_failed=1.0), group(1))
    assert actions == (SetGroup(),)
    devices = (GroupView("d0", True, "failed", "[5002] the golden frame differs"),)
    rollout, actions = step(rollout, Observed(10, devices))
    assert (rollout.state, actions) == ("rolled_back", (RestoreGroup(),))
    assert rollout.reason == "1 of 1 device failed: d0: [5002] the golden frame differs"


def test_a_rollout_that_bears_failures_names_them_at_its_end() -> None:
    rollout, _ = begin(RolloutPlan(max_failed=0.5, healthy_for_s=0), group(2))
    rollout, _ = see(rollout, 10, 2, d0="healthy", d1="failed")
    assert (rollout.state, rollout.reason) == ("completed", "1 of 2 devices failed: d1")


def test_failures_above_the_bar_take_the_whole_group_back() -> None:
    rollout, actions = begin(RolloutPlan(max_failed=0.25), group(8))
    assert actions == (SetGroup(),)
    rollout, actions = see(rollout, 10, 8, d0="failed", d1="failed")
    assert (rollout.state, actions) == ("running", ())
    rollout, actions = see(rollout, 11, 8, d0="failed", d1="failed", d2="failed")
    assert (rollout.state, actions) == ("rolled_back", (RestoreGroup(),))


def test_devices_that_are_away_hide_no_failures() -> None:
    rollout, _ = begin(RolloutPlan(max_failed=0.25), group(8))
    away = {f"d{number}": "-pending" for number in range(2, 8)}
    rollout, _ = see(rollout, 10, 8, d0="failed", d1="healthy", **away)
    assert rollout.state == "rolled_back"


def test_away_slow_and_shed_are_no_failures() -> None:
    rollout, _ = begin(RolloutPlan(max_failed=0.0), group(3))
    for now in range(0, 10_000, 100):
        rollout, _ = see(rollout, now, 3, d0="-pending", d1="pending", d2="shed")
    assert rollout.state == "running"
    assert count(rollout, group(3, d0="-pending", d2="shed")) == AnswerCounts(0, 0, 1, 1, 1)


def test_a_shed_attempt_is_asked_again_after_growing_pauses_and_then_let_go() -> None:
    rollout, _ = begin(RolloutPlan(), group(1))
    rollout, actions = see(rollout, 0, 1, d0="shed")
    assert actions == (SetDevice("d0"),)
    assert see(rollout, AGAIN_MIN_S - 1, 1, d0="shed")[1] == ()
    rollout, actions = see(rollout, AGAIN_MIN_S, 1, d0="shed")
    assert actions == (SetDevice("d0"),)
    assert see(rollout, 2 * AGAIN_MIN_S, 1, d0="shed")[1] == ()
    rollout, actions = see(rollout, 3 * AGAIN_MIN_S, 1, d0="healthy")
    assert (actions, rollout.retries) == ((WithdrawDevice("d0"),), {})


def test_shares_of_the_group_follow_one_another() -> None:
    plan = RolloutPlan(stages=(RolloutStage(share=0.1), RolloutStage(share=0.5)), healthy_for_s=0)
    rollout, actions = begin(plan, group(10))
    assert actions == (SetDevice("d0"),)
    rollout, actions = see(rollout, 1, 10, d0="healthy")
    assert actions == tuple(SetDevice(f"d{number}") for number in range(1, 5))
    rollout, actions = see(rollout, 2, 10, **{f"d{number}": "healthy" for number in range(5)})
    assert actions == (SetGroup(), *(WithdrawDevice(f"d{number}") for number in range(5)))


def test_a_canary_that_is_away_makes_room_for_another_but_a_named_one_is_waited_for() -> None:
    rollout, actions = begin(CANARY, group(3, d0="-pending"))
    assert actions == (SetDevice("d1"),)
    rollout, actions = see(rollout, 5, 3, d0="-pending", d1="-pending")
    assert actions == (SetDevice("d2"),)
    named, actions = begin(RolloutPlan(stages=(RolloutStage(names=("d1",)),)), group(3, d1="-pending"))
    assert actions == (SetDevice("d1"),)
    assert see(named, 500, 3, d1="-pending") == (named, ())


def test_paused_means_nothing_new_but_failures_are_still_seen() -> None:
    rollout, _ = begin(CANARY, group(3))
    rollout, actions = step(rollout, Ordered("pause"))
    assert (rollout.state, actions) == ("paused", ())
    rollout, actions = see(rollout, 1000, 3, d0="healthy")
    assert (rollout.stage, actions) == (0, ())
    assert see(rollout, 1001, 3, d0="failed")[0].state == "rolled_back"
    rollout, _ = step(rollout, Ordered("resume"))
    rollout, actions = see(rollout, 2000, 3, d0="healthy")
    assert actions == ()  # the time begins anew
    assert see(rollout, 2060, 3, d0="healthy")[1][0] == SetGroup()


@pytest.mark.parametrize("whole_group", [False, True])
def test_abort_takes_back_what_was_given_and_supersede_lets_go_only(whole_group: bool) -> None:
    rollout, _ = begin(RolloutPlan() if whole_group else CANARY, group(3))
    aborted, actions = step(rollout, Ordered("abort"))
    assert (aborted.state, actions) == ("aborted", (RestoreGroup(),) if whole_group else (WithdrawDevice("d0"),))
    superseded, actions = step(rollout, Ordered("supersede"))
    assert (superseded.state, actions) == ("superseded", () if whole_group else (WithdrawDevice("d0"),))


def test_a_device_that_leaves_the_group_loses_the_desired_state() -> None:
    rollout, _ = begin(CANARY, group(2))
    rollout, actions = step(rollout, Observed(5.0, (GroupView("d1", True),)))
    assert actions == (WithdrawDevice("d0"), SetDevice("d1"))
    assert rollout.targeted == ("d1",)


def test_a_clock_that_is_set_back_starts_the_time_anew_and_never_hangs() -> None:
    rollout, _ = begin(CANARY, group(2))
    rollout, _ = see(rollout, 10_000, 2, d0="healthy")
    rollout, actions = see(rollout, 50, 2, d0="healthy")
    assert (rollout.settled_at_s, actions) == (50, ())
    assert see(rollout, 110, 2, d0="healthy")[1][0] == SetGroup()


def test_it_survives_being_written_down() -> None:
    rollout, _ = begin(CANARY, group(3))
    assert msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout) == rollout


class Groups(RuleBasedStateMachine):
    """Any answers, absences, leavers, orders and clocks: what must hold after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.own: set[str] = set()  # devices with a desired state of the rollout
        self.group_has = OLD
        self.ended = False

    @initialize(
        size=st.integers(0, 6),
        stages=st.lists(
            st.one_of(
                st.builds(RolloutStage, count=st.integers(1, 3)),
                st.builds(RolloutStage, share=st.sampled_from([0.2, 0.5])),
                st.just(RolloutStage(names=("d0", "d2"))),
            ),
            max_size=3,
        ),
        bar=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        healthy_for=st.sampled_from([0.0, 30.0]),
    )
    def start(self, size: int, stages: list[RolloutStage], bar: float, healthy_for: float) -> None:
        self.devices = {f"d{number}": GroupView(f"d{number}", True) for number in range(size)}
        self.plan = RolloutPlan(stages=tuple(stages), max_failed=bar, healthy_for_s=healthy_for)
        self.rollout = Rollout(id="g-1", group="g", kind="bundle", target=NEW, before=OLD, plan=self.plan)
        self.take(RolloutStarted(self.now, tuple(self.devices.values())))

    def take(self, event: RolloutStarted | Observed | Ordered) -> None:
        before = self.rollout
        after, actions = step(before, event)
        if before.state == "paused" and isinstance(event, Observed) and after.state == "paused":
            assert not [action for action in actions if isinstance(action, SetDevice | SetGroup)]
            assert after.stage == before.stage
        if before.unfinished is False:
            assert (after, actions) == (before, ())
        self.rollout = after
        for action in actions:
            self.carry_out(action, before, event)
        if isinstance(event, Observed):
            if after.whole_group and not before.whole_group:  # what a device shed was a desired state that is withdrawn
                event = Observed(event.now_s, tuple(_unanswered(device) for device in event.devices))
            again, more = step(after, event)
            waiting = self.plan.healthy_for_s == 0  # a stage that needs no time is over at once
            if after.stage != before.stage:  # and one that this look has entered begins its time with the next one
                again = msgspec.structs.replace(again, settled_at_s=after.settled_at_s)
            assert (again, more) == (after, ()) or waiting
        if isinstance(event, Observed | RolloutStarted) and after.unfinished:
            assert count(after, event.devices).share <= self.plan.max_failed

    def carry_out(self, action: Action, before: Rollout, event: object) -> None:
        if isinstance(action, SetDevice):
            self.own.add(action.device)
        elif isinstance(action, WithdrawDevice):
            if self.rollout.whole_group and self.rollout.unfinished and action.device in self.devices:
                assert self.group_has == NEW
            self.own.discard(action.device)
        elif isinstance(action, SetGroup):
            self.group_has = NEW
            if before.stage >= 0 and isinstance(event, Observed):
                well = [self.devices[name] for name in before.targeted if name in self.devices]
                assert any(device.up and device.answer == "healthy" for device in well)
                assert not any(device.up and device.answer in ("pending", "shed") for device in well)
                assert before.settled_at_s is not None or self.plan.healthy_for_s == 0
        else:
            assert self.group_has == NEW
            self.group_has = OLD

    @rule(
        name=st.sampled_from([f"d{number}" for number in range(6)]),
        up=st.booleans(),
        answer=st.sampled_from(["pending", "healthy", "healthy", "failed", "shed"]),
    )
    def answer(self, name: str, up: bool, answer: str) -> None:
        """A device can answer only what it was asked."""
        if name in self.devices:
            asked = name in self.own or self.rollout.whole_group
            self.devices[name] = GroupView(name, up, answer if asked else "pending")  # type: ignore[arg-type]  # drawn as text

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 700.0, -50.0]))
    def look(self, seconds: float) -> None:
        self.now += seconds
        self.take(Observed(self.now, tuple(self.devices.values())))

    @rule(order=st.sampled_from(["pause", "resume", "pause", "resume", "abort", "supersede"]))
    def order(self, order: str) -> None:
        self.take(Ordered(order))  # type: ignore[arg-type]  # drawn as text

    @precondition(lambda self: len(self.devices) > 1)
    @rule()
    def leave(self) -> None:
        self.devices.pop(next(iter(self.devices)))

    @rule(number=st.integers(0, 5))
    def join(self, number: int) -> None:
        self.devices.setdefault(f"d{number}", GroupView(f"d{number}", True))

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "rollout"):
            return
        if not self.rollout.unfinished:
            assert self.own == set()
            if self.rollout.state in ("rolled_back", "aborted"):
                assert self.group_has == OLD
            return
        assert self.own == set(self.rollout.targeted) | set(self.rollout.retries)
        assert (self.group_has == NEW) == self.rollout.whole_group


def _unanswered(device: GroupView) -> GroupView:
    return device._replace(answer="pending") if device.answer == "shed" else device


Groups.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestGroups = Groups.TestCase
