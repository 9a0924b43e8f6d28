"""The demo's report: annotated PNGs and one self-contained ``report.html``."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec

from lineside.demo import charts
from lineside.demo.count import DemoEvent, DemoRow
from lineside_converters.reports.templating import render
from lineside_models.draw import annotate
from lineside_models.frame import UInt8Array
from lineside_models.image_file import encode_jpeg
from lineside_models.inspection import Detection
from lineside_runtime.files import write_atomic
from lineside_runtime.reports.svg import bars

GALLERY = 24
"""Frames shown on the page."""

ANNOTATED_MAX = 300
JPEG_QUALITY = 82


class DemoOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the demo; ``--json`` prints it.

    Attributes:
        inspected: Frames with a verdict at the hub.
        lost: Frames without a record at the hub.
        duplicates: Records beyond the first of a frame.
        synced: Records at the hub.
        faults: Records without a verdict.
        activated: Bundles that became active, in order.
        rolled_back: Bundles that were refused, with code and reason.
        float: Figures of the float model.
        int8: Figures of the INT8 model on the same frames.
        accuracy_on: Frames with known truth on which ``map50`` was measured; empty if there were none.
        broker_restarted: Whether the broker was killed and restarted.
        frames_by_bundle: Number of frames that each bundle judged.
    """

    frames: int
    inspected: int
    lost: int
    duplicates: int
    synced: int
    faults: int
    activated: list[str]
    rolled_back: list[dict[str, Any]]
    float: dict[str, Any]
    int8: dict[str, Any]
    accuracy_on: str
    requested_device: str
    used_device: str
    broker_restarted: bool
    frames_by_bundle: dict[str, int]
    hub_db: str
    report: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Content of the report.

    Attributes:
        out: Folder of the demo.
        outcome: Its counts and figures.
        results: One a frame, as the hub has them.
        events: The hub's timeline.
        marks: Other events.
        pictures: Pictures in the agent's archive, by sequence number.
    """

    out: Path
    outcome: DemoOutcome
    results: Sequence[DemoRow]
    events: Sequence[DemoEvent]
    marks: Sequence[charts.ChartMark]
    pictures: dict[int, Path]


def write_report(data: ReportData) -> Path:
    """Writes ``annotated/*.png`` and ``report.html``; returns the page."""
    annotated = _annotate_all(data)
    shown = _choose(data.results, annotated)
    verdicts = collections.Counter(row.verdict for row in data.results)
    types = collections.Counter(detection[0] for row in data.results for detection in row.detections)
    order = list(dict.fromkeys(event.bundle for event in data.events if event.kind == "active"))
    outcome = data.outcome
    page = render(
        "demo.html.j2",
        package="lineside.demo",
        title=f"lineside demo: {outcome.inspected} of {outcome.frames} frames inspected",
        outcome=outcome,
        finished_at=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        timeline=charts.timeline(data.results, data.events, data.marks, order),
        latency=charts.histogram([row.latency_ms for row in data.results if row.verdict != "fault"]),
        rows=_compare(outcome.float, outcome.int8),
        type_bars=bars(
            [(name, count, str(count)) for name, count in types.most_common()],
            "Defects found, by type",
            width=charts.HALF,
            label=150,
        )
        if types
        else "",
        verdicts={kind: verdicts.get(kind, 0) for kind in ("pass", "reject", "unsure", "fault")},
        shown=len(shown),
        pictures=[_picture(row, annotated[row.sequence]) for row in shown],
    )
    path = data.out / "report.html"
    write_atomic(path, page.encode())
    return path


def _annotate_all(data: ReportData) -> dict[int, UInt8Array]:
    folder = data.out / "annotated"
    folder.mkdir()
    having = [row for row in data.results if row.sequence in data.pictures]
    step = max(1, -(-len(having) // ANNOTATED_MAX))
    annotated = {}
    for row in having[::step]:
        image = cv2.imread(str(data.pictures[row.sequence]), cv2.IMREAD_COLOR)
        if image is None:
            continue
        found = [
            Detection(type=name, score=score, box=(x1, y1, x2, y2)) for name, score, x1, y1, x2, y2 in row.detections
        ]
        drawn = annotate(image, found, verdict=row.verdict)
        cv2.imwrite(str(folder / f"{row.sequence:06d}.png"), drawn)
        annotated[row.sequence] = drawn
    return annotated


def _choose(results: Sequence[DemoRow], annotated: dict[int, UInt8Array]) -> list[DemoRow]:
    """Chooses frames for the page: each defect type once, a few good ones, then others evenly spread."""
    having = [row for row in results if row.sequence in annotated]
    chosen: dict[int, DemoRow] = {}
    seen: set[str] = set()
    for row in having:
        fresh = {detection[0] for detection in row.detections} - seen
        if fresh:
            seen |= fresh
            chosen[row.sequence] = row
    spread = having[:: max(1, len(having) // GALLERY)]
    for row in [*[row for row in having if row.verdict == "pass"][:4], *spread, *having]:
        if len(chosen) >= GALLERY:
            break
        chosen.setdefault(row.sequence, row)
    return sorted(list(chosen.values())[:GALLERY], key=lambda row: row.sequence)


def _picture(row: DemoRow, image: UInt8Array) -> dict[str, Any]:
    found = ", ".join(f"{name} {score:.2f}" for name, score, *_ in row.detections[:4])
    more = len(row.detections) - 4
    return {
        "part_id": row.part_id,
        "verdict": row.verdict,
        "jpeg": base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode(),
        "found": (found + (f" and {more} more" if more > 0 else "")) or row.error or "no defect found",
    }


def _compare(float_figures: dict[str, Any], int8_figures: dict[str, Any]) -> list[dict[str, str]]:
    rows = (
        ("latency of the model, p50", "latency_ms", "{:.2f} ms", 1.0),
        ("latency of the model, p95", "latency_p95_ms", "{:.2f} ms", 1.0),
        ("size", "size_bytes", "{:.2f} MB", 1e-6),
        ("mAP at IoU 0.5", "map50", "{:.3f}", 1.0),
    )
    made = []
    for name, key, form, scale in rows:
        if key in float_figures and key in int8_figures:
            before, after = float_figures[key] * scale, int8_figures[key] * scale
            ratio = f"{after / before:.2f}" if before else "-"
            made.append({"name": name, "float": form.format(before), "int8": form.format(after), "ratio": ratio})
    return made
