"""Results: search, one result with its frame and boxes, marks and corrections, export."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from lineside_hub.relabel.catalogue import labels_of
from lineside_hub.relabel.importer import correct_frame
from lineside_hub.relabel.reviews import Reviews
from lineside_hub.relabel.selection import results_of_frames
from lineside_hub.relabel.validation import PersonBox
from lineside_hub.results.frames.rows import ResultKey
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.queries import Query, export
from lineside_hub.results.search import FoundResult, ResultCursor, find_result, search
from lineside_hub.results.sql import SqlRunner
from lineside_hub.web.pages.statistics import PERIODS, results_runner
from lineside_hub.web.routing import API, DashboardRequest, DashboardRoute, row_number
from lineside_link.messages import NOTE_MAX
from lineside_link.result_table import moment
from lineside_runtime.errors import InputNotFoundError, LinesideError, RequestError

VERDICTS = ("pass", "reject", "unsure", "fault")
EXPORT_ROWS_MAX = 100_000


class ResultsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which results.

    Attributes:
        bundle: ``name@version``, or a name for all of its versions.
        defect: Type of a defect, or a rule that is not met; only results that did not pass.
        since: From this time on: ``7d`` for seven days ago, ``2026-11-24T06:00`` (UTC), or ``all``.
        until: Before this time, in the same forms.
        with_frame: Only those of which a frame is here.
        after: Where the page begins, from the page before.
        format: Of an export.
    """

    part: str = ""
    device: str = ""
    bundle: str = ""
    recipe: str = ""
    verdict: Literal["", "pass", "reject", "unsure", "fault"] = ""
    defect: str = ""
    since: str = "7d"
    until: str = ""
    with_frame: bool = False
    after: str = ""
    format: Literal["csv", "parquet"] = "csv"


class ResultMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person says of a verdict.

    Attributes:
        wrong: Whether the verdict is wrong; false withdraws that.
        note: For the person who corrects it.
    """

    wrong: bool
    note: str = ""


class FrameCorrection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A person's boxes of a frame.

    Attributes:
        boxes: ``[type, x1, y1, x2, y2]`` each, in pixels of the frame; none for a good part.
        new_types: Types among them that the model does not know.
    """

    boxes: tuple[PersonBox, ...]
    new_types: tuple[str, ...] = ()


def _query(query: ResultsQuery, *, limit: int | None = None) -> Query:
    return Query(
        part_id=query.part,
        device=query.device,
        bundle=query.bundle,
        recipe=query.recipe,
        verdict=query.verdict,
        defect=query.defect,
        since_ns=None if query.since in ("", "all") else moment(query.since),
        until_ns=moment(query.until) if query.until else None,
        with_frame=query.with_frame,
        limit=limit,
    )


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a search.

    Attributes:
        results: Newest first.
        after: Of the next page; empty on the last one.
    """

    results: tuple[FoundResult, ...]
    after: str


def list_results(call: DashboardRequest) -> FoundPage:
    """A page of results, newest first."""
    after = ResultCursor.decode(call.query.after) if call.query.after else None
    with results_runner(call) as run:
        page = search(run, _query(call.query), after=after)
    return FoundPage(results=page.results, after=page.after.encode() if page.after else "")


def show(call: DashboardRequest) -> Response:
    """The page of the search."""
    page = list_results(call)
    return call.page(
        "results.html",
        query=call.query,
        found=page.results,
        after=page.after,
        fields={name: value for name, value in msgspec.structs.asdict(call.query).items() if name != "after"},
        verdicts=VERDICTS,
        periods=PERIODS,
        export_rows=EXPORT_ROWS_MAX,
    )


def result_of_path(call: DashboardRequest, run: SqlRunner) -> FoundResult:
    """Returns the result that the request's path names.

    Raises:
        InputNotFoundError: There is none.
    """
    path = call.path
    found = find_result(run, ResultKey(path["device"], path["epoch"], row_number(path["seq"])))
    if found is None:
        raise InputNotFoundError("there is no such result", action="Search for it on the page of results.")
    return found


def show_one(call: DashboardRequest) -> Response:
    """The page of one result."""
    with results_runner(call) as run:
        result = result_of_path(call, run)
    return call.page("result.html", **result_values(call, result), queue="")


def result_values(call: DashboardRequest, result: FoundResult) -> dict[str, Any]:
    """Returns what the template of a result needs."""
    may_operate = call.principal.may("operate")
    return {
        "result": result,
        "may_operate": may_operate,
        "types": _types(call, result) if may_operate and result.frame else [],
    }


def _types(call: DashboardRequest, result: FoundResult) -> list[str]:
    """Returns the types that a person may choose: those of the bundle, and those that are on the frame."""
    seen = [box[0] for box in result.detections] + [box[0] for box in result.boxes or ()]
    try:
        known = labels_of(call.folder, results_of_frames(call.dashboard.config, [result.frame]))
    except LinesideError:  # a bundle that was not published here
        known = ()
    return list(dict.fromkeys([*known, *seen]))


def get_one(call: DashboardRequest) -> FoundResult:
    """One result."""
    with results_runner(call) as run:
        return result_of_path(call, run)


def set_mark(call: DashboardRequest) -> FoundResult:
    """Mark the verdict of a result as wrong, or withdraw that."""
    mark: ResultMark = call.body
    if len(mark.note) > NOTE_MAX or "\0" in mark.note:
        raise RequestError("the note", expected=f"at most {NOTE_MAX} characters, and no NUL", action="Shorten it.")
    with results_runner(call) as run:
        before = result_of_path(call, run)
        Reviews(run).mark(before.key, wrong=mark.wrong, note=mark.note, by=call.principal.name)
        said = {"wrong": before.wrong, "note": before.note}
        call.note(" ".join(map(str, before.key)), before=said, after=mark)
        return result_of_path(call, run)


def correct(call: DashboardRequest) -> dict[str, int]:
    """Store a person's boxes of a frame in reviews and dataset."""
    sha256, body = call.path["sha256"], call.body
    with results_runner(call) as run:
        found = run(
            "SELECT v.boxes, v.corrected_by FROM frames f JOIN reviews v ON v.device = f.device AND v.epoch = f.epoch "
            "AND v.seq = f.seq WHERE f.sha256 = :sha256 AND v.boxes <> '' LIMIT 1",
            {"sha256": sha256},
        )
    before = {"boxes": msgspec.Raw(found[0][0].encode()), "by": found[0][1]} if found else None
    call.note(sha256, before=before, after=body.boxes)
    done = correct_frame(call.dashboard.config, sha256, body.boxes, by=call.principal.name, new_types=body.new_types)
    return done.boxes


_FRAME_HEADERS = {"Cache-Control": "private, max-age=86400, immutable"}
"""The name is the hash of the content; only who is signed in may have it."""


def get_frame(call: DashboardRequest) -> Response:
    """The image of a result."""
    _check_frame(call)
    return Response(_read_frame(call), media_type="image/png", headers=_FRAME_HEADERS)


def get_thumbnail(call: DashboardRequest) -> Response:
    """A small image of a result, for lists."""
    _check_frame(call)
    sha256, kept = call.path["sha256"], call.dashboard.thumbnails
    made = kept.get(sha256) or kept.add(sha256, _read_frame(call))
    return Response(made, media_type="image/jpeg", headers=_FRAME_HEADERS)


def _check_frame(call: DashboardRequest) -> None:
    with results_runner(call) as run:
        if not run("SELECT 1 FROM frames WHERE sha256 = :sha256 LIMIT 1", {"sha256": call.path["sha256"]}):
            raise _no_frame()


def _read_frame(call: DashboardRequest) -> bytes:
    sha256 = call.path["sha256"]
    data = frame_blobs(call.dashboard.config).read(sha256)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise _no_frame()
    return data


def _no_frame() -> InputNotFoundError:
    return InputNotFoundError("there is no such frame", action="The hub's retention removes frames.")


def get_export(call: DashboardRequest) -> Response:
    """A file of the selected results, the newest of them if there are many."""
    folder = tempfile.TemporaryDirectory(prefix="lineside-export-")
    path = Path(folder.name) / f"results.{call.query.format}"
    try:
        export(call.dashboard.config, _query(call.query, limit=EXPORT_ROWS_MAX), path)
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(path, filename=path.name, background=BackgroundTask(folder.cleanup))


_ONE = "{device}/{epoch}/{seq}"

ROUTES = (
    DashboardRoute("GET", "/results", "watch", show, query=ResultsQuery, menu="Results"),
    DashboardRoute("GET", f"/results/{_ONE}", "watch", show_one),
    DashboardRoute("GET", "/frames/{sha256}", "watch", get_frame),
    DashboardRoute("GET", "/frames/{sha256}/thumbnail", "watch", get_thumbnail),
    DashboardRoute("GET", "/results/export", "watch", get_export, query=ResultsQuery),
    DashboardRoute("GET", f"{API}/results", "watch", list_results, query=ResultsQuery),
    DashboardRoute("GET", f"{API}/results/{_ONE}", "watch", get_one),
    DashboardRoute("POST", f"{API}/results/{_ONE}/mark", "operate", set_mark, action="mark result", body=ResultMark),
    DashboardRoute(
        "POST",
        f"{API}/frames/{{sha256}}/boxes",
        "operate",
        correct,
        action="correct boxes",
        body=FrameCorrection,
        body_max_bytes=1 << 20,
    ),
)
