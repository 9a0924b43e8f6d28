"""The rollout state machine. Pure; `runner` does its I/O.

A `Rollout` is one frozen value; `step` takes it and an event and returns the next value and its actions. The runner
commits value and actions in one transaction, so that a kill at any point leaves both or neither. The answers of the
devices come as one snapshot of the whole group: the machine needs no earlier events.

::

    running ◄──► paused
       │            │
       ├────────────┴──► rolled_back | aborted | superseded
       └──► completed

A rollout passes its stages one by one (a canary, then shares of the group); after the last one the target becomes the
desired state of the whole group. Bundles, configurations and agents are rolled out in the same way.

Invariants, each held by a test:

1. Before the whole group is targeted, no more devices are reached than the stage allows, apart from replaced devices
   that went offline without an answer.
2. A stage ends only after all its connected devices have answered, at least one of them runs the target, and that has
   lasted for ``healthy_for_s``.
3. A device that is offline, slow, or failed under a load that was shed never counts as a failure.
4. A failure share above ``max_failed`` rolls back at once, also while paused, and so does a stage, or a group, in
   which all fail.
5. While paused, no device is targeted and no stage ends.
6. A rollout that has ended never acts again.
7. The same snapshot again at the same time changes nothing.
8. The group's desired state changes only after the last stage and on the way back, and before a device's own is
   withdrawn: no device is without a desired state, or has the old one, in between.
9. When a rollout ends, no device keeps a desired state of it; the same holds for a device that has left the group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from lineside_link.messages import BundleRef, MaintenanceWindow
from lineside_runtime.serving.backoff import Backoff
from lineside_runtime.wording import counted

RolloutState = Literal["running", "paused", "completed", "rolled_back", "aborted", "superseded"]
UNFINISHED: tuple[RolloutState, ...] = ("running", "paused")

Artifact = str
"""The artifact: name of a field of `lineside_link.messages.Desired`, such as ``bundle``."""

DeviceAnswer = Literal["pending", "healthy", "failed", "shed"]

AGAIN_MIN_S, AGAIN_MAX_S = 15.0, 600.0
"""Pauses before a device whose attempt was shed is asked again."""

NAMED_MAX = 3
"""How many failed devices are named with their errors in the reason of a rollout."""


class RolloutStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The devices of a stage: by name, by number, or by share of the group.

    Attributes:
        share: Of the group, above 0 and below 1.
    """

    names: tuple[str, ...] = ()
    count: int = 0
    share: float = 0.0

    def quota(self, members: int) -> int:
        """Returns how many devices have it at the end of the stage."""
        return len(self.names) or self.count or math.ceil(self.share * members)


class RolloutPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Stages and limits of a rollout.

    Attributes:
        stages: Before the whole group; without stages the whole group is first.
        max_failed: Tolerated share of failures; at 1 the hub rolls back only if all devices fail.
        healthy_for_s: How long a stage must be healthy before the next begins.
        window: When devices may activate the target; ``None`` for the plant's window. A roll-back does not wait for it.
    """

    stages: tuple[RolloutStage, ...] = ()
    max_failed: float = 0.1
    healthy_for_s: float = 60.0
    window: MaintenanceWindow | None = None


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Retries of a device whose attempt was shed."""

    tries: int
    at_s: float


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """State of a rollout.

    Attributes:
        id: Stands in each desired state of the rollout.
        before: The group's previous artifact; ``None`` for none.
        created_at_s: Unix time.
        stage: Index of the stage; behind the last one it is the whole group.
        targeted: Devices that were given a desired state of their own, in order.
        retries: Devices whose attempt was shed and repeated.
        settled_at_s: Since when the stage is healthy; ``None`` while it is not.
        reason: Why it ended or waits, for people.
    """

    id: str
    group: str
    kind: Artifact
    target: BundleRef
    before: BundleRef | None = None
    plan: RolloutPlan = RolloutPlan()
    created_at_s: float = 0.0
    state: RolloutState = "running"
    stage: int = -1
    targeted: tuple[str, ...] = msgspec.field(default=(), name="wished")
    retries: dict[str, Retry] = msgspec.field(default_factory=dict, name="again")
    settled_at_s: float | None = None
    reason: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it has not ended."""
        return self.state in UNFINISHED

    @property
    def settled_until_s(self) -> float | None:
        """Until when the stage must be healthy before the next begins, Unix time; ``None`` while it is not healthy."""
        return None if self.settled_at_s is None else self.settled_at_s + self.plan.healthy_for_s

    @property
    def whole_group(self) -> bool:
        """Whether the target is the desired state of the whole group."""
        return self.stage >= len(self.plan.stages)


class GroupView(NamedTuple):
    """State of one member of the group.

    Attributes:
        answer: To the newest desired state of this rollout: ``pending`` until there is one; ``shed`` if
            it failed because something was busy or offline.
        error: Code and message of its failure, for people.
    """

    name: str
    up: bool
    answer: DeviceAnswer = "pending"
    error: str = ""


class RolloutStarted(NamedTuple):
    """The rollout begins."""

    now_s: float
    devices: tuple[GroupView, ...]


class Observed(NamedTuple):
    """A snapshot of the group, without devices that have another desired state of their own."""

    now_s: float
    devices: tuple[GroupView, ...]


class Ordered(NamedTuple):
    """An order of a person or a newer push."""

    order: Literal["pause", "resume", "abort", "supersede"]


Event = RolloutStarted | Observed | Ordered


class SetDevice(NamedTuple):
    """Make the target the desired state of a device, under a new generation."""

    device: str


class SetGroup(NamedTuple):
    """Make the target the desired state of the group, under a new generation."""


class RestoreGroup(NamedTuple):
    """Restore the group's previous desired state, under a new generation."""


class WithdrawDevice(NamedTuple):
    """Withdraw the device's own desired state, so that it follows its group."""

    device: str


Action = SetDevice | SetGroup | RestoreGroup | WithdrawDevice
Step = tuple[Rollout, tuple[Action, ...]]


class AnswerCounts(NamedTuple):
    """The devices that have the target as desired state, by their answers.

    Attributes:
        failed: Refused it, or went back.
    """

    healthy: int
    failed: int
    pending: int
    offline: int
    shed: int

    @property
    def share(self) -> float:
        """Share of failures among the devices that answered or can be reached."""
        reached = self.healthy + self.failed + self.pending + self.shed
        return self.failed / reached if reached else 0.0


def step(rollout: Rollout, event: Event) -> Step:
    """Returns the next value and its actions, in order."""
    if not rollout.unfinished:
        return rollout, ()
    if isinstance(event, Ordered):
        return _ordered(rollout, event)
    if isinstance(event, RolloutStarted):
        return (
            _enter(rollout, 0, {device.name: device for device in event.devices})
            if rollout.stage < 0
            else (rollout, ())
        )
    return _observed(rollout, event.now_s, {device.name: device for device in event.devices})


def count(rollout: Rollout, devices: Iterable[GroupView]) -> AnswerCounts:
    """Counts the answers of the devices that have the target as desired state."""
    reached = [device for device in devices if rollout.whole_group or device.name in rollout.targeted]
    answers = [device.answer for device in reached if device.up or device.answer in ("healthy", "failed")]
    offline = len(reached) - len(answers)
    healthy, failed, pending, shed = (answers.count(kind) for kind in ("healthy", "failed", "pending", "shed"))
    return AnswerCounts(healthy, failed, pending, offline, shed)


def _ordered(rollout: Rollout, event: Ordered) -> Step:
    if event.order == "pause":
        return msgspec.structs.replace(rollout, state="paused", settled_at_s=None), ()
    if event.order == "resume":
        return msgspec.structs.replace(rollout, state="running"), ()
    if event.order == "abort":
        return _go_back(rollout, "aborted", "a person aborted it")
    # The newer push sets the next desired state of the group or its canary.
    return _finish(rollout, "superseded", "a newer push took its place")


def _observed(rollout: Rollout, now_s: float, devices: Mapping[str, GroupView]) -> Step:
    rollout, withdrawals = _without_departed(rollout, devices)
    found = count(rollout, devices.values())
    if (reason := _failure(rollout, found)) is not None:
        ended, actions = _go_back(rollout, "rolled_back", f"{reason}{_failed_devices(rollout, devices)}")
        return ended, (*withdrawals, *actions)
    if rollout.state == "paused":
        return rollout, withdrawals
    rollout, asked = _retry_shed(rollout, now_s, devices)
    rollout, more = _fill(rollout, devices)
    well = not more and not found.pending and not found.shed and _any_healthy(rollout, devices)
    ended, then = _settle(rollout, well, now_s, devices)
    return ended, (*withdrawals, *asked, *more, *then)


def _failure(rollout: Rollout, found: AnswerCounts) -> str | None:
    reached = found.healthy + found.failed + found.pending + found.shed
    if found.share > rollout.plan.max_failed or 0 < found.failed == reached:
        return f"{found.failed} of {counted(reached, 'device')} failed"
    return None


def _failed_devices(rollout: Rollout, devices: Mapping[str, GroupView]) -> str:
    failed = [
        f"{device.name}: {device.error}" if device.error else device.name
        for device in devices.values()
        if device.answer == "failed" and (rollout.whole_group or device.name in rollout.targeted)
    ]
    more = [f"and {len(failed) - NAMED_MAX} more"] if len(failed) > NAMED_MAX else []
    return f": {'; '.join(failed[:NAMED_MAX] + more)}" if failed else ""


def _any_healthy(rollout: Rollout, devices: Mapping[str, GroupView]) -> bool:
    """Whether a connected device is healthy; in the whole group a tolerated failure is an answer too."""
    good: tuple[DeviceAnswer, ...] = ("healthy", "failed") if rollout.whole_group else ("healthy",)
    reached = devices if rollout.whole_group else rollout.targeted
    return any(devices[name].up and devices[name].answer in good for name in reached if name in devices)


def _settle(rollout: Rollout, well: bool, now_s: float, devices: Mapping[str, GroupView]) -> Step:
    since = rollout.settled_at_s
    if not well:
        return (msgspec.structs.replace(rollout, settled_at_s=None), ()) if since is not None else (rollout, ())
    if since is None or since > now_s:  # or the clock was set back
        rollout = msgspec.structs.replace(rollout, settled_at_s=now_s)
        since = now_s
    if now_s - since < rollout.plan.healthy_for_s:
        return rollout, ()
    if rollout.whole_group:
        failed = _failed_devices(rollout, devices)
        found = count(rollout, devices.values())
        answered = counted(found.healthy + found.failed, "device")
        return _finish(rollout, "completed", f"{found.failed} of {answered} failed{failed}" if failed else "")
    return _enter(rollout, rollout.stage + 1, devices)


def _enter(rollout: Rollout, stage: int, devices: Mapping[str, GroupView]) -> Step:
    entered = msgspec.structs.replace(rollout, stage=stage, settled_at_s=None)
    if not entered.whole_group:
        return _fill(entered, devices)
    withdrawals = tuple(WithdrawDevice(device) for device in entered.targeted)
    return msgspec.structs.replace(entered, targeted=(), retries={}), (SetGroup(), *withdrawals)


def _fill(rollout: Rollout, devices: Mapping[str, GroupView]) -> Step:
    """Targets as many devices as the stage allows; one that went offline without an answer is replaced."""
    if rollout.whole_group:
        return rollout, ()
    stage = rollout.plan.stages[rollout.stage]
    if stage.names:
        chosen = [name for name in stage.names if name not in rollout.targeted and name in devices]
    else:
        kept = [devices[name] for name in rollout.targeted]
        reached = sum(device.up or device.answer in ("healthy", "failed") for device in kept)
        free = [device.name for device in devices.values() if device.up and device.name not in rollout.targeted]
        chosen = sorted(free)[: max(0, stage.quota(len(devices)) - reached)]
    if not chosen:
        return rollout, ()
    filled = msgspec.structs.replace(rollout, targeted=(*rollout.targeted, *chosen), settled_at_s=None)
    return filled, tuple(SetDevice(name) for name in chosen)


def _retry_shed(rollout: Rollout, now_s: float, devices: Mapping[str, GroupView]) -> Step:
    """Repeats shed attempts, which are no failures, after growing pauses."""
    retries = dict(rollout.retries)
    actions: list[Action] = []
    for device in devices.values():
        known = retries.get(device.name)
        if device.answer == "shed" and (rollout.whole_group or device.name in rollout.targeted):
            if known is None or not 0 <= now_s - known.at_s < Backoff(AGAIN_MIN_S, AGAIN_MAX_S).after(known.tries):
                retries[device.name] = Retry(tries=known.tries + 1 if known else 1, at_s=now_s)
                actions.append(SetDevice(device.name))
        elif device.answer in ("healthy", "failed") and known is not None:
            del retries[device.name]
            if rollout.whole_group:
                actions.append(WithdrawDevice(device.name))
    if retries == rollout.retries:
        return rollout, ()
    return msgspec.structs.replace(rollout, retries=retries), tuple(actions)


def _without_departed(rollout: Rollout, devices: Mapping[str, GroupView]) -> Step:
    left = [name for name in dict.fromkeys((*rollout.targeted, *rollout.retries)) if name not in devices]
    if not left:
        return rollout, ()
    kept = tuple(name for name in rollout.targeted if name in devices)
    retries = {name: value for name, value in rollout.retries.items() if name in devices}
    withdrawals = tuple(WithdrawDevice(name) for name in left)
    return msgspec.structs.replace(rollout, targeted=kept, retries=retries), withdrawals


def _go_back(rollout: Rollout, state: RolloutState, reason: str) -> Step:
    ended, withdrawals = _finish(rollout, state, reason)
    return ended, ((RestoreGroup(), *withdrawals) if rollout.whole_group else withdrawals)


def _finish(rollout: Rollout, state: RolloutState, reason: str) -> Step:
    withdrawals = tuple(WithdrawDevice(name) for name in dict.fromkeys((*rollout.targeted, *rollout.retries)))
    ended = msgspec.structs.replace(rollout, state=state, targeted=(), retries={}, settled_at_s=None, reason=reason)
    return ended, withdrawals
