"""The I/O of rollouts: reads reported states from the database, stores desired states in it.

A step's value and its desired states are one transaction, so a kill of the hub at any point leaves both or neither.
The hub's process (`lineside_hub.server`) publishes what is stored; nothing here uses the link.

A device's answer is its newest report, if that is of a generation at least as high as its desired state. An attempt
that failed because the hub, the broker or an engine was busy or offline (`SHED`) was shed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.rollouts import machine
from lineside_hub.rollouts.machine import Artifact, DeviceAnswer, GroupView, Ordered, Rollout, RolloutPlan, RolloutStage
from lineside_link.maintenance_window import check_window
from lineside_link.messages import (
    ARTIFACTS,
    AgentReport,
    BundleRef,
    ConfigRef,
    ConfigReport,
    Desired,
    MaintenanceWindow,
    Problem,
    Reported,
    decode,
)
from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import (
    BrokerError,
    DeviceBusyError,
    FetchError,
    OverloadedError,
    RolloutError,
)

_log = logging.getLogger("lineside.hub.rollout")

SHED = frozenset(kind.code for kind in (DeviceBusyError, OverloadedError, BrokerError, FetchError))
"""Error codes of attempts that failed because something was busy or offline."""

HEALTHY_MAX_S = 366 * 86_400.0
"""Longest time of a stage: the date of its end must be one that can be shown."""

_ROLLOUT = JsonDecoder(Rollout)

CONFIG: Artifact = "config"


def as_target(ref: BundleRef | ConfigRef) -> BundleRef:
    """Returns an artifact as target of a rollout; a configuration is named by the first digits of its hash."""
    if isinstance(ref, BundleRef):
        return ref
    return BundleRef(name=CONFIG, version=ref.sha256[:12], target=ref.target, sha256=ref.sha256)


def _as_part(kind: Artifact, ref: BundleRef | None) -> BundleRef | ConfigRef | None:
    """Returns what stands in a desired state for a target."""
    return ConfigRef(target=ref.target, sha256=ref.sha256) if ref is not None and kind == CONFIG else ref


def plan_for(
    members: int,
    *,
    canary: int | tuple[str, ...] | None = None,
    phases: Sequence[float] = (),
    max_failed: float | None = None,
    healthy_for_s: float | None = None,
    window: MaintenanceWindow | None = None,
) -> RolloutPlan:
    """Returns a plan, with defaults that suit the size of the group.

    A group of one device gets the target at once and relies on the device's own roll-back. A larger group gets it on
    one device first. The options are those of `lineside_hub.rollouts.push.PlanOptions`.

    Raises:
        RolloutError: The shares do not rise to 1, or a figure is out of range.
        ConfigError: The window is no good.
    """
    if phases and (list(phases) != sorted(set(phases)) or not phases[0] > 0 or phases[-1] != 1):
        raise RolloutError("phases", expected="rising shares that end with 100%", actual=str(list(phases)))
    if max_failed is not None and not 0 <= max_failed <= 1:
        raise RolloutError("max_failed", expected="0 to 1", actual=max_failed)
    if healthy_for_s is not None and not 0 <= healthy_for_s <= HEALTHY_MAX_S:
        raise RolloutError("healthy_for_s", expected=f"0 to {HEALTHY_MAX_S:g}, 366 days", actual=healthy_for_s)
    if canary == ():
        raise RolloutError("canary", expected="a number, or names of devices", actual="no name")
    if window is not None:
        check_window(window)
    first = canary if canary is not None else (1 if members > 1 and not phases else 0)
    stages = [RolloutStage(names=first)] if isinstance(first, tuple) else [RolloutStage(count=first)] if first else []
    stages += [RolloutStage(share=share) for share in phases[:-1]]
    bar = max_failed if max_failed is not None else (0.1 if stages or members > 1 else 1.0)
    return RolloutPlan(
        stages=tuple(stages),
        max_failed=bar,
        healthy_for_s=60.0 if healthy_for_s is None else healthy_for_s,
        window=window,
    )


class Rollouts:
    """The rollouts of one hub."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, group: str, *, target: BundleRef, plan: RolloutPlan, kind: Artifact = "bundle") -> Rollout:
        """Begins a rollout and takes its first step; an unfinished one of the same kind is superseded.

        Raises:
            RolloutError: The plan names a device that is not in the group, or a rollout of another kind is in its
                first stages.
        """
        now_s = time.time()
        with self._database.transaction():
            before = self._take_over(group, kind)
            self._check_names(group, plan)
            number = int(self._database.query("SELECT count(*) FROM rollouts")[0][0]) + 1
            begun = Rollout(
                id=f"{group}-{number}",
                group=group,
                kind=kind,
                target=target,
                before=before,
                plan=plan,
                created_at_s=now_s,
            )
            return self._step(None, begun, machine.RolloutStarted(now_s, self.snapshot(begun)))

    def tick(self, now_s: float) -> bool:
        """Steps each unfinished rollout with a snapshot of its group; returns whether anything changed.

        Args:
            now_s: Unix time.
        """
        changed = False
        for known in self.list(unfinished=True):
            if machine.step(known, machine.Observed(now_s, self.snapshot(known))) == (known, ()):
                continue
            with self._database.transaction():
                fresh = self.get(known.id)  # under the lock: there may be a new order
                after = self._step(fresh, fresh, machine.Observed(now_s, self.snapshot(fresh)))
            changed = changed or after != known
        return changed

    def order(self, rollout_id: str, order: Literal["pause", "resume", "abort"]) -> Rollout:
        """Executes a person's order.

        Raises:
            RolloutError: There is no such rollout, or it has ended.
        """
        with self._database.transaction():
            known = self.get(rollout_id)
            if not known.unfinished:
                raise RolloutError(
                    f"rollout {rollout_id} has ended", expected="one that runs or is paused", actual=known.state
                )
            return self._step(known, known, Ordered(order))

    def get(self, rollout_id: str) -> Rollout:
        """Returns a rollout.

        Raises:
            RolloutError: There is none of this name.
        """
        rows = self._database.query("SELECT value FROM rollouts WHERE id = ?", rollout_id)
        if not rows:
            raise RolloutError(f"no rollout {rollout_id!r}", action="`lineside fleet rollout ls` lists them.")
        return _ROLLOUT.decode(rows[0]["value"])

    def list(self, *, unfinished: bool = False, group: str | None = None) -> list[Rollout]:
        """Returns the rollouts, oldest first.

        Args:
            unfinished: Only those that may still act.
        """
        rows = self._database.query(
            "SELECT value FROM rollouts WHERE (?1 IS NULL OR group_name = ?1) "
            "AND (NOT ?2 OR state IN ('running', 'paused')) ORDER BY created_at_ns, id",
            group,
            unfinished,
        )
        return [_ROLLOUT.decode(row["value"]) for row in rows]

    def rolled_back(self, group: str) -> tuple[Rollout, ...]:
        """Returns the newest rollout of each kind to a group, if the hub rolled it back."""
        rows = self._database.query(
            "SELECT value FROM rollouts r WHERE group_name = ?1 AND state = 'rolled_back' AND created_at_ns = "
            "(SELECT max(created_at_ns) FROM rollouts WHERE group_name = ?1 AND kind = r.kind) ORDER BY kind",
            group,
        )
        return tuple(_ROLLOUT.decode(row["value"]) for row in rows)

    def snapshot(self, rollout: Rollout) -> tuple[GroupView, ...]:
        """Returns the answers of the group's members to this rollout, without those that have another desired state."""
        states = self._database.desired_states()
        views = []
        for row in self._database.query(
            "SELECT d.device, d.up, d.reported FROM devices d LEFT JOIN assignments a ON a.device = d.device "
            "WHERE coalesce(a.group_name, d.group_name) = ? ORDER BY d.device",
            rollout.group,
        ):
            own = states.get(f"d/{row['device']}")
            if own is not None and own.withdrawn:
                own = None
            if own is not None and own.pushed_by(rollout.kind) != rollout.id:
                continue
            asked = own or states.get(f"g/{rollout.group}")
            views.append(GroupView(row["device"], bool(row["up"]), *_answer(row["reported"], asked, rollout)))
        return tuple(views)

    # Inside a transaction.

    def _take_over(self, group: str, kind: Artifact) -> BundleRef | None:
        """Supersedes a running rollout; returns the group's artifact before it."""
        desired = self._database.desired_state(f"g/{group}")
        part: BundleRef | ConfigRef | None = getattr(desired, kind) if desired is not None else None
        before = as_target(part) if part is not None else None
        for known in self.list(unfinished=True, group=group):
            if known.kind == kind:
                self._step(known, known, Ordered("supersede"))
                if known.whole_group:
                    before = known.before
            elif not known.whole_group:
                raise RolloutError(
                    f"{known.id} rolls out another {known.kind} to {group!r}",
                    action=f"Wait for it, or abort it: lineside fleet rollout abort {known.id}",
                )
        return before

    def _check_names(self, group: str, plan: RolloutPlan) -> None:
        named = {name for stage in plan.stages for name in stage.names}
        known = set(members(self._database, group))
        if missing := sorted(named - known):
            raise RolloutError(
                f"not in group {group!r}: {', '.join(missing)}",
                expected=", ".join(sorted(known)) or "a device that has reported itself",
                action="`lineside fleet ls` lists the devices and their groups.",
            )

    def _step(self, before: Rollout | None, rollout: Rollout, event: machine.Event) -> Rollout:
        after, actions = machine.step(rollout, event)
        if after.state in ("rolled_back", "aborted") and rollout.unfinished:
            after = self._with_remaining(rollout, after)
        if after == before and not actions:
            return after
        self._save(after)
        for action in actions:
            self._carry_out(after, action)
        if before is None or (before.state, before.stage) != (after.state, after.stage):
            self._add_event(after)
        return after

    def _with_remaining(self, before: Rollout, ended: Rollout) -> Rollout:
        """Names devices that keep the target because the group had no artifact before."""
        if ended.before is not None:
            return ended
        remaining = [view.name for view in self.snapshot(before) if view.answer == "healthy"]
        if not remaining:
            return ended
        shown = ", ".join(remaining[:20]) + (f" and {len(remaining) - 20} more" if len(remaining) > 20 else "")
        why = f"{shown} stay with {ended.target.identity}: the hub knows of no {ended.kind} that the group had before"
        return msgspec.structs.replace(ended, reason=f"{ended.reason}; {why}")

    def _save(self, rollout: Rollout) -> None:
        now_ns, created_ns = time.time_ns(), int(rollout.created_at_s * 1e9)
        row = (rollout.id, rollout.group, rollout.kind, rollout.state, created_ns, now_ns)
        self._database.connection.execute(
            "INSERT OR REPLACE INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, msgspec.json.encode(rollout).decode()),
        )

    def _carry_out(self, rollout: Rollout, action: machine.Action) -> None:
        group_desired = self._database.desired_state(f"g/{rollout.group}") or Desired(epoch=0, gen=0)
        if isinstance(action, machine.SetGroup | machine.RestoreGroup):
            given = rollout.target if isinstance(action, machine.SetGroup) else rollout.before
            window = rollout.plan.window if isinstance(action, machine.SetGroup) else None
            desired = self._with_part(group_desired, rollout, given, window)
            scope = f"g/{rollout.group}"
            stored = self._database.add_desired(scope, desired, rollout=rollout.id, artifact=rollout.kind)
            self._bring_to_other_targets(rollout, stored)
            return
        scope = f"d/{action.device}"
        own = self._database.desired_state(scope)
        if isinstance(action, machine.SetDevice):
            if own is None or own.withdrawn or own.rollout == rollout.id:
                desired = self._with_part(group_desired, rollout, rollout.target, rollout.plan.window)
                self._database.add_desired(scope, desired, rollout=rollout.id, artifact=rollout.kind)
        elif own is not None and own.rollout == rollout.id and not own.withdrawn:
            is_back = rollout.state in ("rolled_back", "aborted")
            windows = own.windows | ({rollout.kind: None} if is_back else {})
            withdrawn = msgspec.structs.replace(own, withdrawn=True, windows=windows)
            self._database.add_desired(scope, withdrawn, rollout=rollout.id, changed=rollout.kind)

    def _bring_to_other_targets(self, rollout: Rollout, group_desired: Desired) -> None:
        """Gives the group's new artifact to the devices that have a desired state of another rollout, too.

        What the other rollout gave them they keep, and are not asked for it anew.
        """
        for other in self.list(unfinished=True, group=rollout.group):
            for name in dict.fromkeys((*other.targeted, *other.retries)):
                own = self._database.desired_state(f"d/{name}")
                if own is None or own.withdrawn or other.id == rollout.id or own.rollout != other.id:
                    continue
                desired = self._with_part(group_desired, other, other.target, other.plan.window)
                gens = desired.gens | {other.kind: own.generation_of(other.kind)}
                desired = msgspec.structs.replace(desired, gens=gens, pushes=desired.pushes | {other.kind: other.id})
                self._database.add_desired(f"d/{name}", desired, rollout=other.id, changed=rollout.kind)

    def _with_part(
        self, known: Desired, rollout: Rollout, given: BundleRef | None, window: MaintenanceWindow | None
    ) -> Desired:
        """Returns a group's desired state with a rollout's artifact and its window; the other parts keep theirs."""
        kind = rollout.kind
        windows = {name: known.window_of(name) for name in ARTIFACTS if getattr(known, name) is not None}
        # An older agent has one window, for bundle and agent: what waits for its own must not become active before.
        if kind == CONFIG:
            single = known.window
        else:
            others = [one for one in self.list(unfinished=True, group=rollout.group) if one.kind not in (kind, CONFIG)]
            single = window or next((one.plan.window for one in others if one.plan.window), None)
        changed = {kind: _as_part(kind, given), "window": single, "windows": windows | {kind: window}}
        return msgspec.structs.replace(known, **changed)

    def _add_event(self, rollout: Rollout) -> None:
        stages = len(rollout.plan.stages) + 1
        where = "the whole group" if rollout.whole_group else f"stage {rollout.stage + 1} of {stages}"
        detail = f"{rollout.id}: {rollout.state}, {where}" + (f": {rollout.reason}" if rollout.reason else "")
        bundle = rollout.target.identity
        self._database.add_event(
            TimelineEvent(at_ns=time.time_ns(), device="", kind="rollout", bundle=bundle, detail=detail)
        )
        level = logging.WARNING if rollout.state == "rolled_back" else logging.INFO
        _log.log(level, "%s, %s", bundle, detail)


def members(database: Database, group: str) -> list[str]:
    """Returns the known devices of a group: by assignment, else by their own report."""
    rows = database.query(
        "SELECT d.device FROM devices d LEFT JOIN assignments a ON a.device = d.device "
        "WHERE coalesce(a.group_name, d.group_name) = ? ORDER BY d.device",
        group,
    )
    return [row["device"] for row in rows]


def _answer(reported: str | None, asked: Desired | None, rollout: Rollout) -> tuple[DeviceAnswer, str]:
    """Returns a device's answer to a rollout and, if it failed, its error."""
    if reported is None or asked is None or asked.pushed_by(rollout.kind) != rollout.id:
        return "pending", ""
    whole = decode(reported.encode(), Reported)
    said = {"agent": whole.agent, CONFIG: whole.configuration}.get(rollout.kind, whole)
    if said is None or (said.epoch, said.gen) < (asked.epoch, asked.generation_of(rollout.kind)):
        return "pending", ""
    answer = judge(said, rollout.target)
    error = said.error if answer == "failed" else None
    return answer, error.full_text if error is not None else ""


def judge(said: Reported | AgentReport | ConfigReport, target: BundleRef) -> DeviceAnswer:
    """Returns what a report says of a target."""
    if said.wanted is None or said.wanted.sha256 != target.sha256:
        return "pending"
    if isinstance(said, ConfigReport):
        if said.error is not None:
            return "shed" if _was_shed(said.error) else "failed"
        return "healthy" if said.installed is not None and said.installed.sha256 == target.sha256 else "pending"
    if said.state in ("failed", "rolled_back"):
        return "shed" if _was_shed(said.error) else "failed"
    has_it = said.installed is not None and said.installed.sha256 == target.sha256
    return "healthy" if said.state == "active" and has_it else "pending"


def _was_shed(problem: Problem | None) -> bool:
    return problem is not None and problem.code in SHED
