"""Summaries of the fleet, of one device and of rollouts, for people."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import msgspec

from lineside_hub.config import IDENTITY_NAME, HubConfig, folder_config_or_default
from lineside_hub.identity.authority import enrolled_devices
from lineside_hub.results.database import Database, TimelineEvent
from lineside_hub.results.queries import ResultCounts, count_by_device
from lineside_hub.rollouts.machine import AnswerCounts, Rollout, count
from lineside_hub.rollouts.runner import Rollouts
from lineside_link.messages import AgentReport, ConfigReport, Desired, PlacementReport, Reported, Up, decode
from lineside_runtime.errors import InputNotFoundError, StoreError
from lineside_runtime.wording import nearest

_log = logging.getLogger("lineside.hub")


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One device.

    Attributes:
        up: Whether it is connected, by its birth message or its last will.
        installed: ``name@version`` of the bundle that it runs; empty for none.
        wanted: ``name@version`` of the bundle that it should run; empty for none.
        error: Why the wanted bundle doesn't run; empty if it does.
        results: How many of its results the hub has; ``None`` where they were not counted.
        progress: Share of the fetch that is done, 0 to 1.
        agent_state: State of the agent's own update; empty if it can't be updated.
        agent_error: Why the wanted agent doesn't run; empty if it does.
        said_group: The group that the device reports, if it differs from the assigned one.
        drift: A text for each drift alarm.
        configuration: ``config@`` and the first digits of the hash of the hub's configuration that is active; empty for
            ``agent.toml`` alone.
        wanted_configuration: The one that should be active; empty for none.
        configuration_error: Why that is not active; empty if it is.
        requested_device: Processor that should run the model, such as ``cpu:0``; empty where it has not told.
        used_device: Engine and processor that run it, such as ``ort/cpu:0``.
        device_problem: Why a device or engine that comes first does not run it; empty if it does.
        fallbacks: Calls of the model in its results that another device answered; ``None`` as for ``results``.
        cache_hits: Calls in its results that the result cache answered; ``None`` as for ``results``.
        seen_at_ns: Unix time of its last birth, will or report at the hub; 0 for never.
        free_bytes: Room on its disk, as it last reported; 0 where it has not told.
        recipe: Name of the recipe that runs; empty on a line without recipes.
        degradation: Why its service is reduced; empty if it is not.
        waiting: What it waits for, such as the maintenance window; empty for nothing.
        engines: Engine to version.
        made_by: Who had the bundle made at the device; empty for one that the hub signed.
    """

    name: str
    up: bool
    group: str
    board: str
    state: str
    installed: str
    wanted: str
    error: str
    results: int | None = None
    progress: float = 0.0
    agent: str = ""
    agent_state: str = ""
    agent_error: str = ""
    said_group: str = ""
    drift: tuple[str, ...] = ()
    configuration: str = ""
    wanted_configuration: str = ""
    configuration_error: str = ""
    requested_device: str = ""
    used_device: str = ""
    device_problem: str = ""
    fallbacks: int | None = None
    cache_hits: int | None = None
    seen_at_ns: int = 0
    free_bytes: int = 0
    recipe: str = ""
    degradation: str = ""
    waiting: str = ""
    engines: dict[str, str] = {}
    made_by: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, most severe first; without an offline device's silence."""
        found = [self.error, self.configuration_error, self.agent_error, self.device_problem, self.degradation]
        group = f"it says that it is of group {self.said_group}" if self.said_group else ""
        return tuple(filter(None, (*found, *self.drift, group)))


class DeviceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the hub knows of one device.

    Attributes:
        rolled_back: What the hub took back from its group last, and why, a line each; none once there is a newer
            rollout of the same kind. The device itself reports no error then: it runs what is desired of it.
    """

    summary: DeviceSummary
    birth: Up | None
    reported: Reported | None
    own_desired: Desired | None
    group_desired: Desired | None
    rolled_back: tuple[str, ...] = ()


class RolloutSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout and the answers of its devices.

    Attributes:
        count: Of the devices that have the desired state; as they are now.
        members: Devices of the group that follow it.
    """

    rollout: Rollout
    count: AnswerCounts
    members: int


_DEVICES = (
    "SELECT d.device, d.up, d.birth, d.reported, d.group_name AS said, a.group_name AS assigned, "
    "max(coalesce(d.up_at_ns, 0), coalesce(d.reported_at_ns, 0)) AS seen_at_ns "
    "FROM devices d LEFT JOIN assignments a ON a.device = d.device"
)

_SUMMARIES_KEPT = 4096
"""Summaries of rows that have not changed since they were last asked for."""


def list_devices(folder: Path | str, *, with_counts: bool = True) -> list[DeviceSummary]:
    """Returns all devices that the hub knows, sorted by name.

    Args:
        with_counts: Whether their results are counted, where their database can be reached.

    Raises:
        InputNotFoundError: There is no hub's database.
    """
    counts = _counts(folder) if with_counts else None
    with Database.open(Path(folder)) as database:
        rows = database.query(f"{_DEVICES} ORDER BY d.device")
    return [_with_counts(_summary(*row), counts) for row in rows]


def show_device(folder: Path | str, device: str, *, with_counts: bool = True) -> DeviceDetail:
    """Returns everything that the hub knows of a device.

    Args:
        with_counts: As for `list_devices`.

    Raises:
        InputNotFoundError: The hub does not know it.
    """
    counts = _counts(folder) if with_counts else None
    with Database.open(Path(folder)) as database:
        rows = database.query(f"{_DEVICES} WHERE d.device = ?", device)
        if not rows:
            raise InputNotFoundError(f"the hub has not heard of {device!r}", action="`lineside fleet ls` lists them.")
        summary = _with_counts(_summary(*rows[0]), counts)
        own, group = database.desired_state(f"d/{device}"), database.desired_state(f"g/{summary.group}")
        ended = Rollouts(database).rolled_back(summary.group)
    return DeviceDetail(
        summary=summary,
        birth=decode(rows[0]["birth"].encode(), Up) if rows[0]["birth"] else None,
        reported=decode(rows[0]["reported"].encode(), Reported) if rows[0]["reported"] else None,
        own_desired=own if own is not None and not own.withdrawn else None,
        group_desired=group,
        rolled_back=tuple(
            f"{one.kind} {one.target.identity} was rolled back by the hub ({one.id}): {one.reason}" for one in ended
        ),
    )


def check_known(config: HubConfig, device: str) -> None:
    """Checks that a device has reported itself, is enrolled, or has results.

    Raises:
        InputNotFoundError: It has not; somebody may have mistyped its name.
    """
    with Database.open(Path(config.folder)) as database:
        known = {row["device"] for row in database.query("SELECT device FROM devices")}
    known |= enrolled_devices(Path(config.folder) / IDENTITY_NAME).keys()
    if device in known or device in count_by_device(config):
        return
    near = nearest(device, known)
    meant = f" (did you mean `{near}`?)" if near else ""
    raise InputNotFoundError(
        f"the hub has not heard of {device!r}{meant}", action="`lineside fleet ls` lists the devices."
    )


def timeline(
    folder: Path | str, device: str | None = None, *, after: int = 0, last: int | None = None
) -> list[tuple[int, TimelineEvent]]:
    """Returns the numbered timeline of a device, or of all devices and the hub, oldest first.

    Args:
        device: Of this one; the hub's own entries have an empty one.
        last: Only the newest so many.
    """
    with Database.open(Path(folder)) as database:
        sql = "SELECT * FROM events WHERE id > ?1 AND (?2 IS NULL OR device = ?2) ORDER BY id DESC LIMIT ?3"
        rows = database.query(sql, after, device, -1 if last is None else last)[::-1]
    return [(row["id"], TimelineEvent(**{name: row[name] for name in TimelineEvent.__struct_fields__})) for row in rows]


def list_rollouts(
    folder: Path | str,
    *,
    group: str | None = None,
    rollout: str | None = None,
    last: int = 0,
    count_ended: bool = True,
) -> list[RolloutSummary]:
    """Returns the rollouts, oldest first.

    Args:
        last: Only the newest so many; 0 for all.
        count_ended: Whether devices of rollouts that have ended are counted too; each takes 20 ms for 1,000 devices.

    Raises:
        RolloutError: There is no such rollout.
    """
    with Database.open(Path(folder)) as database:
        rollouts = Rollouts(database)
        found = [rollouts.get(rollout)] if rollout is not None else rollouts.list(group=group)[-last:]
        snapshots = [(one, rollouts.snapshot(one) if count_ended or one.unfinished else ()) for one in found]
    return [RolloutSummary(rollout=known, count=count(known, views), members=len(views)) for known, views in snapshots]


def _counts(folder: Path | str) -> dict[str, ResultCounts] | None:
    """Counts results; ``None`` where their database cannot be reached, which hides nothing else of a device."""
    try:
        return count_by_device(folder_config_or_default(folder))
    except StoreError as error:
        _log.warning("results are not counted: %s", error)
        return None


def _with_counts(summary: DeviceSummary, counts: dict[str, ResultCounts] | None) -> DeviceSummary:
    if counts is None:
        return summary
    own = counts.get(summary.name) or ResultCounts(0, 0, 0)
    return msgspec.structs.replace(summary, results=own.results, fallbacks=own.fallbacks, cache_hits=own.cache_hits)


@functools.lru_cache(_SUMMARIES_KEPT)
def _summary(
    name: str, up: int, birth: str | None, reported: str | None, said: str, assigned: str | None, seen_at_ns: int
) -> DeviceSummary:
    """Returns the summary of a row of `_DEVICES`, without counts."""
    born = decode(birth.encode(), Up) if birth else Up(device=name, up=False, boot_id="")
    report = decode(reported.encode(), Reported) if reported else Reported(device=name)
    follows = report.configuration or ConfigReport()
    placement = report.placement or PlacementReport()
    agent = report.agent or AgentReport()
    return DeviceSummary(
        name=name,
        up=bool(up),
        group=assigned or said,
        board=born.board,
        state=report.state,
        installed=report.installed.identity if report.installed else "",
        wanted=report.wanted.identity if report.wanted else "",
        error=report.error.full_text if report.error else "",
        progress=report.progress,
        agent=born.agent_version,
        agent_state=report.agent.state if report.agent else "",
        agent_error=own.text if (own := report.agent and report.agent.error) else "",
        said_group=said if assigned and said != assigned else "",
        drift=tuple(alarm.text or alarm.name for alarm in report.drift.alarms) if report.drift is not None else (),
        configuration=follows.installed.identity if follows.installed else "",
        wanted_configuration=follows.wanted.identity if follows.wanted else "",
        configuration_error=follows.error.full_text if follows.error else "",
        requested_device=placement.requested_device,
        used_device=placement.used_device,
        device_problem=placement.problem,
        seen_at_ns=seen_at_ns,
        free_bytes=report.free_bytes,
        recipe=report.recipe,
        degradation=report.degradation.text if report.degradation else "",
        waiting="; ".join(dict.fromkeys(filter(None, (report.waiting, follows.waiting, agent.waiting)))),
        engines=born.engines,
        made_by=report.installed.made_by if report.installed else "",
    )
