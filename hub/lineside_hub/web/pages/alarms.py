"""Alarms of the fleet, its metrics for Prometheus, and the events of the hub itself."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from lineside_hub.alarms.machine import FleetAlarm
from lineside_hub.alarms.notification import channels_for
from lineside_hub.alarms.storage import acknowledge_alarm, channel_status, closed_alarms, find_alarm, open_alarms
from lineside_hub.fleet.listing import timeline
from lineside_hub.fleet.metrics import FORMAT, fleet_metrics
from lineside_hub.web.pages.statistics import results_runner
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute, RowNumber, row_number

CLOSED_ROWS = 50
EVENTS_SHOWN = 200


class ClosedAlarmsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which closed alarms.

    Attributes:
        before: Only alarms older than the one of this number.
    """

    before: RowNumber | None = None


class Acknowledgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person says of an alarm.

    Attributes:
        note: What is being done; may be empty.
    """

    note: str = ""


def show(call: DashboardRequest) -> Response:
    """The page of all alarms."""
    closed = closed_alarms(call.database, before_id=call.query.before, rows=CLOSED_ROWS)
    return call.page(
        "alarms.html",
        alarms=open_alarms(call.database),
        closed=closed,
        older=closed[-1].id if len(closed) == CLOSED_ROWS else None,
        channels=[one for one in channel_status(call.database) if one.error],
        may_acknowledge=call.principal.may("operate"),
    )


def show_events(call: DashboardRequest) -> Response:
    """The page of the hub's own events, newest first."""
    events = [event for _, event in reversed(timeline(call.folder, "", last=EVENTS_SHOWN))]
    return call.page("events.html", events=events)


def list_open(call: DashboardRequest) -> list[FleetAlarm]:
    """Open alarms."""
    return open_alarms(call.database)


def list_closed(call: DashboardRequest) -> list[FleetAlarm]:
    """A page of closed alarms, newest first."""
    return closed_alarms(call.database, before_id=call.query.before, rows=CLOSED_ROWS)


def acknowledge(call: DashboardRequest) -> FleetAlarm:
    """Acknowledge an alarm."""
    number = row_number(call.path["number"])
    before = find_alarm(call.database, number)
    channels = channels_for(call.dashboard.config.alarms, "acknowledged", before.priority)
    after = acknowledge_alarm(call.database, number, by=call.principal.name, note=call.body.note, channels=channels)
    subject = f"{number} {before.rule} {before.device}".strip()
    call.note(subject, before=before.state, after={"state": after.state, "note": call.body.note})
    return after


def metrics(call: DashboardRequest) -> Response:
    """The metrics of the fleet."""
    with results_runner(call) as run:
        return Response(fleet_metrics(call.database, run), media_type=FORMAT)


ROUTES = (
    DashboardRoute("GET", "/alarms", "watch", show, query=ClosedAlarmsQuery, menu="Alarms"),
    DashboardRoute("GET", "/events", "watch", show_events, menu="Events"),
    DashboardRoute("GET", "/metrics", "watch", metrics),
    DashboardRoute("GET", f"{API}/alarms", "watch", list_open),
    DashboardRoute("GET", f"{API}/alarms/closed", "watch", list_closed, query=ClosedAlarmsQuery),
    DashboardRoute(
        "POST",
        f"{API}/alarms/{{number}}/acknowledgement",
        "operate",
        acknowledge,
        action="acknowledge alarm",
        body=Acknowledgement,
    ),
)
