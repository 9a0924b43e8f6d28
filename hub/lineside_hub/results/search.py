"""Search of results, newest first, in pages.

A page continues behind the last result of the page before (keyset paging): the thousandth page is as fast as the first,
and results that arrive meanwhile shift nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from lineside_hub.results.frames.rows import ResultKey
from lineside_hub.results.queries import ORDER, WITH_FRAMES, Query
from lineside_hub.results.sql import SqlRunner
from lineside_hub.statistics.counts import HOUR_NS, CountFilter, newest_hours
from lineside_link.messages import MeasuredValue, ReadMark, View
from lineside_link.result_table import RESULT_COLUMNS
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import BadInputFormatError

PAGE_ROWS = 50


class ResultCursor(NamedTuple):
    """Place of a result in the order of a search."""

    captured_at_ns: int
    device: str
    epoch: str
    seq: int

    def encode(self) -> str:
        """Returns the cursor as a text for a URL."""
        return msgspec.json.encode(self).hex()

    @classmethod
    def decode(cls, text: str) -> ResultCursor:
        """Reads what `encode` wrote.

        Raises:
            BadInputFormatError: It is no cursor.
        """
        try:
            return decode_json(bytes.fromhex(text), type=ResultCursor)
        except (ValueError, msgspec.DecodeError) as error:
            raise BadInputFormatError("the place in the results", actual=text[:80], action="Search again.") from error


class FoundResult(msgspec.Struct, frozen=True, kw_only=True):
    """A result with its frame and review; fields as in `lineside_link.messages.ResultRow`.

    Attributes:
        verdict: ``pass``, ``reject``, ``unsure`` or ``fault``.
        detections: ``[type, score, x1, y1, x2, y2]`` each; boxes in pixels of the frame.
        frame: sha256 of the frame; empty if it is not here.
        wrong: Whether a person marked the verdict as wrong.
        marked_by: Who marked it, or withdrew the mark; empty for nobody.
        boxes: A person's boxes, ``[type, x1, y1, x2, y2]`` each; ``None`` if nobody corrected it.
        corrected_by: Who corrected it; empty for nobody.
    """

    key: ResultKey
    part_id: str
    source: str
    captured_at_ns: int
    received_at_ns: int
    verdict: str
    detections: tuple[tuple[str, float, float, float, float, float], ...]
    measurements: tuple[MeasuredValue, ...]
    readings: tuple[ReadMark, ...]
    views: tuple[View, ...]
    bundle: str
    recipe: str
    requested_device: str
    used_device: str
    used_variant: str
    latency_ms: float
    width: int
    height: int
    error: str
    frame: str
    wrong: bool
    note: str
    marked_by: str
    boxes: tuple[tuple[str, float, float, float, float], ...] | None
    corrected_by: str

    @property
    def cursor(self) -> ResultCursor:
        """Its place in the order of a search."""
        return ResultCursor(self.captured_at_ns, *self.key)


class ResultPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a search.

    Attributes:
        results: Newest first.
        after: Where the next page begins; ``None`` on the last one.
    """

    results: tuple[FoundResult, ...]
    after: ResultCursor | None


_REVIEW = ("wrong", "note", "marked_by", "boxes", "corrected_by")
_SELECT = (
    f"SELECT {', '.join(f'r.{name}' for name in RESULT_COLUMNS)}, f.sha256 AS frame, "
    f"{', '.join(f'v.{name}' for name in _REVIEW)} FROM results r {WITH_FRAMES} "
    "LEFT JOIN reviews v ON v.device = r.device AND v.epoch = r.epoch AND v.seq = r.seq"
)
_NAMES = (*RESULT_COLUMNS, "frame", *_REVIEW)


def search(run: SqlRunner, query: Query, *, after: ResultCursor | None = None, rows: int = PAGE_ROWS) -> ResultPage:
    """Returns one page of the selected results.

    Args:
        query: Its ``limit`` is not used. With a defect type only results that did not pass are found.
        after: Where the page begins; ``None`` for the newest.
    """
    conditions, given = query.where()
    if query.defect or query.verdict not in ("", "pass"):
        # Of all devices by the index of what did not pass; of one device by its own, which is shorter.
        conditions.append("coalesce(r.verdict, '') <> 'pass'" if query.device else "r.verdict <> 'pass'")
    if after is not None:
        conditions.append(f"r.captured_at_ns <= :after_0 AND ({_columns()}) < (:after_0, :after_1, :after_2, :after_3)")
        given |= {f"after_{place}": value for place, value in enumerate(after)}
    begin_ns = _bound(run, query, after, rows + 1)
    found = _page(run, conditions, given, rows + 1, begin_ns)
    if len(found) <= rows and begin_ns is not None:  # conditions that the counts do not have
        found = _page(run, conditions, given, rows + 1, None)
    results = tuple(found_result(row) for row in found[:rows])
    return ResultPage(results=results, after=results[-1].cursor if len(found) > rows else None)


def find_result(run: SqlRunner, key: ResultKey) -> FoundResult | None:
    """Returns one result; ``None`` if there is none."""
    text = f"{_SELECT} WHERE r.device = :device AND r.epoch = :epoch AND r.seq = :seq"
    found = run(text, key._asdict())
    return found_result(found[0]) if found else None


def _bound(run: SqlRunner, query: Query, after: ResultCursor | None, enough: int) -> int | None:
    """Returns the begin of the hours that hold the page, by the counts; ``None`` if they do not say."""
    if query.part_id or query.with_frame or query.unknown:
        return None
    ends = [end for end in (query.until_ns, after.captured_at_ns if after is not None else None) if end is not None]
    choice = CountFilter(
        devices=(query.device,) if query.device else (),
        bundle=query.bundle,
        recipe=query.recipe,
        since_ns=query.since_ns,
        # The hour of the end itself may hold results behind the end.
        until_ns=min(ends) // HOUR_NS * HOUR_NS if ends else None,
    )
    return newest_hours(run, choice, verdict=query.verdict, defect=query.defect, enough=enough)


def _page(
    run: SqlRunner, conditions: list[str], given: dict[str, object], rows: int, begin_ns: int | None
) -> list[Any]:
    bound = [] if begin_ns is None else ["r.captured_at_ns >= :begin_ns"]
    where = " AND ".join([*conditions, *bound]) or "1 = 1"
    order = ", ".join(f"r.{name} DESC" for name in ORDER)
    text = f"{_SELECT} WHERE {where} ORDER BY {order} LIMIT :rows"
    more = {"rows": rows} | ({"begin_ns": begin_ns} if bound else {})
    return list(run(text, {**given, **more}))


def _columns() -> str:
    return ", ".join(f"r.{name}" for name in ORDER)


def found_result(row: Any) -> FoundResult:
    """Reads a row of the search's columns."""
    known = dict(zip(_NAMES, row, strict=True))
    key = ResultKey(known["device"], known["epoch"], int(known["seq"]))
    texts = ("source", "bundle", "requested_device", "used_device", "error", "frame", "note", "marked_by")
    numbers = ("captured_at_ns", "received_at_ns", "width", "height", "latency_ms")
    # The first releases' SQLite tables have NULL in some columns.
    plain: dict[str, Any] = {name: known[name] or "" for name in texts} | {name: known[name] or 0 for name in numbers}
    boxes = known["boxes"]
    return FoundResult(
        key=key,
        part_id=known["part_id"],
        verdict=known["verdict"],
        recipe=known["recipe"],
        used_variant=known["used_variant"],
        detections=decode_json(known["detections"], type=tuple[tuple[str, float, float, float, float, float], ...]),
        measurements=decode_json(known["measurements"], type=tuple[MeasuredValue, ...]),
        readings=decode_json(known["readings"], type=tuple[ReadMark, ...]),
        views=decode_json(known["views"], type=tuple[View, ...]),
        wrong=bool(known["wrong"]),
        boxes=decode_json(boxes, type=tuple[tuple[str, float, float, float, float], ...]) if boxes else None,
        corrected_by=known["corrected_by"] or "",
        **plain,
    )
