"""The state machine of every deployment: of a bundle, a configuration, or the agent. Pure; `runner` does its I/O.

A machine is one frozen value. `step` takes it and one of the `events` and returns the next value and the actions to
carry out. The runner writes the value to disk before it acts, and hands every outcome back as an event, so that after a
kill at any point `Started` goes on from the value on disk.

::

    idle ─► fetching ─► verifying ─► staged ─► switching ─► health_check ─► active
               │            │          │           │             │
               └────────────┴► failed  └───────────┴─────────────┴► rolled_back

What differs between the three kinds of artifact is their `ArtifactRules`. The switch of an agent ends the process: the
guard (`self_update.guard`) counts the starts of the new agent, and the new agent ends its own trial.

Invariants, each held by a test:

1. ``installed`` changes only when a health check ends well, when it can't be loaded any more, or when a start finds
   that something else runs.
2. Nothing is fetched into the slot that is installed or runs.
3. A lower ``gen`` of the same hub epoch is ignored, and so is a lower epoch. The same desired state again changes
   nothing but its maintenance windows.
4. A desired state of the device comes before one of its group, until it is withdrawn. A local one comes before both,
   until the hub desires something new; one that was asked for before that, and comes after it, is ignored.
5. An artifact that was rolled back or failed is tried again only when the hub asks for it anew, under a higher
   ``gen``. A push of something else that carries it along is answered, and changes nothing.
6. The outcome of an attempt that a newer desired state has replaced is ignored.
7. An agent that ends `ArtifactRules.max_starts` times in the risky states of one attempt goes back to what ran before.
8. The switch and the health check are finished before a newer desired state is followed.
9. `FAILED_CHECKS_MAX` failed health checks take an artifact back; one that can't be loaded any more goes back at once.
   For an agent the guard decides, and nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import msgspec

from lineside_agent.deployment.events import (
    Action,
    ArtifactRef,
    CheckHealth,
    DesiredChanged,
    Done,
    Event,
    Failed,
    Fetch,
    LoadFailed,
    Origin,
    Rest,
    Rested,
    Restore,
    StageSlot,
    Started,
    Switch,
    Verify,
)
from lineside_agent.deployment.self_update.guard import AgentSlot
from lineside_link.messages import ARTIFACTS, BundleRef, ConfigRef, Desired, MaintenanceWindow, Problem, State
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AgentUpdateError, LinesideError, StagingError
from lineside_runtime.serving.backoff import Backoff

Slot = Literal["a", "b", "factory"]
"""Of a bundle: ``a`` and ``b`` take turns; ``factory``, the folder that ``agent.toml`` names, is never written."""

FACTORY: Slot = "factory"

RESTING: tuple[State, ...] = ("idle", "active", "rolled_back", "failed")
INTERRUPTIBLE: tuple[State, ...] = ("fetching", "verifying", "staged")
RISKY: tuple[State, ...] = ("staged", "switching", "health_check")
"""States in which the new artifact may end this process."""

FAILED_CHECKS_MAX = 1
"""Failed health checks of one attempt after which what ran before runs again."""

REFUSED_MAX = 16
"""Attempts that ended badly whose names are kept."""


class ArtifactRules(NamedTuple):
    """How one kind of artifact differs from the others.

    Attributes:
        part: Its field in `Desired`.
        switch: What a switch does: a ``lasting`` one outlives a restart, a ``volatile`` one doesn't until the artifact
            is installed, and ``restart`` ends the process, to be started as the new agent.
        max_starts: Starts that may find one attempt in a risky state; the last one gives it up.
        rolls_back: States in which a failure is a roll back, because what runs may have been touched.
        error: Class of the machine's own errors.
    """

    part: Literal["bundle", "config", "agent"]
    switch: Literal["lasting", "volatile", "restart"]
    max_starts: int
    rolls_back: tuple[State, ...] = RISKY
    error: type[LinesideError] = StagingError


R = TypeVar("R", bound=ArtifactRef)


class DeploymentMachine(msgspec.Struct, Generic[R], frozen=True, kw_only=True):
    """Where one deployment stands. Unknown fields are ignored: a newer agent may have written them (`state_file`).

    Attributes:
        local_desired: What a person at the device asked for since the hub's newest desired state.
        epoch: Of the desired state that is being, or was last, answered.
        wanted: Artifact of the same desired state.
        asked: Generation in which that artifact was asked for; 0 in the file of an agent that didn't know.
        slot: Where the wanted artifact goes.
        installed: What runs; during the trial of an agent, what ran before.
        previous: What ran before and is still whole.
        error: Why the wanted artifact doesn't run.
        attempt: Number of the attempt; outcomes carry it.
        tries: Fetches of this attempt that the link ended.
        trials: Starts that found this attempt in a risky state.
        refused: Attempts that ended badly, as ``epoch/asked/sha256``; the last few.
    """

    rules: ClassVar[ArtifactRules]

    device_desired: Desired | None = msgspec.field(default=None, name="device_wish")
    group_desired: Desired | None = msgspec.field(default=None, name="group_wish")
    local_desired: Desired | None = None
    state: State = "idle"
    epoch: int = 0
    gen: int = 0
    wanted: R | None = None
    asked: int = 0
    slot: str | None = None
    installed: R | None = None
    installed_slot: str | None = None
    previous: R | None = None
    previous_slot: str | None = None
    error: Problem | None = None
    attempt: int = 0
    tries: int = 0
    trials: int = 0
    failed_checks: int = 0
    refused: tuple[str, ...] = ()

    @property
    def desired(self) -> Desired | None:
        """The desired state that counts: a local one, then the hub's."""
        return self.hub_desired if self.local_desired is None else self.local_desired

    @property
    def hub_desired(self) -> Desired | None:
        """The hub's desired state that counts: the device's own, unless it was withdrawn, before its group's."""
        own = self.device_desired
        return own if own is not None and not own.withdrawn else self.group_desired

    @property
    def window(self) -> MaintenanceWindow | None:
        """When the artifact may become active; ``None`` for at once.

        What a withdrawal gives the device again has the window of the withdrawal: the one with which the group was
        given it has no meaning for a roll-back.
        """
        desired, own, part = self.desired, self.device_desired, self.rules.part
        if desired is None:
            return None
        if own is not None and own.withdrawn and desired == self.group_desired:
            is_return = generation(own) > (desired.epoch, desired.generation_of(part))
            return (own if is_return else desired).window_of(part)
        return desired.window_of(part)

    @property
    def attempt_id(self) -> str:
        """Names what is being tried, over restarts; stands in ``refused``, and in the guard's trial and verdict."""
        return _attempt_id(self.epoch, self.asked or self.gen, self.wanted)


class BundleMachine(DeploymentMachine[BundleRef], frozen=True, kw_only=True):
    """Of the bundle; written to ``update.json``."""

    rules: ClassVar[ArtifactRules] = ArtifactRules("bundle", "lasting", max_starts=5)

    slot: Slot | None = None
    installed_slot: Slot | None = None
    previous_slot: Slot | None = None


class AgentMachine(DeploymentMachine[BundleRef], frozen=True, kw_only=True):
    """Of the agent itself; written to ``agent-update.json``. Its slots are the guard's."""

    rules: ClassVar[ArtifactRules] = ArtifactRules(
        "agent", "restart", max_starts=3, rolls_back=("switching", "health_check"), error=AgentUpdateError
    )

    slot: AgentSlot | None = None
    installed_slot: AgentSlot | None = None
    previous_slot: AgentSlot | None = None
    trials: int = msgspec.field(default=0, name="starts")


class ConfigurationMachine(DeploymentMachine[ConfigRef], frozen=True, kw_only=True):
    """Of the configuration; written to ``configuration/state.json``. A slot is the file that is named by the hash."""

    rules: ClassVar[ArtifactRules] = ArtifactRules("config", "volatile", max_starts=3)


BUNDLE_DECODER = JsonDecoder(BundleMachine)  # made here: msgspec 0.22 crashes where two threads decode a class first

M = TypeVar("M", bound=DeploymentMachine[Any])


def step(machine: M, event: Event) -> tuple[M, tuple[Action, ...]]:
    """Returns the next machine and what is to be done, in order."""
    if isinstance(event, Started):
        return _started(machine, event)
    if isinstance(event, DesiredChanged):
        if event.origin == "local" and not _is_local_request(machine, event.desired):
            return machine, ()
        kept = _keep_desired(machine, event)
        return _follow(kept) if kept.desired != machine.desired and _is_news(machine, event) else (kept, ())
    if isinstance(event, LoadFailed):
        return _load_failed(machine, event)
    if isinstance(event, Rested):
        return _follow(machine)
    if event.attempt != machine.attempt or machine.state in RESTING:
        return machine, ()
    return _done(machine) if isinstance(event, Done) else _failed(machine, event)


def why_ignored(machine: DeploymentMachine[Any], event: DesiredChanged) -> str:
    """Returns why a desired state changes nothing for good; empty if it may, or is the one that is known."""
    desired, known = event.desired, _known(machine, event.origin)
    if desired is None:
        return ""
    if event.origin == "local":
        asked, now = generation(desired), generation(machine.hub_desired)
        before, since = f"{asked[0]}/{asked[1]}", f"{now[0]}/{now[1]}"
        return "" if asked == now else f"it was asked for at the device under {before}; the hub desires {since} since"
    if known is not None and (desired.epoch, desired.gen) < (known.epoch, known.gen):
        older, newer = f"{desired.epoch}/{desired.gen}", f"{known.epoch}/{known.gen}"
        return f"desired state {older} is older than {newer}, which this device knows"
    own = machine.device_desired
    if event.origin == "group" and own is not None and not own.withdrawn and not _asks_for_same(desired, own):
        return f"desired state {desired.gen} is of the group, and the device has its own, {own.gen}"
    return ""


def _asks_for_same(desired: Desired, own: Desired) -> bool:
    """Whether nothing is lost: at the end of a rollout the group is given what its canary has, and then has alone."""
    return all(getattr(desired, part) == getattr(own, part) for part in ARTIFACTS)


def _is_local_request(machine: DeploymentMachine[Any], desired: Desired | None) -> bool:
    """Whether a person asked for this kind of artifact, and the hub has desired nothing new since."""
    asks = getattr(desired, machine.rules.part, None) is not None
    return asks and generation(desired) == generation(machine.hub_desired)


def generation(desired: Desired | None) -> tuple[int, int]:
    """Returns epoch and ``gen`` of a desired state, by which later ones are greater; zeros for none."""
    return (0, 0) if desired is None else (desired.epoch, desired.gen)


def _known(machine: DeploymentMachine[Any], origin: Origin) -> Desired | None:
    known: Desired | None = getattr(machine, f"{origin}_desired")
    return known


def _is_news(machine: DeploymentMachine[Any], event: DesiredChanged) -> bool:
    """Whether it is none that is known, or older."""
    known = _known(machine, event.origin)
    if event.desired is None or known is None or event.origin == "local":
        return event.desired is not known
    return (event.desired.epoch, event.desired.gen) > (known.epoch, known.gen)


def _keep_desired(machine: M, event: DesiredChanged) -> M:
    """Keeps the desired state; the same one again may bring other maintenance windows and no more."""
    field, known, desired = f"{event.origin}_desired", _known(machine, event.origin), event.desired
    if _is_news(machine, event):
        kept = msgspec.structs.replace(machine, **{field: desired})
        return kept if kept.hub_desired == machine.hub_desired else msgspec.structs.replace(kept, local_desired=None)
    if known is None or desired is None or (known.epoch, known.gen) != (desired.epoch, desired.gen):
        return machine
    moved = msgspec.structs.replace(known, window=desired.window, windows=desired.windows)
    return msgspec.structs.replace(machine, **{field: moved})


def _follow(machine: M) -> tuple[M, tuple[Action, ...]]:
    """Follows the desired state that counts, if it asks for something else than is being followed."""
    desired = machine.desired
    if desired is None or machine.state not in (*RESTING, *INTERRUPTIBLE):
        return machine, ()
    wanted: ArtifactRef | None = getattr(desired, part := machine.rules.part)
    if wanted is None or _is_same(wanted, machine.installed):
        return _answer(machine, desired, wanted), ()
    if _attempt_id(desired.epoch, desired.generation_of(part) or desired.gen, wanted) in machine.refused:
        return _refuse_again(machine, desired, wanted), ()
    if machine.state in INTERRUPTIBLE and (machine.epoch, machine.wanted) == (desired.epoch, wanted):
        return msgspec.structs.replace(machine, gen=desired.gen), ()  # something else was pushed meanwhile
    return _begin(machine, desired, wanted)


def _answer(machine: M, desired: Desired, wanted: ArtifactRef | None) -> M:
    """The desired state needs nothing: it asks for what runs, or to keep what is there."""
    if machine.state in RESTING and (machine.epoch, machine.gen, machine.wanted) == (
        desired.epoch,
        desired.gen,
        wanted,
    ):
        return machine
    return _take(machine, desired, wanted, state=_settled(machine.installed), slot=None, asked=machine.asked)


def _refuse_again(machine: M, desired: Desired, wanted: ArtifactRef) -> M:
    """What ended badly came along with something else: it is answered as before."""
    if machine.state in RESTING and (machine.epoch, machine.wanted) == (desired.epoch, wanted):
        return msgspec.structs.replace(machine, gen=desired.gen)
    error = _problem(machine, f"this {machine.rules.part} ended badly here before")
    return _take(machine, desired, wanted, state="failed", slot=None, error=error)


def _begin(machine: M, desired: Desired, wanted: ArtifactRef) -> tuple[M, tuple[Action, ...]]:
    slot = _free_slot(machine, wanted)
    previous, previous_slot = machine.previous, machine.previous_slot
    if previous_slot in (None, slot):  # it is overwritten
        previous, previous_slot = None, None
    begun = _take(machine, desired, wanted, state="fetching", slot=slot, previous=previous, previous_slot=previous_slot)
    if machine.rules.switch == "restart" and machine.installed_slot is None:
        error = AgentUpdateError(
            "this agent runs from no slot", action="Install it with `lineside agent install-service --payload`."
        )
        return _give_up(begun, Problem(**error.as_dict()))
    return begun, _act(begun)


def _take(machine: M, desired: Desired, wanted: ArtifactRef | None, **changes: Any) -> M:
    """Begins another attempt, or answers without one."""
    part = machine.rules.part
    fresh = {"epoch": desired.epoch, "gen": desired.gen, "wanted": wanted, "asked": desired.generation_of(part)}
    return msgspec.structs.replace(machine, **(fresh | {"error": None} | _next_attempt(machine) | changes))


def _next_attempt(machine: DeploymentMachine[Any]) -> dict[str, int]:
    return {"attempt": machine.attempt + 1, "tries": 0, "trials": 0, "failed_checks": 0}


def _free_slot(machine: DeploymentMachine[Any], wanted: ArtifactRef) -> str:
    if isinstance(wanted, ConfigRef):
        return wanted.sha256
    return "b" if machine.installed_slot == "a" else "a"


def _act(machine: DeploymentMachine[Any]) -> tuple[Action, ...]:
    attempt, wanted, slot = machine.attempt, machine.wanted, machine.slot
    if wanted is None or slot is None:
        return ()
    actions: dict[State, Action] = {
        "fetching": Fetch(attempt, wanted, slot, pause_s(machine.tries)),
        "verifying": Verify(attempt, wanted, slot),
        "staged": StageSlot(attempt, wanted, slot),
        "switching": Switch(attempt, slot),
        "health_check": CheckHealth(attempt),
    }
    return (actions[machine.state],) if machine.state in actions else ()


_NEXT: dict[State, State] = {
    "fetching": "verifying",
    "verifying": "staged",
    "staged": "switching",
    "switching": "health_check",
}


def _done(machine: M) -> tuple[M, tuple[Action, ...]]:
    if machine.state == "health_check":
        return _activate(machine), (Rest(),)
    if machine.state == "switching" and machine.rules.switch == "restart":
        return machine, ()  # the process is about to end; the next start goes on
    moved = msgspec.structs.replace(machine, state=_NEXT[machine.state], error=None, tries=0)
    return moved, _act(moved)


def _activate(machine: M) -> M:
    ended = {"slot": None, "error": None, "trials": 0, "failed_checks": 0}
    installed = {"installed": machine.wanted, "installed_slot": machine.slot}
    previous = {"previous": machine.installed, "previous_slot": machine.installed_slot}
    return msgspec.structs.replace(machine, state="active", **ended, **installed, **previous)


def _failed(machine: M, event: Failed) -> tuple[M, tuple[Action, ...]]:
    if event.transient and machine.state == "fetching":
        waiting = msgspec.structs.replace(machine, error=event.problem, tries=machine.tries + 1)
        return waiting, _act(waiting)
    if machine.state == "health_check" and not (event.unwritten and machine.rules.switch != "restart"):
        return _check_failed(machine, event.problem)
    return _give_up(machine, event.problem)


def _check_failed(machine: M, problem: Problem) -> tuple[M, tuple[Action, ...]]:
    if machine.rules.switch == "restart":  # the trial can't be ended here: the guard decides
        return msgspec.structs.replace(machine, error=problem), ()
    counted = msgspec.structs.replace(machine, failed_checks=machine.failed_checks + 1, error=problem)
    if counted.failed_checks < FAILED_CHECKS_MAX:
        return counted, _act(counted)
    return _give_up(counted, problem)


def _give_up(machine: M, problem: Problem) -> tuple[M, tuple[Action, ...]]:
    """Goes back to what is installed, which was never written to."""
    back = machine.state in machine.rules.rolls_back
    ended = msgspec.structs.replace(
        machine,
        state="rolled_back" if back else "failed",
        slot=None,
        error=problem,
        refused=(*machine.refused, machine.attempt_id)[-REFUSED_MAX:],
        **_next_attempt(machine),
    )
    return ended, ((Restore(machine.installed_slot), Rest()) if back else (Rest(),))


def _started(machine: M, event: Started) -> tuple[M, tuple[Action, ...]]:
    """Goes on after any end of the process: first something that runs, then the desired state."""
    known = msgspec.structs.replace(machine, attempt=machine.attempt + 1)
    switch = machine.rules.switch
    if switch == "restart" and known.state in ("switching", "health_check"):
        return _started_new(known, event) if event.slot == known.slot else _started_old(known, event)
    tried = _with_running(known, event)
    if tried.state in RISKY:
        tried = msgspec.structs.replace(tried, trials=tried.trials + 1)
        if tried.trials >= machine.rules.max_starts:
            return _give_up(tried, _ended_too_often(tried))
    if tried.slot is not None and tried.slot == tried.installed_slot:  # started from elsewhere than before
        tried = msgspec.structs.replace(tried, state="failed", slot=None)
    restore = () if switch == "restart" else (Restore(tried.installed_slot),)
    if tried.state == "health_check" and switch == "lasting":
        return tried, (Restore(tried.slot), *_act(tried))
    if tried.state in RISKY:
        tried = msgspec.structs.replace(tried, state="staged")
    return tried, (*restore, *(_act(tried) or (Rest(),)))


def _with_running(machine: M, event: Started) -> M:
    """What was found in place is what is installed, whoever put it there; ``factory`` only while nothing else was."""
    if machine.rules.switch != "restart" and machine.installed_slot not in (None, FACTORY):
        return machine
    if (event.running is None and machine.installed is None) or _is_same(event.running, machine.installed):
        return msgspec.structs.replace(machine, installed_slot=event.slot)
    state = _settled(event.running) if machine.state in ("idle", "active") else machine.state
    return msgspec.structs.replace(
        machine, state=state, installed=event.running, installed_slot=event.slot, previous=None, previous_slot=None
    )


def _started_new(machine: M, event: Started) -> tuple[M, tuple[Action, ...]]:
    """The new agent runs: on trial, or for good if that ended just before it was killed."""
    trial = msgspec.structs.replace(machine, state="health_check", error=None)
    return (trial, _act(trial)) if event.on_trial else (_activate(trial), (Rest(),))


def _started_old(machine: M, event: Started) -> tuple[M, tuple[Action, ...]]:
    """The old agent runs: the guard took the new one back, or the switch isn't done."""
    back = msgspec.structs.replace(machine, installed=event.running or machine.installed, installed_slot=event.slot)
    if event.verdict and event.verdict_on == machine.attempt_id:
        return _give_up(back, _problem(machine, f"the new agent was taken back: {event.verdict}"))
    if machine.state == "health_check" or event.slot is None:
        return _give_up(back, _problem(machine, "the new agent ran, and the old one was started again by other hands"))
    again = msgspec.structs.replace(back, trials=back.trials + 1)
    if again.trials >= machine.rules.max_starts:
        return _give_up(again, _ended_too_often(again))
    return again, _act(again)


def _load_failed(machine: M, event: LoadFailed) -> tuple[M, tuple[Action, ...]]:
    """What was to run can't: what ran before if it is whole, else nothing until the desired state is fetched again."""
    if machine.state == "health_check" and event.slot == machine.slot:
        return _give_up(machine, event.problem)
    if event.slot != machine.installed_slot:
        return machine, ()
    fallen = msgspec.structs.replace(
        machine,
        state="failed" if machine.state in RESTING else machine.state,
        installed=machine.previous,
        installed_slot=machine.previous_slot,
        previous=None,
        previous_slot=None,
        error=event.problem,
        attempt=machine.attempt + 1,
    )
    restore = Restore(fallen.installed_slot)
    if machine.state in RESTING:
        return fallen, (restore, Rest())
    # The attempt begins again, since its slot may be the one that is now installed.
    resting = msgspec.structs.replace(fallen, state="failed", slot=None)
    if resting.desired is None or getattr(resting.desired, machine.rules.part) is None:
        return resting, (restore, Rest())
    begun, actions = _follow(resting)
    return begun, (restore, *actions)


def pause_s(tries: int) -> float:
    """Returns how long to wait before the next fetch: 1 s, doubled each time, at most a minute."""
    return Backoff(1.0, 60.0).after(tries) if tries else 0.0


def _settled(installed: ArtifactRef | None) -> State:
    return "idle" if installed is None else "active"


def _is_same(one: ArtifactRef | None, other: ArtifactRef | None) -> bool:
    return one is not None and other is not None and one.sha256 == other.sha256


def _attempt_id(epoch: int, asked: int, wanted: ArtifactRef | None) -> str:
    return f"{epoch}/{asked}/{wanted.sha256 if wanted else ''}"


def _ended_too_often(machine: DeploymentMachine[Any]) -> Problem:
    tried = f"{machine.trials} times with this {machine.rules.part}"
    return _problem(machine, f"the agent ended {tried}, last in state {machine.state}")


def _problem(machine: DeploymentMachine[Any], message: str) -> Problem:
    return Problem(**machine.rules.error(message).as_dict())
