"""Devices: the fleet, and all that the hub knows of one device."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from starlette.responses import Response

from lineside_hub.fleet.device_commands import read_log
from lineside_hub.fleet.listing import DeviceDetail, DeviceSummary, list_devices, show_device, timeline
from lineside_hub.repository.repository import Repository
from lineside_hub.results.database import TimelineEvent
from lineside_hub.results.sql import runner
from lineside_hub.rollouts.push import release
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute
from lineside_link.messages import ConfigRef
from lineside_runtime.errors import BundleIntegrityError

EVENTS_SHOWN = 200

ROWS_SHOWN = 100
"""Of the table of devices; the map above it has all of them."""

LOG_LINES = 200

LOG_TIMEOUT_S = 5.0
"""A device that does not answer holds one of the dashboard's workers for so long."""

CLOCK_ROWS = 50
"""Results from which the difference of the clocks is estimated."""


class DeviceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which devices.

    Attributes:
        group: Only of this group.
        show: ``problems`` for those that are offline or have a problem only.
        name: Only those whose name, board or bundle contains it.
    """

    group: str = ""
    show: Literal["all", "problems"] = "all"
    name: str = ""


class FleetQuery(DeviceQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which devices, and where the table begins.

    Attributes:
        page: Of `ROWS_SHOWN` devices, from 1 on.
    """

    page: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which entries of a timeline.

    Attributes:
        last: The newest so many.
    """

    last: int = EVENTS_SHOWN


class GroupOverview(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of one group, as a map."""

    name: str
    devices: tuple[DeviceSummary, ...]
    offline: int
    problems: int


def show_fleet(call: DashboardRequest) -> Response:
    """The page of all devices."""
    devices = list_devices(call.folder, with_counts=False)
    found, query = _select(devices, call.query), call.query
    pages = max(1, -(-len(found) // ROWS_SHOWN))
    page = min(query.page, pages)
    return call.page(
        "devices.html",
        query=query,
        fields={"group": query.group, "show": query.show, "name": query.name},
        groups=_by_group(devices),
        devices=found[(page - 1) * ROWS_SHOWN : page * ROWS_SHOWN],
        found=len(found),
        first=(page - 1) * ROWS_SHOWN + 1,
        page=page,
        pages=pages,
    )


def list_all(call: DashboardRequest) -> list[DeviceSummary]:
    """The devices of the fleet."""
    return _select(list_devices(call.folder, with_counts=False), call.query)


def show_one(call: DashboardRequest) -> Response:
    """The page of one device."""
    name = call.path["device"]
    detail = show_device(call.folder, name, with_counts=False)
    events = [event for _, event in reversed(timeline(call.folder, name, last=EVENTS_SHOWN))]
    return call.page(
        "device.html",
        detail=detail,
        device=detail.summary,
        events=events,
        clock=_clock(call, name),
        configuration=_configuration(call, detail),
        may_operate=call.principal.may("operate"),
    )


def get_one(call: DashboardRequest) -> DeviceDetail:
    """All that the hub knows of one device."""
    return show_device(call.folder, call.path["device"], with_counts=False)


def get_timeline(call: DashboardRequest) -> list[TimelineEvent]:
    """The newest entries of a device's timeline, oldest first."""
    last = max(1, min(call.query.last, 10_000))
    return [event for _, event in timeline(call.folder, call.path["device"], last=last)]


def release_one(call: DashboardRequest) -> DeviceDetail:
    """Withdraw a device's own desired state, so that it follows its group."""
    name = call.path["device"]
    before = show_device(call.folder, name, with_counts=False)
    call.note(name, before=before.own_desired, after=before.group_desired)
    release(call.folder, name)
    return show_device(call.folder, name, with_counts=False)


def read_device_log(call: DashboardRequest) -> Response:
    """The newest lines of a device's log, as text; the device must be connected."""
    name = call.path["device"]
    call.note(name, after={"lines": LOG_LINES})
    text = read_log(call.dashboard.config, name, lines=LOG_LINES, timeout_s=LOG_TIMEOUT_S)
    return Response(text or "The log is empty.", media_type="text/plain")


def _select(devices: list[DeviceSummary], query: DeviceQuery) -> list[DeviceSummary]:
    text = query.name.lower()
    return [
        one
        for one in devices
        if query.group in ("", one.group)
        and (query.show == "all" or one.problems or not one.up)
        and (not text or any(text in part.lower() for part in (one.name, one.board, one.installed)))
    ]


def _by_group(devices: list[DeviceSummary]) -> list[GroupOverview]:
    groups: dict[str, list[DeviceSummary]] = {}
    for one in devices:
        groups.setdefault(one.group, []).append(one)
    return [
        GroupOverview(
            name=name,
            devices=tuple(members),
            offline=sum(not one.up for one in members),
            problems=sum(bool(one.up and one.problems) for one in members),
        )
        for name, members in sorted(groups.items())
    ]


def _clock(call: DashboardRequest, device: str) -> float | None:
    """Returns how far a device's clock is behind the hub's, in seconds, negative if it is ahead; ``None`` without
    results.

    The least time from capture to receipt of its last results: the time of the transfer is in it.
    """
    # The newest results of a device have the highest numbers of its newest database.
    newest = "SELECT epoch, seq FROM watermarks WHERE device = :device ORDER BY at_ns DESC LIMIT 1"
    with runner(call.dashboard.config) as run:
        mark = next(iter(run(newest, {"device": device})), None)
        if mark is None:
            return None
        text = (
            "SELECT min(received_at_ns - captured_at_ns) FROM results WHERE device = :device AND epoch = :epoch "
            "AND seq > :seq AND captured_at_ns > 0"
        )
        rows = list(run(text, {"device": device, "epoch": mark[0], "seq": int(mark[1]) - CLOCK_ROWS}))
    return None if not rows or rows[0][0] is None else float(rows[0][0]) / 1e9


def _configuration(call: DashboardRequest, detail: DeviceDetail) -> str:
    """Returns the TOML of the hub's configuration that a device runs; empty for none."""
    report = detail.reported.configuration if detail.reported else None
    ref: ConfigRef | None = report.installed if report else None
    if ref is None:
        return ""
    try:
        return Repository.open(call.folder).target_bytes(ref.target, ref.sha256).decode(errors="replace")
    except BundleIntegrityError as error:
        return f"# {error}"


ROUTES = (
    DashboardRoute("GET", "/", "watch", show_fleet, query=FleetQuery, menu="Devices"),
    DashboardRoute("GET", "/devices/{device}", "watch", show_one),
    DashboardRoute("GET", f"{API}/devices", "watch", list_all, query=DeviceQuery),
    DashboardRoute("GET", f"{API}/devices/{{device}}", "watch", get_one),
    DashboardRoute("GET", f"{API}/devices/{{device}}/timeline", "watch", get_timeline, query=EventQuery),
    DashboardRoute("POST", f"{API}/devices/{{device}}/release", "operate", release_one, action="release device"),
    DashboardRoute("POST", f"{API}/devices/{{device}}/log", "operate", read_device_log, action="read log"),
)
