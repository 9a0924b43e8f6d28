"""The state machine of a bundle's deployment. Pure; `bundle_runner` does its I/O.

A `BundleMachine` is one frozen value; `step` takes it and an event and returns the next value and the actions to carry
out. The runner writes the value down before it acts, and hands every outcome back as an event, so that a kill at any
point leaves a value from which `Started` goes on.

::

    idle ─► fetching ─► verifying ─► staged ─► switching ─► health_check ─► active
               │            │          │           │             │
               └────────────┴► failed  └───────────┴─────────────┴► rolled_back

Invariants, each held by a test:

1. ``installed`` changes only when a health check ends well, or when what was installed can't be loaded any more.
2. Nothing is ever fetched into the slot that is installed.
3. A lower ``gen`` of the same hub epoch is ignored, and so is a lower epoch.
4. The same wish again changes nothing but its maintenance window.
5. A wish that was rolled back or failed is not tried again: the hub asks for it under a higher ``gen`` for that.
6. A wish for the device comes before one for its group, until it is withdrawn.
7. The outcome of an attempt that a newer wish has replaced is ignored.
8. An agent that ends `MAX_TRIALS` times in the risky states of one attempt goes back to what it ran before.
9. The switch and the health check are finished before a newer wish is looked at.
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
from lineside_link.messages import BundleRef, Desired, Problem, State
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import StagingError

Slot = Literal["a", "b", "factory"]
"""``a`` and ``b`` take turns; ``factory`` is the folder that the configuration names, which is never written."""

RISKY: tuple[State, ...] = ("staged", "switching", "health_check")
"""States in which the new bundle's engine runs inside this process, and could end it."""

MAX_TRIALS = 5
"""More than a power cut, an operator and a watchdog make by chance in the few seconds of one attempt."""


class BundleMachine(DesiredStates, frozen=True, kw_only=True):
    """Where the device stands. Unknown fields are ignored: a newer agent may have written them (`state_file`).

    Attributes:
        state: See the module.
        epoch: Of the wish that is being, or was last, answered.
        gen: Of the same wish.
        wanted: Bundle of the same wish.
        asked: Generation in which that bundle was asked for; 0 in the file of an agent that didn't know.
        slot: Where the wanted bundle goes.
        installed: What runs, or would run if the camera gave frames.
        installed_slot: Where it is.
        previous: What ran before and is still whole in the other slot.
        previous_slot: Where that is.
        error: Why the wanted bundle doesn't run.
        attempt: Number of the attempt; outcomes carry it.
        tries: Fetches of this attempt that the link ended.
        trials: Starts of the agent that found this attempt in a risky state.
        refused: Wishes that were rolled back or failed, as ``epoch/asked/sha256``; the last few.
    """

    state: State = "idle"
    epoch: int = 0
    gen: int = 0
    wanted: BundleRef | None = None
    asked: int = 0
    slot: Slot | None = None
    installed: BundleRef | None = None
    installed_slot: Slot | None = None
    previous: BundleRef | None = None
    previous_slot: Slot | None = None
    error: Problem | None = None
    attempt: int = 0
    tries: int = 0
    trials: int = 0
    refused: tuple[str, ...] = ()


DECODER = JsonDecoder(BundleMachine)
"""Made in the thread that imports this: msgspec 0.22 crashes where two threads decode a class for the first time."""


class Started(NamedTuple):
    """The agent has started.

    Attributes:
        factory: The bundle that the configuration names, if it does.
    """

    factory: BundleRef | None = None


class LoadFailed(NamedTuple):
    """What was installed can't be loaded any more: its disk is damaged, or its engine is gone."""

    slot: Slot
    problem: Problem


Event = Started | Wished | Done | Broke | LoadFailed | Look


class Fetch(NamedTuple):
    """Bring the bundle into the slot, after a pause."""

    attempt: int
    bundle: BundleRef
    slot: Slot
    pause_s: float = 0.0


class Verify(NamedTuple):
    """Read everything in the slot and compare it with the wanted digest."""

    attempt: int
    bundle: BundleRef
    slot: Slot


class Stage(NamedTuple):
    """Load the bundle beside the one that runs, and replay its golden input."""

    attempt: int
    slot: Slot


class Switch(NamedTuple):
    """Make the slot the current one and let the next frame go to it."""

    attempt: int
    slot: Slot


class CheckHealth(NamedTuple):
    """Watch the first real frames."""

    attempt: int


class LoadBundle(NamedTuple):
    """Make the slot the current one and let the next frame go to it; done twice it changes nothing."""

    slot: Slot | None


Action = Fetch | Verify | Stage | Switch | CheckHealth | LoadBundle | LookAgain
Step = tuple[BundleMachine, tuple[Action, ...]]


def step(machine: BundleMachine, event: Event) -> Step:
    """Returns the next machine and what is to be done, in order.

    Args:
        machine: Where the device stands.
        event: What happened.
    """
    if isinstance(event, Started):
        return _started(machine, event.factory)
    if isinstance(event, Wished):
        heard, is_news = hear(machine, event.origin, event.desired)
        return _look(heard) if is_news else (heard, ())
    if isinstance(event, LoadFailed):
        return _load_failed(machine, event.slot, event.problem)
    if isinstance(event, Look):
        return _look(machine)
    if event.attempt != machine.attempt or machine.state in RESTING:
        return machine, ()
    return _done(machine) if isinstance(event, Done) else _broke(machine, event)


def _look(machine: BundleMachine) -> Step:
    """Follows the wish that counts, if it is another than the one that is being followed."""
    wish = machine.wish
    if wish is None or machine.state not in (*RESTING, *INTERRUPTIBLE):
        return machine, ()
    if wish.bundle is None or is_same(wish.bundle, machine.installed):
        return _answer(machine, wish), ()
    name = wish_id(wish.epoch, wish.generation_of("bundle"), wish.bundle)
    if name in machine.refused or (machine.state in INTERRUPTIBLE and _followed(machine, wish)):
        return machine, ()
    return _begin(machine, wish)


def _followed(machine: BundleMachine, wish: Desired) -> bool:
    return (machine.epoch, machine.gen, machine.wanted) == (wish.epoch, wish.gen, wish.bundle)


def _answer(machine: BundleMachine, wish: Desired) -> BundleMachine:
    """The wish needs nothing: it asks for what runs, or to keep what is there."""
    if machine.state in RESTING and _followed(machine, wish):
        return machine
    return msgspec.structs.replace(
        machine,
        state="idle" if machine.installed is None else "active",
        epoch=wish.epoch,
        gen=wish.gen,
        wanted=wish.bundle,
        slot=None,
        error=None,
        attempt=machine.attempt + 1,
        tries=0,
        trials=0,
    )


def _begin(machine: BundleMachine, wish: Desired) -> Step:
    slot = _free_slot(machine)
    overwritten = machine.previous_slot == slot
    begun = msgspec.structs.replace(
        machine,
        state="fetching",
        epoch=wish.epoch,
        gen=wish.gen,
        wanted=wish.bundle,
        asked=wish.generation_of("bundle"),
        slot=slot,
        previous=None if overwritten else machine.previous,
        previous_slot=None if overwritten else machine.previous_slot,
        error=None,
        attempt=machine.attempt + 1,
        tries=0,
        trials=0,
    )
    return begun, _act(begun)


def _free_slot(machine: BundleMachine) -> Slot:
    return "b" if machine.installed_slot == "a" else "a"


def _act(machine: BundleMachine) -> tuple[Action, ...]:
    """The action that belongs to the machine's state."""
    attempt, bundle, slot = machine.attempt, machine.wanted, machine.slot
    if bundle is None or slot is None:
        return ()
    if machine.state == "fetching":
        return (Fetch(attempt, bundle, slot, pause_s(machine.tries)),)
    if machine.state == "verifying":
        return (Verify(attempt, bundle, slot),)
    if machine.state == "staged":
        return (Stage(attempt, slot),)
    if machine.state == "switching":
        return (Switch(attempt, slot),)
    return (CheckHealth(attempt),) if machine.state == "health_check" else ()


_NEXT: dict[State, State] = {
    "fetching": "verifying",
    "verifying": "staged",
    "staged": "switching",
    "switching": "health_check",
}


def _done(machine: BundleMachine) -> Step:
    if machine.state == "health_check":
        return _activate(machine), (LookAgain(),)
    moved = msgspec.structs.replace(machine, state=_NEXT[machine.state], error=None, tries=0)
    return moved, _act(moved)


def _activate(machine: BundleMachine) -> BundleMachine:
    return msgspec.structs.replace(
        machine,
        state="active",
        installed=machine.wanted,
        installed_slot=machine.slot,
        previous=machine.installed,
        previous_slot=machine.installed_slot,
        slot=None,
        error=None,
        trials=0,
    )


def _broke(machine: BundleMachine, event: Broke) -> Step:
    if event.transient and machine.state == "fetching":
        waiting = msgspec.structs.replace(machine, error=event.problem, tries=machine.tries + 1)
        return waiting, _act(waiting)
    return _give_up(machine, event.problem)


def _give_up(machine: BundleMachine, problem: Problem) -> Step:
    """Back to what is installed, which was never touched."""
    back = machine.state in RISKY
    ended = msgspec.structs.replace(
        machine,
        state="rolled_back" if back else "failed",
        slot=None,
        error=problem,
        attempt=machine.attempt + 1,
        tries=0,
        trials=0,
        refused=(*machine.refused, wish_id(machine.epoch, machine.asked or machine.gen, machine.wanted))[-REFUSED_MAX:],
    )
    return ended, ((LoadBundle(machine.installed_slot), LookAgain()) if back else (LookAgain(),))


def _started(machine: BundleMachine, factory: BundleRef | None) -> Step:
    """Goes on after any end of the process: first something that runs, then the wish."""
    known = _with_factory(machine, factory)
    tried = msgspec.structs.replace(known, attempt=known.attempt + 1, trials=known.trials + (known.state in RISKY))
    load = LoadBundle(tried.installed_slot)
    if tried.trials >= MAX_TRIALS:
        problem = StagingError(f"the agent ended {tried.trials} times with this bundle, last in state {tried.state}")
        return _give_up(tried, Problem(**problem.as_dict()))
    if tried.state == "health_check":
        return tried, (LoadBundle(tried.slot), CheckHealth(tried.attempt))
    if tried.state in ("staged", "switching"):
        again = msgspec.structs.replace(tried, state="staged")
        return again, (load, *_act(again))
    return tried, (load, *(_act(tried) or (LookAgain(),)))


def _with_factory(machine: BundleMachine, factory: BundleRef | None) -> BundleMachine:
    """The configuration's bundle stands in where nothing was ever installed."""
    if machine.installed_slot not in (None, "factory"):
        return machine
    state = machine.state
    if state in ("idle", "active"):
        state = "idle" if factory is None else "active"
    slot: Slot | None = None if factory is None else "factory"
    return msgspec.structs.replace(machine, state=state, installed=factory, installed_slot=slot)


def _load_failed(machine: BundleMachine, slot: Slot, problem: Problem) -> Step:
    """What was to run can't: the other slot if it is whole, else nothing until the wish is fetched again."""
    if machine.state == "health_check" and slot == machine.slot:
        return _give_up(machine, problem)
    if slot != machine.installed_slot:
        return machine, ()
    fallen = msgspec.structs.replace(
        machine,
        state="failed" if machine.state in RESTING else machine.state,
        installed=machine.previous,
        installed_slot=machine.previous_slot,
        previous=None,
        previous_slot=None,
        error=problem,
        attempt=machine.attempt + 1,
    )
    if machine.state in RESTING:
        return fallen, (LoadBundle(fallen.installed_slot), LookAgain())
    return _restart(fallen)


def _restart(machine: BundleMachine) -> Step:
    """Begins the attempt again, since its slot may be the one that is now installed."""
    wish = machine.wish
    load = LoadBundle(machine.installed_slot)
    resting = msgspec.structs.replace(machine, state="failed", slot=None)
    if wish is None or wish.bundle is None:
        return resting, (load, LookAgain())
    begun, actions = _look(resting)
    return begun, (load, *actions)
