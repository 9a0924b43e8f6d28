"""The state machine of the agent's own update. Pure; `runner` does its I/O.

In the manner of `lineside_agent.deployment.machine`, which updates the bundle: one frozen value, written down before
it is acted
upon. Other than there the switch ends the process, and whether the new agent stays is decided by two that can't both
be broken by it: the guard, which counts its starts, and itself, which must be healthy and have met the hub.

::

    idle ─► fetching ─► verifying ─► staged ─► switching ═╪═► health_check ─► active
               │            │          │           │      ╪         │
               └────────────┴──────────┴► failed   └──────╪─────────┴► rolled_back
                                              the old agent ends, the new one starts

Invariants, each held by a test:

1. What runs is never written to: an attempt's slot is never the running one, until the switch.
2. After a start ``installed`` is what runs, but for a trial: then it is still what ran before.
3. ``installed`` becomes the wanted agent only in that agent itself, when its trial has ended well.
4. An agent that runs in the slot it came from after a switch knows why, and doesn't try the same again.
5. A lower ``gen`` of the same hub epoch is ignored, the same wish again changes nothing but its maintenance window, a
   device's wish comes first.
6. A wish that ended badly isn't tried again until the hub asks for an agent anew: a push of something else, under a
   higher ``gen``, that carries the same agent along, is no new question.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from lineside_agent.deployment.desired_state import (
    INTERRUPTIBLE,
    REFUSED_MAX,
    RESTING,
    Broke,
    DesiredStates,
    Done,
    Look,
    LookAgain,
    Wished,
    hear,
    is_same,
    pause_s,
    wish_id,
)
from lineside_agent.deployment.self_update.guard import AgentSlot
from lineside_link.messages import BundleRef, Desired, Problem, State
from lineside_runtime.errors import AgentUpdateError

STARTS_MAX = 3
"""Starts of the old agent that find the same attempt staged or switching. More than that is no coincidence."""

KIND: Literal["agent"] = "agent"
"""The part of a wish that this machine follows."""


class SelfMachine(DesiredStates, frozen=True, kw_only=True):
    """Where the device stands. Unknown fields are kept out of the way: a newer agent may have written them.

    Attributes:
        state: See the module.
        epoch: Of the wish that is being, or was last, answered.
        gen: Of the same wish.
        wanted: Agent of the same wish.
        asked: Generation in which that agent was asked for.
        slot: Where the wanted agent goes.
        running_slot: Which slot this process was started from; ``None`` for an agent that is in no slot.
        installed: What runs; on trial, what ran before.
        installed_slot: Where it is.
        previous: What ran before and is still whole in the other slot.
        error: Why the wanted agent doesn't run.
        attempt: Number of the attempt; outcomes carry it.
        tries: Fetches of this attempt that the link ended.
        starts: Starts that found this attempt staged or switching.
        refused: Wishes that ended badly, as `wish_id` names them; the last few.
    """

    state: State = "idle"
    epoch: int = 0
    gen: int = 0
    wanted: BundleRef | None = None
    asked: int = 0
    slot: AgentSlot | None = None
    running_slot: AgentSlot | None = None
    installed: BundleRef | None = None
    installed_slot: AgentSlot | None = None
    previous: BundleRef | None = None
    error: Problem | None = None
    attempt: int = 0
    tries: int = 0
    starts: int = 0
    refused: tuple[str, ...] = ()

    @property
    def wish_id(self) -> str:
        """Names the wish that is being answered; stands in the guard's trial and verdict."""
        return wish_id(self.epoch, self.asked, self.wanted)


class Started(NamedTuple):
    """An agent has started.

    Attributes:
        slot: Which slot it runs from; ``None`` for none.
        running: What that slot holds.
        on_trial: Whether the guard has it on trial.
        verdict: Why the guard took an agent back.
        verdict_wish: Whose wish that answers, as `SelfMachine.wish_id`.
    """

    slot: AgentSlot | None
    running: BundleRef | None
    on_trial: bool = False
    verdict: str = ""
    verdict_wish: str = ""


SelfEvent = Started | Wished | Done | Broke | Look


class Fetch(NamedTuple):
    """Bring the payload into the slot, after a pause."""

    attempt: int
    agent: BundleRef
    slot: AgentSlot
    pause_s: float = 0.0


class Verify(NamedTuple):
    """Read everything in the slot's payload, and see that it is for this board."""

    attempt: int
    agent: BundleRef
    slot: AgentSlot


class Stage(NamedTuple):
    """Make the slot's environment, and let the new agent look at this device's configuration, state and bundle."""

    attempt: int
    agent: BundleRef
    slot: AgentSlot


class Switch(NamedTuple):
    """Write a trial down, make the slot the current one, and end the process."""

    attempt: int
    slot: AgentSlot
    back: AgentSlot
    wish_id: str


class CheckHealth(NamedTuple):
    """Be healthy for long enough and meet the hub, then end the trial."""

    attempt: int


class Stay(NamedTuple):
    """Make sure that the slot that runs is the current one, with no trial."""

    slot: AgentSlot


SelfAction = Fetch | Verify | Stage | Switch | CheckHealth | Stay | LookAgain
SelfStep = tuple[SelfMachine, tuple[SelfAction, ...]]


def step(machine: SelfMachine, event: SelfEvent) -> SelfStep:
    """Returns the next machine and what is to be done, in order.

    Args:
        machine: Where the device stands.
        event: What happened.
    """
    if isinstance(event, Started):
        return _started(machine, event)
    if isinstance(event, Wished):
        heard, is_news = hear(machine, event.origin, event.desired)
        return _look(heard) if is_news else (heard, ())
    if isinstance(event, Look):
        return _look(machine)
    if event.attempt != machine.attempt or machine.state in RESTING:
        return machine, ()
    return _done(machine) if isinstance(event, Done) else _broke(machine, event)


def _look(machine: SelfMachine) -> SelfStep:
    """Follows the wish that counts, if it is another than the one that is being followed."""
    wish = machine.wish
    if wish is None or machine.state not in (*RESTING, *INTERRUPTIBLE):
        return machine, ()
    if wish.agent is None or is_same(wish.agent, machine.installed):
        return _answer(machine, wish), ()
    if wish_id(wish.epoch, wish.generation_of(KIND), wish.agent) in machine.refused:
        return _refuse_again(machine, wish), ()
    if machine.state in INTERRUPTIBLE and machine.wanted == wish.agent and machine.epoch == wish.epoch:
        return msgspec.structs.replace(machine, gen=wish.gen), ()  # something else was pushed meanwhile
    return _begin(machine, wish)


def _answer(machine: SelfMachine, wish: Desired) -> SelfMachine:
    """The wish needs nothing: it asks for what runs, or to keep what is there."""
    if machine.state in RESTING and (machine.epoch, machine.gen, machine.wanted) == (wish.epoch, wish.gen, wish.agent):
        return machine
    return msgspec.structs.replace(
        machine,
        state="idle" if machine.installed is None else "active",
        epoch=wish.epoch,
        gen=wish.gen,
        wanted=wish.agent,
        slot=None,
        error=None,
        attempt=machine.attempt + 1,
        tries=0,
        starts=0,
    )


def _refuse_again(machine: SelfMachine, wish: Desired) -> SelfMachine:
    """The agent that ended badly came along with something else: it is answered as before."""
    if machine.state in RESTING and (machine.epoch, machine.wanted) == (wish.epoch, wish.agent):
        return msgspec.structs.replace(machine, gen=wish.gen)
    return msgspec.structs.replace(
        machine,
        state="failed",
        epoch=wish.epoch,
        gen=wish.gen,
        wanted=wish.agent,
        asked=wish.generation_of(KIND),
        slot=None,
        error=_problem("this agent ended badly here before"),
        attempt=machine.attempt + 1,
        tries=0,
        starts=0,
    )


def _begin(machine: SelfMachine, wish: Desired) -> SelfStep:
    begun = msgspec.structs.replace(
        machine,
        state="fetching",
        epoch=wish.epoch,
        gen=wish.gen,
        wanted=wish.agent,
        asked=wish.generation_of(KIND),
        slot="b" if machine.running_slot == "a" else "a",
        previous=None,
        error=None,
        attempt=machine.attempt + 1,
        tries=0,
        starts=0,
    )
    if machine.running_slot is None:
        problem = AgentUpdateError(
            "this agent runs from no slot", action="Install it with `lineside agent install-service --payload`."
        )
        return _give_up(begun, Problem(**problem.as_dict()))
    return begun, _act(begun)


def _act(machine: SelfMachine) -> tuple[SelfAction, ...]:
    """The action that belongs to the machine's state."""
    attempt, agent, slot, back = machine.attempt, machine.wanted, machine.slot, machine.running_slot
    if agent is None or slot is None or back is None:
        return ()
    if machine.state == "fetching":
        return (Fetch(attempt, agent, slot, pause_s(machine.tries)),)
    if machine.state == "verifying":
        return (Verify(attempt, agent, slot),)
    if machine.state == "staged":
        return (Stage(attempt, agent, slot),)
    if machine.state == "switching":
        return (Switch(attempt, slot, back, machine.wish_id),)
    return (CheckHealth(attempt),) if machine.state == "health_check" else ()


_NEXT: dict[State, State] = {"fetching": "verifying", "verifying": "staged", "staged": "switching"}


def _done(machine: SelfMachine) -> SelfStep:
    if machine.state == "health_check":
        return _activate(machine), (LookAgain(),)
    if machine.state == "switching":  # the process is about to end; the next start goes on
        return machine, ()
    moved = msgspec.structs.replace(machine, state=_NEXT[machine.state], error=None, tries=0)
    return moved, _act(moved)


def _activate(machine: SelfMachine) -> SelfMachine:
    return msgspec.structs.replace(
        machine,
        state="active",
        installed=machine.wanted,
        installed_slot=machine.slot,
        previous=machine.installed,
        slot=None,
        error=None,
        starts=0,
    )


def _broke(machine: SelfMachine, event: Broke) -> SelfStep:
    if event.transient and machine.state == "fetching":
        waiting = msgspec.structs.replace(machine, error=event.problem, tries=machine.tries + 1)
        return waiting, _act(waiting)
    if machine.state == "health_check":  # the trial can't be ended here: the guard decides
        return msgspec.structs.replace(machine, error=event.problem), ()
    return _give_up(machine, event.problem)


def _give_up(machine: SelfMachine, problem: Problem) -> SelfStep:
    """Stays with what runs. Before the switch nothing but the other slot was touched."""
    switched = machine.state in ("switching", "health_check")
    ended = msgspec.structs.replace(
        machine,
        state="rolled_back" if switched else "failed",
        slot=None,
        error=problem,
        attempt=machine.attempt + 1,
        tries=0,
        starts=0,
        refused=(*machine.refused, machine.wish_id)[-REFUSED_MAX:],
    )
    stay = (Stay(machine.running_slot),) if switched and machine.running_slot is not None else ()
    return ended, (*stay, LookAgain())


def _started(machine: SelfMachine, event: Started) -> SelfStep:
    known = msgspec.structs.replace(machine, running_slot=event.slot, attempt=machine.attempt + 1)
    if known.state in ("switching", "health_check"):
        if event.slot == known.slot:
            return _started_new(known, event)
        return _started_old(known, event)
    present = _present(known, event)
    if present.state == "staged":
        present = msgspec.structs.replace(present, starts=present.starts + 1)
        if present.starts >= STARTS_MAX:
            return _give_up(present, _ended_too_often(present))
    if present.slot is not None and present.slot == present.running_slot:  # started from elsewhere than before
        present = msgspec.structs.replace(present, state="failed", slot=None)
    return present, _act(present) or (LookAgain(),)


def _present(machine: SelfMachine, event: Started) -> SelfMachine:
    """What runs is what is installed, whoever put it there."""
    if is_same(event.running, machine.installed) if event.running else machine.installed is None:
        return msgspec.structs.replace(machine, installed_slot=event.slot)
    state = machine.state
    if state in ("idle", "active"):
        state = "idle" if event.running is None else "active"
    return msgspec.structs.replace(
        machine, state=state, installed=event.running, installed_slot=event.slot, previous=None
    )


def _started_new(machine: SelfMachine, event: Started) -> SelfStep:
    """The new agent runs: on trial, or for good if that ended just before it was killed."""
    trial = msgspec.structs.replace(machine, state="health_check", error=None)
    if event.on_trial:
        return trial, (CheckHealth(trial.attempt),)
    return _activate(trial), (LookAgain(),)


def _started_old(machine: SelfMachine, event: Started) -> SelfStep:
    """The old agent runs: the guard took the new one back, or the switch isn't done."""
    back = msgspec.structs.replace(machine, installed=event.running or machine.installed, installed_slot=event.slot)
    if event.verdict and event.verdict_wish == machine.wish_id:
        return _give_up(back, _problem(f"the new agent was taken back: {event.verdict}"))
    if machine.state == "health_check" or event.slot is None:
        return _give_up(back, _problem("the new agent ran, and the old one was started again by other hands"))
    again = msgspec.structs.replace(back, starts=back.starts + 1)
    if again.starts >= STARTS_MAX:
        return _give_up(again, _ended_too_often(again))
    return again, _act(again)


def _ended_too_often(machine: SelfMachine) -> Problem:
    return _problem(f"the agent ended {machine.starts} times with this update, last in state {machine.state}")


def _problem(message: str) -> Problem:
    return Problem(**AgentUpdateError(message).as_dict())
