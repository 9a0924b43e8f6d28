"""Rollouts: start one, watch it device by device, pause, resume, abort, roll back."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from lineside_hub.fleet.listing import RolloutSummary, list_devices, list_rollouts
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import Database
from lineside_hub.rollouts.bundle_comparison import BundleComparison, BundleText, compare
from lineside_hub.rollouts.machine import GroupView, Rollout
from lineside_hub.rollouts.published_bundles import (
    PublishedBundle,
    find_published,
    list_published,
    read_manifest,
    read_text,
    roll_back,
    start,
)
from lineside_hub.rollouts.push import PlanOptions
from lineside_hub.rollouts.runner import Rollouts, members
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute
from lineside_link.messages import BundleRef, MaintenanceWindow
from lineside_runtime.errors import BundleError, InputNotFoundError, RequestError, RolloutError

ROLLOUTS_SHOWN = 200


class RolloutQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rollouts."""

    group: str = ""


class StartQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the page to start a rollout shows.

    Attributes:
        bundle: ``name@version``.
    """

    group: str = ""
    bundle: str = ""


class ComparisonQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two published bundles, each as ``name@version``."""

    before: str
    after: str


class RolloutOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a rollout shall do; ``roll_back`` is for one that has ended, the others for one that runs."""

    order: Literal["pause", "resume", "abort", "roll_back"]


class RolloutStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rollout, with the options of ``lineside push``.

    Attributes:
        bundle: ``name@version`` of a published bundle.
        sha256: Of its manifest, as it was looked at; anything published under the name if empty.
        canary: Number of the first devices, or their names with commas; 0 for none, empty for the default.
        phases: Shares of the group after them in percent, rising to 100, such as ``10,50,100``.
        max_failed_percent: Share of failures above which all devices are rolled back.
        healthy_for_s: How long a phase must be healthy before the next begins.
        window_start: ``HH:MM`` at which devices may activate it; empty for the plant's window.
        window_end: ``HH:MM`` at which they may no longer.
        window_timezone: IANA name, such as ``Europe/Berlin``.
    """

    bundle: str
    group: str
    sha256: str = ""
    canary: str = ""
    phases: str = ""
    max_failed_percent: float | None = None
    healthy_for_s: float | None = None
    window_start: str = ""
    window_end: str = ""
    window_timezone: str = ""

    def plan(self) -> PlanOptions:
        """Returns the options of the plan.

        Raises:
            RequestError: A share is no number.
        """
        plan: PlanOptions = {}
        if self.canary:
            names = tuple(name.strip() for name in self.canary.split(",") if name.strip())
            plan["canary"] = int(self.canary) if self.canary.strip().isdecimal() else names
        if self.phases:
            try:
                plan["phases"] = tuple(float(part.strip().rstrip("% ")) / 100 for part in self.phases.split(","))
            except ValueError as error:
                raise RequestError(
                    "phases", expected="shares in percent, such as 10,50,100", actual=self.phases
                ) from error
        plan["max_failed"] = None if self.max_failed_percent is None else self.max_failed_percent / 100
        plan["healthy_for_s"] = self.healthy_for_s
        if self.window_start or self.window_end:
            plan["window"] = MaintenanceWindow(
                start=self.window_start, end=self.window_end, timezone=self.window_timezone
            )
        return plan


class DeviceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout.

    Attributes:
        targeted: Whether it should have the target now.
        state: Of its deployment, as it reports it.
        progress: Share of the fetch that is done, 0 to 1.
    """

    name: str
    up: bool
    targeted: bool
    answer: str
    error: str
    state: str
    progress: float
    installed: str
    waiting: str


class RolloutDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout, device by device."""

    summary: RolloutSummary
    devices: tuple[DeviceProgress, ...]


def show_all(call: DashboardRequest) -> Response:
    """The page of all rollouts, newest first."""
    return call.page(
        "rollouts.html",
        query=call.query,
        summaries=list_all(call),
        groups=Repository.open(call.folder).groups(),
        may_operate=call.principal.may("operate"),
    )


def list_all(call: DashboardRequest) -> list[RolloutSummary]:
    """The last rollouts, newest first."""
    return list_rollouts(call.folder, group=call.query.group or None, last=ROLLOUTS_SHOWN, count_ended=False)[::-1]


def show_one(call: DashboardRequest) -> Response:
    """The page of one rollout."""
    detail = _detail(call, call.path["rollout"])
    rollout = detail.summary.rollout
    return call.page(
        "rollout.html",
        detail=detail,
        summary=detail.summary,
        rollout=rollout,
        comparison=_compare_refs(call, rollout.before, rollout.target) if rollout.kind == "bundle" else None,
        may_operate=call.principal.may("operate"),
    )


def get_one(call: DashboardRequest) -> RolloutDetail:
    """One rollout, device by device."""
    return _detail(call, call.path["rollout"])


def show_start(call: DashboardRequest) -> Response:
    """The page to start a rollout, with the differences to what the group runs."""
    repository = Repository.open(call.folder)
    groups, bundles = repository.groups(), list_published(call.folder)
    group = call.query.group or (groups[0] if groups else "")
    if group and group not in groups:
        raise InputNotFoundError(f"there is no group {group!r}", action="Choose a group on the page of rollouts.")
    wanted = call.query.bundle
    chosen = next((one for one in bundles if wanted in ("", one.ref.identity)), None)
    if wanted and chosen is None:
        raise InputNotFoundError(f"{wanted} is not published", action="Choose a bundle on the page of rollouts.")
    before = _group_bundle(call.database, group)
    needs_key = chosen is not None and group not in chosen.groups and not repository.roles.is_online(group)
    return call.page(
        "rollout-start.html",
        groups=groups,
        group=group,
        bundles=bundles,
        chosen=chosen,
        devices=members(call.database, group),
        before=before,
        comparison=_compare_refs(call, before, chosen.ref) if chosen else None,
        command=_signing_command(call, chosen.ref, group) if chosen and needs_key else "",
        window=call.dashboard.config.window,
    )


def list_bundles(call: DashboardRequest) -> list[PublishedBundle]:
    """The published bundles, newest first."""
    return list_published(call.folder)


def compare_bundles(call: DashboardRequest) -> BundleComparison:
    """Differences of two published bundles: figures, thresholds, description, model cards."""
    found = [find_published(call.folder, name).ref for name in (call.query.before, call.query.after)]
    repository = Repository.open(call.folder)
    before, after = (_read(repository, ref) for ref in found)
    return compare(before, after)


def begin(call: DashboardRequest) -> RolloutDetail:
    """Start a rollout of a published bundle."""
    given: RolloutStart = call.body
    before = _group_bundle(call.database, given.group)
    asked = {name: value for name, value in msgspec.structs.asdict(given).items() if value not in ("", None)}
    call.note(given.group, before=before and before.identity, after=asked)
    bundle = find_published(call.folder, given.bundle)
    if given.sha256 not in ("", bundle.ref.sha256):
        raise RolloutError(
            f"{given.bundle} is not what was looked at",
            expected=given.sha256,
            actual=bundle.ref.sha256,
            action="Load the page again.",
        )
    begun = start(call.folder, bundle, group=given.group, **given.plan())
    call.note(given.group, before=before and before.identity, after={"rollout": begun.rollout, **asked})
    call.after = f"/rollouts/{begun.rollout}"
    return _detail(call, begun.rollout)


def give_order(call: DashboardRequest) -> RolloutDetail:
    """Pause, resume, abort or roll back a rollout."""
    rollout_id, order = call.path["rollout"], call.body.order
    rollouts = Rollouts(call.database)
    before = rollouts.get(rollout_id)
    call.note(rollout_id, before={"state": before.state}, after={"order": order})
    if order == "roll_back":
        after = roll_back(call.folder, rollout_id)
        call.note(rollout_id, before={"state": before.state}, after={"order": order, "rollout": after.id})
        call.after = f"/rollouts/{after.id}"
    else:
        after = rollouts.order(rollout_id, order)
    return _detail(call, after.id)


def _detail(call: DashboardRequest, rollout_id: str) -> RolloutDetail:
    try:
        [summary] = list_rollouts(call.folder, rollout=rollout_id)
    except RolloutError as error:
        raise InputNotFoundError(f"no rollout {rollout_id!r}", action="The page of rollouts lists them.") from error
    views = Rollouts(call.database).snapshot(summary.rollout)
    known = {one.name: one for one in list_devices(call.folder, with_counts=False)}
    devices = [_progress(view, summary.rollout, known[view.name]) for view in views if view.name in known]
    devices.sort(key=lambda one: (not one.targeted, one.answer != "failed", one.answer != "pending", one.name))
    return RolloutDetail(summary=summary, devices=tuple(devices))


def _progress(view: GroupView, rollout: Rollout, device: Any) -> DeviceProgress:
    return DeviceProgress(
        name=view.name,
        up=view.up,
        targeted=rollout.whole_group or view.name in rollout.targeted,
        answer=view.answer,
        error=view.error,
        state=device.agent_state if rollout.kind == "agent" else device.state,
        progress=device.progress,
        installed={"agent": device.agent, "config": device.configuration}.get(rollout.kind, device.installed),
        waiting=device.waiting,
    )


def _signing_command(call: DashboardRequest, ref: BundleRef, group: str) -> str:
    """Returns the command that signs a published bundle for a group where its key is."""
    return shlex.join(["lineside", "push", ref.identity, "--group", group, "--sign-only", "--hub", str(call.folder)])


def _group_bundle(database: Database, group: str) -> BundleRef | None:
    desired = database.desired_state(f"g/{group}")
    return desired.bundle if desired is not None and not desired.withdrawn else None


def _compare_refs(call: DashboardRequest, before: BundleRef | None, after: BundleRef) -> BundleComparison | None:
    """Returns the differences; ``None`` if the new bundle can't be read any more."""
    repository = Repository.open(call.folder)
    try:
        new = _read(repository, after)
    except BundleError:
        return None
    try:
        old = _read(repository, before) if before is not None else None
    except BundleError:
        old = None
    return compare(old, new)


def _read(repository: Repository, ref: BundleRef) -> BundleText:
    manifest = read_manifest(repository, ref)
    try:
        report = json.loads(read_text(repository, manifest, "report.json") or "{}")
    except ValueError:
        report = {}
    card = read_text(repository, manifest, "model_card.md")
    return BundleText(manifest=manifest, report=report if isinstance(report, dict) else {}, card=card)


ROUTES = (
    DashboardRoute("GET", "/rollouts", "watch", show_all, query=RolloutQuery, menu="Rollouts"),
    DashboardRoute("GET", "/rollouts/new", "operate", show_start, query=StartQuery),
    DashboardRoute("GET", "/rollouts/{rollout}", "watch", show_one),
    DashboardRoute("GET", f"{API}/rollouts", "watch", list_all, query=RolloutQuery),
    DashboardRoute("GET", f"{API}/rollouts/{{rollout}}", "watch", get_one),
    DashboardRoute("POST", f"{API}/rollouts", "operate", begin, action="start rollout", body=RolloutStart),
    DashboardRoute(
        "POST", f"{API}/rollouts/{{rollout}}/order", "operate", give_order, action="order rollout", body=RolloutOrder
    ),
    DashboardRoute("GET", f"{API}/bundles", "watch", list_bundles),
    DashboardRoute("GET", f"{API}/bundles/comparison", "watch", compare_bundles, query=ComparisonQuery),
)
