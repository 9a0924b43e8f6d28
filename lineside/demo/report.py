"""The demo's report: annotated PNGs and one self-contained ``report.html``."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jinja2

from lineside.demo import charts
from lineside.demo.count import DemoEvent, DemoRow
from lineside_models.draw import annotate
from lineside_models.frame import UInt8Array
from lineside_models.inspection import Detection
from lineside_runtime.files import write_atomic

if TYPE_CHECKING:
    from lineside.demo.demo import DemoOutcome

GALLERY = 24
"""Frames shown on the page; more would make the file heavy without telling more."""

ANNOTATED_MAX = 300
JPEG_QUALITY = 82


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """What the report shows.

    Attributes:
        out: Folder of the demo.
        outcome: Its counts and figures.
        results: One a frame, as the hub has them.
        events: The hub's timeline.
        marks: What happened besides.
        pictures: Sequence number of a frame to its picture in the agent's archive.
    """

    out: Path
    outcome: DemoOutcome
    results: Sequence[DemoRow]
    events: Sequence[DemoEvent]
    marks: Sequence[charts.ChartMark]
    pictures: dict[int, Path]


def write_report(data: ReportData) -> Path:
    """Writes ``annotated/*.png`` and ``report.html``.

    Args:
        data: What to show.

    Returns:
        The page.
    """
    annotated = _annotate_all(data)
    shown = _choose(data.results, annotated)
    verdicts = collections.Counter(row.verdict for row in data.results)
    types = collections.Counter(detection[0] for row in data.results for detection in row.detections)
    order = list(dict.fromkeys(event.bundle for event in data.events if event.kind == "active"))
    page = _template().render(
        outcome=data.outcome,
        finished_at=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        timeline=charts.timeline(data.results, data.events, data.marks, order),
        latency=charts.histogram([row.latency_ms for row in data.results if row.verdict != "fault"]),
        figures=_compare(data.outcome.float, data.outcome.int8),
        types=types,
        type_bars=charts.bars(types.most_common()),
        verdicts={kind: verdicts.get(kind, 0) for kind in ("pass", "reject", "unsure", "fault")},
        shown=len(shown),
        pictures=[_picture(row, annotated[row.sequence]) for row in shown],
    )
    path = data.out / "report.html"
    write_atomic(path, page.encode())
    return path


def _template() -> jinja2.Template:
    text = (importlib.resources.files("lineside.demo") / "templates" / "report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(text)


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
    """Chooses frames for the page: each defect type once first, a few good ones, then a spread of the others."""
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
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    found = ", ".join(f"{name} {score:.2f}" for name, score, *_ in row.detections[:4])
    more = len(row.detections) - 4
    return {
        "part_id": row.part_id,
        "verdict": row.verdict,
        "jpeg": base64.b64encode(jpeg.tobytes()).decode(),
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
