"""The pages of the dashboard and its REST API, one subject a module, each with its ``ROUTES``."""

from __future__ import annotations

from lineside_hub.web.pages import (
    accounts,
    alarms,
    api,
    audit,
    devices,
    provider,
    relabel,
    results,
    rollouts,
    sessions,
    statistics,
)
from lineside_hub.web.routing import DashboardRoute

ROUTES: tuple[DashboardRoute, ...] = (
    *devices.ROUTES,
    *rollouts.ROUTES,
    *results.ROUTES,
    *statistics.ROUTES,
    *relabel.ROUTES,
    *alarms.ROUTES,
    *accounts.ROUTES,
    *audit.ROUTES,
    *api.ROUTES,
    *sessions.ROUTES,
    *provider.ROUTES,
)
"""Every route, in the order of the navigation; a test compares what each role may do with a table."""
