"""The self-update machine and the guard's decisions together: any order of desired_states, outcomes, ends and kills."""

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
    Rest,
    Rested,
    Restore,
    StageSlot,
    Started,
    Switch,
    Verify,
)
from lineside_agent.deployment.machine import RESTING, AgentMachine, step
from lineside_agent.deployment.self_update.guard import BUDGET, AgentTrial, TrialClock, decide
from lineside_link.messages import BundleRef, Desired, Problem

PROBLEM = Problem(code=5002, error="StagingError", message="no")


def ref(number: int) -> BundleRef:
    return BundleRef(
        name="lineside-agent", version=f"{number}.0", target=f"g/agent-{number}.json", sha256=f"{number:064x}"
    )


def make_desired(gen: int, number: int | None, *, asked: int | None = None, epoch: int = 1) -> Desired:
    gens = {} if asked is None else {"agent": asked}
    return Desired(epoch=epoch, gen=gen, agent=None if number is None else ref(number), gens=gens)


@pytest.fixture
def running() -> AgentMachine:
    """Agent 1 in slot a."""
    return step(AgentMachine(), Started(ref(1), "a"))[0]


def walk(machine: AgentMachine, to: str, gen: int = 2, number: int = 2) -> AgentMachine:
    machine, _ = step(machine, DesiredChanged("group", make_desired(gen, number)))
    while machine.state != to:
        machine, _ = step(machine, Done(machine.attempt))
    return machine


def test_desired_state_walks_to_the_switch_and_the_new_agent_ends_its_trial(running: AgentMachine) -> None:
    machine, actions = step(running, DesiredChanged("group", make_desired(2, 2)))
    kinds = []
    while actions:
        (action,) = actions
        kinds.append(type(action))
        assert not isinstance(action, Rest | Restore)
        machine, actions = step(machine, Done(action.attempt))
    assert kinds == [Fetch, Verify, StageSlot, Switch]
    assert (machine.state, machine.installed, machine.slot) == ("switching", ref(1), "b")
    started, actions = step(machine, Started(ref(2), "b", on_trial=True))
    assert actions == (CheckHealth(started.attempt),)
    assert (started.state, started.installed) == ("health_check", ref(1))
    done, _ = step(started, Done(started.attempt))
    assert (done.state, done.installed, done.installed_slot, done.previous) == ("active", ref(2), "b", ref(1))


def test_agent_killed_after_the_end_of_its_trial_stays(running: AgentMachine) -> None:
    machine = walk(running, "switching")
    done, _ = step(machine, Started(ref(2), "b", on_trial=False))
    assert (done.state, done.installed) == ("active", ref(2))


def test_agent_that_was_taken_back_says_why_and_is_not_tried_again(running: AgentMachine) -> None:
    machine = walk(running, "switching")
    back, actions = step(machine, Started(ref(1), "a", verdict="ended again and again", verdict_on=machine.attempt_id))
    assert (back.state, back.installed, actions[0]) == ("rolled_back", ref(1), Restore("a"))
    assert back.error is not None
    assert (back.error.code, "again and again" in back.error.message) == (5004, True)
    assert step(back, Rested()) == (back, ())
    along, actions = step(back, DesiredChanged("group", make_desired(3, 2, asked=2)))  # a bundle was pushed
    assert (along.state, along.gen, actions) == ("rolled_back", 3, ())
    anew, actions = step(along, DesiredChanged("group", make_desired(4, 2)))  # the agent was pushed again
    assert (anew.state, isinstance(actions[0], Fetch)) == ("fetching", True)


def test_verdict_on_another_desired_state_is_an_old_one(running: AgentMachine) -> None:
    machine = walk(running, "switching")
    again, actions = step(machine, Started(ref(1), "a", verdict="hung", verdict_on="1/1/00"))
    assert (again.state, isinstance(actions[0], Switch)) == ("switching", True)


def test_switch_that_never_happens_is_given_up(running: AgentMachine) -> None:
    machine = walk(running, "switching")
    for _ in range(AgentMachine.rules.max_starts - 1):
        machine, actions = step(machine, Started(ref(1), "a"))
        assert isinstance(actions[0], Switch)
    machine, actions = step(machine, Started(ref(1), "a"))
    assert (machine.state, actions[0]) == ("rolled_back", Restore("a"))


def test_staging_that_ends_the_agent_is_given_up(running: AgentMachine) -> None:
    machine = walk(running, "staged")
    for _ in range(AgentMachine.rules.max_starts):
        assert machine.state == "staged"
        machine, _ = step(machine, Started(ref(1), "a"))
    assert (machine.state, machine.installed) == ("failed", ref(1))


@pytest.mark.parametrize("state", ["fetching", "verifying", "staged"])
def test_what_fails_before_the_switch_costs_nothing(running: AgentMachine, state: str) -> None:
    machine = walk(running, state)
    failed, actions = step(machine, Failed(machine.attempt, PROBLEM))
    assert (failed.state, failed.installed, failed.error, actions) == ("failed", ref(1), PROBLEM, (Rest(),))


def test_agent_in_no_slot_says_so() -> None:
    machine, _ = step(AgentMachine(), Started())
    failed, actions = step(machine, DesiredChanged("group", make_desired(2, 2)))
    assert (failed.state, actions) == ("failed", (Rest(),))
    assert failed.error is not None
    assert "no slot" in failed.error.message


def test_agent_that_somebody_installed_by_hand_is_what_is_installed(running: AgentMachine) -> None:
    machine, _ = step(running, Started(ref(9), "b"))
    assert (machine.state, machine.installed, machine.installed_slot) == ("active", ref(9), "b")


def test_old_agent_started_by_other_hands_ends_the_trial(running: AgentMachine) -> None:
    machine = walk(running, "switching")
    machine, _ = step(machine, Started(ref(2), "b", on_trial=True))
    back, actions = step(machine, Started(ref(1), "a"))
    assert (back.state, actions[0]) == ("rolled_back", Restore("a"))


def test_newer_desired_state_waits_for_the_end_of_a_trial(running: AgentMachine) -> None:
    machine, _ = step(walk(running, "switching"), Started(ref(2), "b", on_trial=True))
    heard, actions = step(machine, DesiredChanged("group", make_desired(3, 3)))
    assert (heard.state, heard.wanted, actions) == ("health_check", ref(2), ())
    assert heard.attempt_id == machine.attempt_id
    done, _ = step(heard, Done(heard.attempt))
    _, actions = step(done, Rested())
    assert isinstance(actions[0], Fetch)
    assert (actions[0].slot, actions[0].artifact) == ("a", ref(3))


# -- any order -----------------------------------------------------------------------------------------------------

BAD = frozenset({3, 4})
"""Agents that never become healthy."""

desired_states = st.builds(
    DesiredChanged,
    st.sampled_from(["device", "group"]),
    st.none()
    | st.builds(make_desired, st.integers(0, 8), st.none() | st.integers(1, 4), asked=st.none() | st.integers(0, 4)),
)
pushes = st.tuples(st.just("push"), st.integers(1, 4))
"""The hub pushes an agent, and what it leads to comes to its end."""

ends = st.sampled_from(["crash", "hang", "power", "reboot"])
outcomes = st.sampled_from(["done", "done", "done", "broke", "transient", "stale"])
moves = st.lists(desired_states | pushes | ends | outcomes, max_size=60)


class Device:
    """The disk, the guard and one agent; what isn't on the disk is gone at each end of the process."""

    def __init__(self) -> None:
        self.holds: dict[str, BundleRef | None] = {"a": ref(1), "b": None}
        self.current: str = "a"
        self.trial: AgentTrial | None = None
        self.verdict = ("", "")
        self.clock = TrialClock("boot-0", 0.0)
        self.machine = AgentMachine()
        self.running = "a"
        self.pending: list[Action] = []
        self.start()

    def start(self) -> None:
        """The guard, then the agent."""
        whole = frozenset(slot for slot, held in self.holds.items() if held is not None)
        decision = decide(self.current, self.trial, whole, self.clock)
        assert decision.slot is not None
        if decision.reason:
            self.verdict = (decision.reason, self.trial.wish if self.trial else "")
            self.current = decision.slot
        self.trial = decision.trial
        self.running = decision.slot
        self.pending = []
        self.machine = msgspec.json.decode(msgspec.json.encode(self.machine), type=AgentMachine)
        on_trial = self.trial is not None and self.trial.slot == self.running
        self.feed(Started(self.holds[self.running], self.running, on_trial, *self.verdict))

    def end(self, result: str) -> None:
        cost = {"crash": 1, "hang": 2}.get(result, 0)
        if self.trial is not None and self.trial.slot == self.current and self.trial.spent:
            self.trial = self.trial._replace(spent=self.trial.spent + cost)
        if result == "reboot":
            self.clock = TrialClock(self.clock.boot_id + "+", 0.0)
        self.start()

    def feed(self, event: Event) -> None:
        before = self.machine
        self.machine, actions = step(before, event)
        current = self.machine.attempt
        self.pending = [one for one in self.pending if getattr(one, "attempt", current) == current] + list(actions)
        self.check(before, event)
        while self.pending and isinstance(self.pending[0], Restore | Rest):
            if isinstance(action := self.pending.pop(0), Restore):
                self.current, self.trial = str(action.slot), None
            else:
                self.feed(Rested())

    def check(self, before: AgentMachine, event: Event) -> None:
        for action in self.pending:
            if isinstance(action, Fetch | Verify | StageSlot | Switch):
                assert action.slot != self.running
        if self.machine.installed != before.installed and before.installed is not None:
            assert isinstance(event, Started) or (isinstance(event, Done) and before.state == "health_check")
        assert self.machine.installed is not None
        if self.machine.state not in ("health_check",):
            assert self.machine.installed == self.holds[self.running]

    def carry_out(self) -> None:
        action = self.pending.pop(0)
        agent = self.holds[self.running]
        assert agent is not None
        if isinstance(action, Fetch):
            self.holds[action.slot] = None
        elif isinstance(action, StageSlot):
            self.holds[action.slot] = self.machine.wanted
        elif isinstance(action, Switch):
            self.trial = AgentTrial(action.slot, self.running, self.machine.attempt_id, 60.0, 600.0)
            self.current = action.slot
            self.start()
            return
        elif isinstance(action, CheckHealth):
            if int(agent.version[0]) in BAD:
                self.clock = self.clock._replace(now_s=self.clock.now_s + 601.0)
                self.end("crash")
                return
            self.trial = None
        self.feed(Done(self.machine.attempt))

    def move(self, move: object) -> None:
        if isinstance(move, DesiredChanged):
            self.feed(move)
        elif move in ("crash", "hang", "power", "reboot"):
            self.end(str(move))
        elif isinstance(move, tuple):
            known = self.machine.group_desired
            self.feed(DesiredChanged("group", make_desired(1 + (known.gen if known else 0), move[1])))
            for _ in range(4 * BUDGET):
                self.move("done")
        elif move == "stale":
            assert step(self.machine, Done(self.machine.attempt - 1)) == (self.machine, ())
        elif self.pending and move == "done":
            self.carry_out()
        elif self.pending and not isinstance(self.pending[0], CheckHealth):
            self.pending.pop(0)
            self.feed(Failed(self.machine.attempt, PROBLEM, transient=move == "transient"))


@settings(max_examples=400, deadline=None)
@given(moves=moves)
def test_every_order_ends_in_an_agent_that_is_whole_and_good(moves: list[object]) -> None:
    device = Device()
    for move in moves:
        device.move(move)
        assert device.holds[device.running] is not None
        assert device.holds[device.current] is not None
    for _ in range(40 + 4 * BUDGET):
        if not device.pending:
            break
        device.move("done")
    machine = device.machine
    assert machine.state in RESTING
    assert (device.current, device.trial) == (device.running, None)
    runs = device.holds[device.running]
    assert runs is not None
    assert int(runs.version[0]) not in BAD
    assert machine.installed == runs
    wanted = machine.desired
    if wanted is not None and wanted.agent is not None and runs != wanted.agent:
        assert machine.state in ("rolled_back", "failed")
