"""Relabel in the browser: the queue of frames that people should look at, and the model against people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from lineside_hub.relabel.collection import NAME
from lineside_hub.relabel.importer import FOLDER
from lineside_hub.relabel.report import RelabelReport, report
from lineside_hub.relabel.selection import SelectedResult, Selection, select_results
from lineside_hub.web.pages.results import result_of_path, result_values
from lineside_hub.web.pages.statistics import results_runner
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute

QUEUE_ROWS = 100


class QueueQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which frames.

    Attributes:
        verdict: ``unsure``, ``bad`` (not passed) or ``all``; frames that were marked as wrong are always there.
        device: Only of this one.
        after: Of the next frame: the sha256 of the one before.
    """

    verdict: Literal["unsure", "bad", "wrong", "all"] = "unsure"
    device: str = ""
    after: str = ""


def list_queue(call: DashboardRequest) -> list[SelectedResult]:
    """Frames that people should look at: marked as wrong, then the newest."""
    choice = Selection(verdict=call.query.verdict, device=call.query.device, limit=QUEUE_ROWS)
    first: dict[str, SelectedResult] = {}
    for result in reversed(select_results(call.dashboard.config, choice)):
        if result.sha256 not in first or result.wrong:
            first[result.sha256] = result
    return sorted(first.values(), key=lambda one: not one.wrong)


def show(call: DashboardRequest) -> Response:
    """The page of the queue, and of the model against people."""
    return call.page(
        "relabel.html",
        queue=list_queue(call),
        query=call.query,
        rows=QUEUE_ROWS,
        report=_report(call),
        next_url=_next_url(call.query, ""),
        may_operate=call.principal.may("operate"),
    )


def show_next(call: DashboardRequest) -> Response:
    """Goes to the next frame of the queue."""
    queue = list_queue(call)
    names = [one.sha256 for one in queue]
    place = names.index(call.query.after) + 1 if call.query.after in names else 0
    if not queue or place == len(queue):
        return call.redirect(f"/relabel?{_choice(call.query)}")
    one = queue[place]
    path = "/".join(quote(str(part), safe="") for part in (one.device, one.epoch, one.seq))
    return call.redirect(f"/relabel/{path}?{_choice(call.query)}")


def show_one(call: DashboardRequest) -> Response:
    """The page of one frame of the queue."""
    with results_runner(call) as run:
        result = result_of_path(call, run)
    return call.page("result.html", **result_values(call, result), queue=_next_url(call.query, result.frame))


def _choice(query: QueueQuery) -> str:
    return urlencode({"verdict": query.verdict, "device": query.device})


def _next_url(query: QueueQuery, after: str) -> str:
    return f"/relabel/next?{_choice(query)}&after={after}"


def _report(call: DashboardRequest) -> RelabelReport | None:
    dataset = Path(call.dashboard.config.folder) / FOLDER
    return report(dataset) if (dataset / NAME).is_file() else None


def get_report(call: DashboardRequest) -> dict[str, Any]:
    """The model's boxes against people's; empty before the first correction."""
    found = _report(call)
    return {} if found is None else {**msgspec.structs.asdict(found), "dataset": found.dataset.name}


ROUTES = (
    DashboardRoute("GET", "/relabel", "watch", show, query=QueueQuery, menu="Relabel"),
    DashboardRoute("GET", "/relabel/next", "watch", show_next, query=QueueQuery),
    DashboardRoute("GET", "/relabel/{device}/{epoch}/{seq}", "watch", show_one, query=QueueQuery),
    DashboardRoute("GET", f"{API}/relabel/queue", "watch", list_queue, query=QueueQuery),
    DashboardRoute("GET", f"{API}/relabel/report", "watch", get_report),
)
