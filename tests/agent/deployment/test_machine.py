"""The update machine, without any runner: invariants under any order of events and any kill."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_agent.deployment.events import (
    Action,
    CheckHealth,
    DesiredChanged,
    Done,
    Event,
    Failed,
    Fetch,
    LoadFailed,
    Rest,
    Rested,
    Restore,
    StageSlot,
    Started,
    Switch,
    Verify,
)
from lineside_agent.deployment.machine import RESTING, BundleMachine, generation, pause_s, step, why_ignored
from lineside_link.messages import BundleRef, Desired, Problem

PROBLEM = Problem(code=3002, error="BundleIntegrityError", message="damaged")


def ref(number: int) -> BundleRef:
    return BundleRef(name="m", version=f"{number}.0.0", target=f"g/m-{number}.0.0.json", sha256=f"{number:064x}")


def make_desired(gen: int, number: int | None, epoch: int = 1) -> Desired:
    return Desired(epoch=epoch, gen=gen, bundle=None if number is None else ref(number))


def settle(
    machine: BundleMachine, actions: tuple[Action, ...], *, break_at: str = "", transient: bool = False
) -> BundleMachine:
    """Carries actions out, all of them well but the one of state ``break_at``."""
    pending = list(actions)
    for _ in range(50):
        if not pending:
            return machine
        action = pending.pop(0)
        if isinstance(action, Restore):
            continue
        event: Event = Rested() if isinstance(action, Rest) else Done(action.attempt)
        if not isinstance(action, Rest) and machine.state == break_at:
            event = Failed(action.attempt, PROBLEM, transient)
            break_at = ""
        machine, more = step(machine, event)
        pending += more
    raise AssertionError("it does not settle")


def after(machine: BundleMachine, event: Event, *, break_at: str = "") -> BundleMachine:
    return settle(*step(machine, event), break_at=break_at)


@pytest.fixture
def running() -> BundleMachine:
    """A machine that runs bundle 1 from slot a."""
    return after(BundleMachine(), DesiredChanged("group", make_desired(1, 1)))


def test_desired_state_walks_through_every_state_to_active() -> None:
    machine, actions = step(BundleMachine(), DesiredChanged("group", make_desired(1, 1)))
    seen = [machine.state]
    kinds = []
    while actions:
        (action,) = actions
        kinds.append(type(action))
        assert not isinstance(action, Restore)
        machine, actions = step(machine, Rested() if isinstance(action, Rest) else Done(action.attempt))
        seen.append(machine.state)
    assert seen == ["fetching", "verifying", "staged", "switching", "health_check", "active", "active"]
    assert kinds == [Fetch, Verify, StageSlot, Switch, CheckHealth, Rest]
    assert (machine.installed, machine.installed_slot, machine.previous) == (ref(1), "a", None)


def test_second_bundle_goes_to_the_other_slot_and_the_first_becomes_previous(running: BundleMachine) -> None:
    machine = after(running, DesiredChanged("group", make_desired(2, 2)))
    assert (machine.installed, machine.installed_slot) == (ref(2), "b")
    assert (machine.previous, machine.previous_slot) == (ref(1), "a")


@pytest.mark.parametrize("desired", [make_desired(1, 2), make_desired(0, 2), make_desired(9, 2, epoch=0)])
def test_older_generation_or_epoch_is_ignored(running: BundleMachine, desired: Desired) -> None:
    assert step(running, DesiredChanged("group", desired)) == (running, ())


def test_lower_generation_of_a_new_epoch_is_followed(running: BundleMachine) -> None:
    machine = after(running, DesiredChanged("group", make_desired(1, 2, epoch=2)))
    assert machine.installed == ref(2)
    assert (machine.epoch, machine.gen) == (2, 1)


def test_desired_state_for_the_device_comes_before_one_for_its_group(running: BundleMachine) -> None:
    own = after(running, DesiredChanged("device", make_desired(2, 2)))
    assert own.installed == ref(2)
    unmoved = after(own, DesiredChanged("group", make_desired(3, 3)))
    assert unmoved.installed == ref(2)
    assert after(unmoved, DesiredChanged("device", None)).installed == ref(3)


def test_desired_state_for_what_runs_is_answered_without_a_fetch(running: BundleMachine) -> None:
    machine, actions = step(running, DesiredChanged("group", make_desired(5, 1)))
    assert (machine.state, machine.gen, actions) == ("active", 5, ())


@pytest.mark.parametrize("state", ["fetching", "verifying"])
def test_failure_before_the_engine_is_touched_is_failed(running: BundleMachine, state: str) -> None:
    machine = after(running, DesiredChanged("group", make_desired(2, 2)), break_at=state)
    assert (machine.state, machine.error, machine.installed) == ("failed", PROBLEM, ref(1))


@pytest.mark.parametrize("state", ["staged", "switching", "health_check"])
def test_failure_of_the_new_bundle_is_rolled_back(running: BundleMachine, state: str) -> None:
    machine = after(running, DesiredChanged("group", make_desired(2, 2)), break_at=state)
    assert (machine.state, machine.error, machine.installed) == ("rolled_back", PROBLEM, ref(1))


def test_roll_back_loads_what_was_installed(running: BundleMachine) -> None:
    machine, actions = step(running, DesiredChanged("group", make_desired(2, 2)))
    for _ in range(4):
        machine, actions = step(machine, Done(machine.attempt))
    assert machine.state == "health_check"
    _, actions = step(machine, Failed(machine.attempt, PROBLEM))
    assert actions == (Restore("a"), Rest())


@pytest.mark.parametrize("state", ["fetching", "staged", "health_check"])
def test_refused_desired_state_is_not_tried_again_not_even_after_a_start(running: BundleMachine, state: str) -> None:
    refused = after(running, DesiredChanged("group", make_desired(2, 2)), break_at=state)
    assert step(refused, DesiredChanged("group", make_desired(2, 2))) == (refused, ())
    started = after(refused, Started())
    assert (started.state, started.error, started.installed) == (refused.state, PROBLEM, ref(1))


def test_higher_generation_of_a_refused_bundle_is_tried(running: BundleMachine) -> None:
    refused = after(running, DesiredChanged("group", make_desired(2, 2)), break_at="staged")
    assert after(refused, DesiredChanged("group", make_desired(3, 2))).installed == ref(2)


def test_broken_link_fetches_again_after_a_growing_pause(running: BundleMachine) -> None:
    machine, _ = step(running, DesiredChanged("group", make_desired(2, 2)))
    pauses = []
    for _ in range(9):
        machine, (action,) = step(machine, Failed(machine.attempt, PROBLEM, transient=True))
        assert isinstance(action, Fetch)
        pauses.append(action.pause_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pause_s(0) == 0
    assert pause_s(5000) == 60  # a hub that is away for days
    assert (machine.state, machine.error) == ("fetching", PROBLEM)
    assert settle(*step(machine, Done(machine.attempt))).installed == ref(2)


def test_newer_desired_state_replaces_a_fetch_and_its_outcome_is_ignored(running: BundleMachine) -> None:
    first, _ = step(running, DesiredChanged("group", make_desired(2, 2)))
    second, (action,) = step(first, DesiredChanged("group", make_desired(3, 3)))
    assert isinstance(action, Fetch)
    assert action.artifact == ref(3)
    assert step(second, Done(first.attempt)) == (second, ())
    assert step(second, Failed(first.attempt, PROBLEM)) == (second, ())


@pytest.mark.parametrize("state", ["switching", "health_check"])
def test_newer_desired_state_waits_for_the_end_of_a_switch(running: BundleMachine, state: str) -> None:
    machine, _ = step(running, DesiredChanged("group", make_desired(2, 2)))
    while machine.state != state:
        machine, _ = step(machine, Done(machine.attempt))
    heard, actions = step(machine, DesiredChanged("group", make_desired(3, 3)))
    assert (heard.state, heard.wanted, actions) == (state, ref(2), ())
    while heard.state != "active":
        heard, actions = step(heard, Done(heard.attempt))
    assert settle(heard, actions).installed == ref(3)


def test_desired_state_without_a_bundle_keeps_what_is_there(running: BundleMachine) -> None:
    machine, actions = step(running, DesiredChanged("group", make_desired(2, None)))
    assert (machine.state, machine.installed, machine.gen, actions) == ("active", ref(1), 2, ())


def test_factory_bundle_runs_until_one_is_pushed() -> None:
    machine, actions = step(BundleMachine(), Started(ref(7), "factory"))
    assert (machine.state, machine.installed, machine.installed_slot) == ("active", ref(7), "factory")
    assert actions[0] == Restore("factory")
    pushed = after(machine, DesiredChanged("group", make_desired(1, 1)))
    assert (pushed.installed_slot, pushed.previous_slot) == ("a", "factory")
    assert after(pushed, Started(ref(8), "factory")).installed == ref(1)


def test_factory_bundle_that_is_gone_leaves_nothing_installed() -> None:
    machine, _ = step(BundleMachine(), Started(ref(7), "factory"))
    assert step(machine, Started())[0].installed is None


def test_start_in_a_health_check_goes_on_with_the_new_bundle(running: BundleMachine) -> None:
    machine = walk_to(running, "health_check")
    started, actions = step(machine, Started())
    assert actions == (Restore("b"), CheckHealth(started.attempt))
    assert settle(started, actions).installed == ref(2)


@pytest.mark.parametrize("state", ["staged", "switching"])
def test_start_before_the_switch_runs_the_old_bundle_and_stages_again(running: BundleMachine, state: str) -> None:
    started, actions = step(walk_to(running, state), Started())
    assert actions == (Restore("a"), StageSlot(started.attempt, ref(2), "b"))
    assert settle(started, actions).installed == ref(2)


@pytest.mark.parametrize("state", ["staged", "switching", "health_check"])
def test_bundle_that_ends_the_agent_again_and_again_is_rolled_back(running: BundleMachine, state: str) -> None:
    machine = walk_to(running, state)
    for _ in range(BundleMachine.rules.max_starts - 1):
        machine, _ = step(machine, Started())
        machine = walk_on(machine, state)
    machine, actions = step(machine, Started())
    assert (machine.state, machine.installed, actions[0]) == ("rolled_back", ref(1), Restore("a"))
    assert machine.error is not None
    assert machine.error.code == 5002


def test_installed_bundle_that_cannot_be_loaded_gives_way_to_the_previous_and_is_fetched_again(
    running: BundleMachine,
) -> None:
    machine = after(running, DesiredChanged("group", make_desired(2, 2)))
    failed, actions = step(machine, LoadFailed("b", PROBLEM))
    assert (failed.installed, actions[0]) == (ref(1), Restore("a"))
    healed = settle(failed, actions)
    assert (healed.state, healed.installed, healed.installed_slot) == ("active", ref(2), "b")


def test_last_bundle_that_cannot_be_loaded_is_fetched_again(running: BundleMachine) -> None:
    healed = settle(*step(running, LoadFailed("a", PROBLEM)))
    assert (healed.state, healed.installed) == ("active", ref(1))


def walk_to(machine: BundleMachine, state: str) -> BundleMachine:
    machine, _ = step(machine, DesiredChanged("group", make_desired(2, 2)))
    return walk_on(machine, state)


def walk_on(machine: BundleMachine, state: str) -> BundleMachine:
    while machine.state != state:
        machine, _ = step(machine, Done(machine.attempt))
    return machine


desired_states = st.builds(
    DesiredChanged,
    st.sampled_from(["device", "group", "local"]),
    st.none() | st.builds(make_desired, st.integers(0, 6), st.none() | st.integers(1, 4), st.integers(1, 2)),
)
moves = st.lists(
    desired_states
    | st.integers(1, 4)  # a person at the device asks for this bundle
    | st.sampled_from(["done", "done", "done", "broke", "transient", "stale", "kill", "replay"]),
    max_size=40,
)


class ModelRunner:
    """A runner whose outcomes hypothesis chooses, and that forgets everything but the machine when it is killed."""

    def __init__(self, factory: BundleRef | None) -> None:
        self.factory = factory
        self.machine = BundleMachine()
        self.pending: list[Action] = []
        self.whole: dict[str, BundleRef] = {}
        self.feed(Started(factory, None if factory is None else "factory"))

    def feed(self, event: Event) -> None:
        before = self.machine
        self.machine, actions = step(before, event)
        self.pending = [
            one for one in self.pending if getattr(one, "attempt", self.machine.attempt) == self.machine.attempt
        ]
        self.pending += actions
        self.check(before, event)
        self.settle_quick_ones()

    def settle_quick_ones(self) -> None:
        while self.pending and isinstance(self.pending[0], Restore | Rest):
            if isinstance(self.pending.pop(0), Rest):
                self.feed(Rested())

    def check(self, before: BundleMachine, event: Event) -> None:
        after_ = self.machine
        if after_.installed != before.installed and not isinstance(event, Started):
            assert isinstance(event, Done)
            assert before.state == "health_check"
            assert after_.installed == before.wanted
        for action in self.pending:
            if isinstance(action, Fetch | Verify | StageSlot | Switch):
                assert action.slot != after_.installed_slot
            if isinstance(action, Fetch):
                assert f"{after_.epoch}/{after_.gen}/{action.artifact.sha256}" not in after_.refused
        if after_.local_desired is not None:  # it was asked for under the hub's newest desired state, or is dropped
            assert generation(after_.local_desired) == generation(after_.hub_desired)
        if isinstance(event, DesiredChanged) and event.origin == "local":
            assert after_.hub_desired == before.hub_desired
            if event.desired is not None and generation(event.desired) != generation(before.hub_desired):
                assert after_ == before
                assert why_ignored(before, event)
        assert after_.previous_slot is None or after_.previous_slot != after_.installed_slot
        for known, new in (
            (before.device_desired, after_.device_desired),
            (before.group_desired, after_.group_desired),
        ):
            if known is not None and new is not None:
                assert (new.epoch, new.gen) >= (known.epoch, known.gen)

    def move(self, move: object) -> None:
        if isinstance(move, DesiredChanged):
            self.feed(move)
        elif isinstance(move, int):
            epoch, gen = generation(self.machine.hub_desired)
            self.feed(DesiredChanged("local", make_desired(gen, move, epoch)))
            assert self.machine.local_desired is not None
        elif move == "kill":
            self.pending = []
            self.machine = msgspec.json.decode(msgspec.json.encode(self.machine), type=BundleMachine)
            self.feed(Started(self.factory, None if self.factory is None else "factory"))
        elif move == "replay":
            for origin, desired in (("device", self.machine.device_desired), ("group", self.machine.group_desired)):
                if desired is not None:
                    assert step(self.machine, DesiredChanged(origin, desired)) == (self.machine, ())  # type: ignore[arg-type]  # drawn by hypothesis as text
        elif move == "stale":
            assert step(self.machine, Done(self.machine.attempt - 1)) == (self.machine, ())
        elif self.pending:
            attempt = self.machine.attempt
            self.pending.pop(0)
            self.feed(Done(attempt) if move == "done" else Failed(attempt, PROBLEM, transient=move == "transient"))


@settings(max_examples=300, deadline=None)
@given(moves=moves, factory=st.none() | st.just(ref(9)))
def test_no_order_of_events_and_kills_breaks_an_invariant(moves: list[object], factory: BundleRef | None) -> None:
    runner = ModelRunner(factory)
    ever_installed = runner.machine.installed is not None
    for move in moves:
        runner.move(move)
        ever_installed = ever_installed or runner.machine.installed is not None
        assert not ever_installed or runner.machine.installed is not None
    for _ in range(60):  # left in peace it comes to rest, with nothing left to do
        if not runner.pending:
            break
        runner.move("done")
    assert runner.machine.state in RESTING
    wanted = runner.machine.desired
    if wanted is not None and wanted.bundle is not None:
        refused = f"{wanted.epoch}/{wanted.gen}/{wanted.bundle.sha256}" in runner.machine.refused
        assert refused or runner.machine.installed == wanted.bundle


def test_a_withdrawn_desired_state_gives_way_to_the_groups_and_an_older_one_stays_forgotten(
    running: BundleMachine,
) -> None:
    own = after(running, DesiredChanged("device", make_desired(2, 2)))
    assert own.installed == ref(2)
    group = after(own, DesiredChanged("group", make_desired(3, 3)))
    assert group.installed == ref(2)
    withdrawn = msgspec.structs.replace(make_desired(4, 2), withdrawn=True)
    machine = after(group, DesiredChanged("device", withdrawn))
    assert (machine.installed, machine.gen) == (ref(3), 3)
    assert after(machine, DesiredChanged("device", make_desired(2, 2))) == machine
    assert after(machine, DesiredChanged("device", make_desired(5, 2))).installed == ref(2)


def test_what_a_person_at_the_device_asks_for_runs_until_the_hub_desires_something_new(running: BundleMachine) -> None:
    local = after(running, DesiredChanged("local", make_desired(1, 2)))
    assert (local.state, local.installed, local.previous, local.gen) == ("active", ref(2), ref(1), 1)
    assert after(local, DesiredChanged("group", make_desired(1, 1))) == local  # retained, and known
    assert after(local, Started(ref(1), "factory")).installed == ref(2)
    assert after(local, DesiredChanged("local", Desired(epoch=1, gen=1))) == local  # about another artifact
    again = after(local, DesiredChanged("group", make_desired(2, 1)))
    assert (again.installed, again.local_desired) == (ref(1), None)
    broken = after(running, DesiredChanged("local", make_desired(1, 3)), break_at="health_check")
    assert (broken.state, broken.installed) == ("rolled_back", ref(1))
    retried = msgspec.structs.replace(make_desired(1, 3), gens={"bundle": 7})
    assert after(broken, DesiredChanged("local", retried)).installed == ref(3)


def test_a_local_request_that_comes_after_a_newer_desired_state_of_the_hub_is_ignored(running: BundleMachine) -> None:
    late = DesiredChanged("local", make_desired(1, 2))  # made while 1/1 was the newest
    pushed = after(running, DesiredChanged("group", make_desired(2, 3)))
    assert step(pushed, late) == (pushed, ())
    assert why_ignored(pushed, late) == "it was asked for at the device under 1/1; the hub desires 1/2 since"
    own = after(running, DesiredChanged("device", make_desired(3, 3)))
    released = msgspec.structs.replace(make_desired(4, 3), withdrawn=True)  # the group's, which is older, counts again
    back = after(own, DesiredChanged("device", released))
    assert (back.installed, after(back, DesiredChanged("local", make_desired(3, 2)))) == (ref(1), back)
