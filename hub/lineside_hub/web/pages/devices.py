"""Devices: the fleet, and all that the hub knows of one device."""

from __future__ import annotations

from starlette.responses import Response

from lineside_hub.fleet.listing import DeviceDetail, DeviceSummary, list_devices, show_device
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute


def show_fleet(call: DashboardRequest) -> Response:
    """The page of all devices."""
    return call.page("devices.html", devices=list_devices(call.folder))


def list_all(call: DashboardRequest) -> list[DeviceSummary]:
    """All devices."""
    return list_devices(call.folder)


def get_device(call: DashboardRequest) -> DeviceDetail:
    """One device."""
    return show_device(call.folder, call.path["device"])


ROUTES = (
    DashboardRoute("GET", "/", "watch", show_fleet, menu="Devices"),
    DashboardRoute("GET", f"{API}/devices", "watch", list_all, summary="All devices", answer=list[DeviceSummary]),
    DashboardRoute(
        "GET",
        f"{API}/devices/{{device}}",
        "watch",
        get_device,
        summary="All that the hub knows of one device",
        answer=DeviceDetail,
    ),
)
