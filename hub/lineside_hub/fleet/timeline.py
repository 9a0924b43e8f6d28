"""Reported states of devices, and the timeline of their changes.

Births, wills and reports are retained, so the hub receives the same message again on every connection; only a change is
an event, and what a device that is away said before is no sign of life. Progress of a fetch alone is no event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from lineside_hub.results.database import Database, TimelineEvent
from lineside_link.messages import AgentReport, BundleRef, ConfigReport, Reported, Up, decode, encode
from lineside_runtime.errors import BadInputFormatError

log = logging.getLogger("lineside.hub")


M = TypeVar("M", Up, Reported)


def read_message(device: str, payload: bytes, kind: type[M]) -> M:
    """Reads a birth, will or report; raises `BadInputFormatError` if it is none or names another device."""
    message = decode(payload, kind)
    if message.device != device:
        raise BadInputFormatError(
            f"message on a topic of {device}", expected=device, actual=message.device, action="It is not used."
        )
    return message


class FleetTimeline:
    """Writes births and reports of devices, inside the caller's transaction.

    Args:
        group_of: Returns the group that a device is enrolled for, ``None`` if it is not enrolled. It overrides the one
            that the device reports.
    """

    def __init__(self, database: Database, *, group_of: Callable[[str], str | None] = lambda _: None) -> None:
        self._database = database
        self._group_of = group_of

    def write_up(self, message: Up, *, why: str = "") -> None:
        """Stores a birth or will; a change of presence or boot id is an event.

        Args:
            why: Of a will that the hub itself writes, for the event.
        """
        now_ns = time.time_ns()
        before = self._last(message.device, "birth")
        old = decode(before.encode(), Up) if before else None
        if old is not None and not old.up and not message.up and old.boot_id == message.boot_id:
            return
        # A last will does not describe the device; its birth still holds.
        kept = message if message.up or old is None else msgspec.structs.replace(old, up=False, boot_id=message.boot_id)
        said = encode(kept).decode()
        self._keep(
            message.device, ("up", "up_at_ns", "birth", "group_name"), (int(message.up), now_ns, said, kept.group)
        )
        self._assign_enrolled(message, old.group if old is not None else "", now_ns)
        was = (old.up, old.boot_id) if old else (False, "")
        if (message.up, message.boot_id) != was and (message.up or was[0]):
            detail = ", ".join(filter(None, (f"boot {message.boot_id}", message.board, why)))
            kind = "up" if message.up else "down"
            self._database.add_event(TimelineEvent(at_ns=now_ns, device=message.device, kind=kind, detail=detail))

    def write_reported(self, message: Reported) -> None:
        """Stores a report; a change of state, generation, bundle or error is an event."""
        now_ns = time.time_ns()
        before = self._last(message.device, "reported")
        old = decode(before.encode(), Reported) if before else None
        if message == old and not self._last(message.device, "up"):
            return
        self._keep(message.device, ("reported_at_ns", "reported"), (now_ns, encode(message).decode()))
        if old is None or _identity(old) != _identity(message):
            self._database.add_event(_event(message, now_ns))
        if message.agent is not None and (
            old is None or old.agent is None or _identity(old.agent) != _identity(message.agent)
        ):
            self._database.add_event(_agent_event(message.device, message.agent, now_ns))
        self._warn_of_foreign_epoch(message, old, now_ns)
        events = (
            *_configuration_events(message, old, now_ns),
            *_drift_events(message, old, now_ns),
            *_line_events(message, old, now_ns),
        )
        for event in events:
            self._database.add_event(event)

    def _assign_enrolled(self, message: Up, said_before: str, now_ns: int) -> None:
        """Assigns an enrolled device to its group, whatever group it reports."""
        enrolled = self._group_of(message.device)
        if enrolled is None or not message.up:
            return
        rows = self._database.query("SELECT group_name FROM assignments WHERE device = ?", message.device)
        assigned = rows[0]["group_name"] if rows else None
        if assigned != enrolled and (assigned is not None or message.group != enrolled):
            self._database.connection.execute(
                "INSERT OR REPLACE INTO assignments VALUES (?, ?, ?)", (message.device, enrolled, now_ns)
            )
        self._withdraw_of_other_group(message.device, enrolled)
        moved = assigned == enrolled  # by a person: its agent.toml may still name the group before
        if message.group != enrolled and message.group != said_before and not moved:
            detail = f"says that it is of group {message.group!r}, but is enrolled for {enrolled!r}: refused"
            self._database.add_event(TimelineEvent(at_ns=now_ns, device=message.device, kind="security", detail=detail))
            log.warning("%s %s", message.device, detail)

    def _withdraw_of_other_group(self, device: str, group: str) -> None:
        """Withdraws a device's own desired state if another group's key signed it: the device could not follow it."""
        own = self._database.desired_state(f"d/{device}")
        refs = (own.bundle, own.agent, own.config) if own is not None else ()
        if (
            own is not None
            and not own.withdrawn
            and any(ref and not ref.target.startswith(f"{group}/") for ref in refs)
        ):
            self._database.withdraw(device, own, group)

    def _warn_of_foreign_epoch(self, message: Reported, old: Reported | None, now_ns: int) -> None:
        """Reports a device with a later epoch than the hub's: it ignores the hub's desired states."""
        epoch = self._database.epoch
        if message.epoch > epoch and (old is None or old.epoch != message.epoch):
            detail = (
                f"follows a desired state of epoch {message.epoch}, which this hub (epoch {epoch}) has not issued: "
                "it ignores the hub"
            )
            self._database.add_event(TimelineEvent(at_ns=now_ns, device=message.device, kind="security", detail=detail))
            log.warning("%s %s", message.device, detail)

    def _last(self, device: str, column: str) -> Any:
        rows = self._database.query(f"SELECT {column} FROM devices WHERE device = ?", device)
        return rows[0][column] if rows else None

    def _keep(self, device: str, columns: tuple[str, ...], values: tuple[object, ...]) -> None:
        names = ", ".join(columns)
        marks = ", ".join("?" for _ in columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
        self._database.connection.execute(
            f"INSERT INTO devices (device, {names}) VALUES (?, {marks}) ON CONFLICT (device) DO UPDATE SET {changes}",
            (device, *values),
        )


def _identity(report: Reported | AgentReport) -> tuple[object, ...]:
    code = report.error.code if report.error else None
    return (report.epoch, report.gen, report.state, report.installed, report.wanted, code)


def _configuration_events(message: Reported, old: Reported | None, now_ns: int) -> Iterator[TimelineEvent]:
    """Yields an event if the device follows another configuration, or refuses another desired state for one."""
    before = old.configuration if old is not None else None
    now, had = message.configuration or ConfigReport(), before or ConfigReport()
    error = now.error if (now.gen, now.error) != (had.gen, had.error) else None
    if now.installed == had.installed and error is None:
        return
    subject = now.installed if error is None else now.wanted
    detail = "active" if subject else "agent.toml alone"
    if error is not None:
        detail = error.explanation
    yield TimelineEvent(
        at_ns=now_ns,
        device=message.device,
        kind="configuration",
        bundle=subject.identity if subject else "",
        code=error.code if error is not None else None,
        detail=detail,
    )


def _drift_events(message: Reported, old: Reported | None, now_ns: int) -> Iterator[TimelineEvent]:
    """Yields an event for each alarm that begins or ends."""
    before = {alarm.name: alarm for alarm in (old.drift.alarms if old is not None and old.drift is not None else ())}
    after = {alarm.name: alarm for alarm in (message.drift.alarms if message.drift is not None else ())}
    for name in sorted(before.keys() ^ after.keys()):
        detail = after[name].text or name if name in after else f"over: {name}"
        yield TimelineEvent(at_ns=now_ns, device=message.device, kind="drift", detail=detail)


def _line_events(message: Reported, old: Reported | None, now_ns: int) -> Iterator[TimelineEvent]:
    """Yields an event for each change of recipe, of degradation and of the device that runs the model."""
    if message.recipe != (old.recipe if old is not None else ""):
        yield TimelineEvent(at_ns=now_ns, device=message.device, kind="recipe", detail=message.recipe or "none")
    before = old.degradation.steps if old is not None and old.degradation is not None else ()
    now = message.degradation
    if now is not None and now.steps != before:
        detail = now.text or "over"
        yield TimelineEvent(at_ns=now_ns, device=message.device, kind="degraded", detail=detail)
    ran, runs = old.placement if old is not None else None, message.placement
    if runs is not None and runs != ran and (runs.problem or (ran is not None and ran.problem)):
        detail = f"{runs.used_device} runs the model: {runs.problem or 'as requested again'}"
        yield TimelineEvent(at_ns=now_ns, device=message.device, kind="placement", detail=detail)


def _agent_event(device: str, report: AgentReport, now_ns: int) -> TimelineEvent:
    subject = report.installed if report.state in ("active", "idle") else report.wanted
    return TimelineEvent(
        at_ns=now_ns,
        device=device,
        kind="agent",
        bundle=subject.identity if subject else "",
        code=report.error.code if report.error else None,
        detail=f"{report.state}: {report.error.explanation}" if report.error else report.state,
    )


def _event(message: Reported, now_ns: int) -> TimelineEvent:
    subject = message.installed if message.state in ("active", "idle") else message.wanted
    subject = subject or message.wanted or message.installed
    return TimelineEvent(
        at_ns=now_ns,
        device=message.device,
        kind=message.state,
        bundle=subject.identity if subject else "",
        code=message.error.code if message.error else None,
        detail=message.error.explanation if message.error else f"desired state {message.gen}{_origin(subject)}",
    )


def _origin(subject: BundleRef | None) -> str:
    return f", made at the device by {subject.made_by}" if subject is not None and subject.made_by else ""
