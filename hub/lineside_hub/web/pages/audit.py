"""The audit log: who changed what."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from lineside_hub.web.audit import PAGE_ROWS, AuditEntry, AuditReport, list_entries, verify
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute, RowNumber


class AuditQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which rows.

    Attributes:
        before: Only rows older than the one of this number.
    """

    before: RowNumber | None = None


def show(call: DashboardRequest) -> Response:
    """The page of the audit log, newest first."""
    entries = list_entries(call.database, before_id=call.query.before)
    older = entries[-1].id if len(entries) == PAGE_ROWS else None
    return call.page("audit.html", entries=entries, older=older)


def list_rows(call: DashboardRequest) -> list[AuditEntry]:
    """A page of the audit log, newest row first."""
    return list_entries(call.database, before_id=call.query.before)


def check(call: DashboardRequest) -> AuditReport:
    """Check that no row of the audit log was changed or removed."""
    return verify(call.database)


ROUTES = (
    DashboardRoute("GET", "/audit", "administer", show, query=AuditQuery, menu="Audit log"),
    DashboardRoute("GET", f"{API}/audit", "administer", list_rows, query=AuditQuery),
    DashboardRoute("GET", f"{API}/audit/verification", "administer", check),
)
