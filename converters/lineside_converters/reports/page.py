"""``report.html``: the content of ``report.json`` as one page.

- The page in a bundle holds no picture of a frame, because a data set's frames may not be shipped. The page with the
  pictures stands beside the bundle, as ``<bundle>.report.html``.
- Everything on the page except those pictures is in ``report.json``, so that an old bundle's page can be made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from lineside_converters.reports import charts
from lineside_converters.reports.frames import ShownFrame
from lineside_converters.reports.report import ModelFigures, OptimizationReport
from lineside_converters.reports.templating import megabytes, render
from lineside_runtime.files import write_atomic
from lineside_runtime.precision import FLOAT_PRECISIONS

PAGE_NAME = "report.html"
BESIDE_SUFFIX = ".report.html"


@dataclasses.dataclass(frozen=True, slots=True)
class ReportRow:
    """One figure before and after, as text; ``good`` is ``None`` if the change is neither better nor worse."""

    name: str
    before: str
    after: str
    change: str
    good: bool | None


def page(report: OptimizationReport, shown: Sequence[ShownFrame] = ()) -> str:
    """Returns the page.

    Args:
        shown: Frames on which the models disagree, drawn; none on a page that is shipped.
    """
    limit = next((gate.limit for gate in report.gates if gate.name == "accuracy"), None)
    return render(
        "optimization.html.j2",
        title=f"{report.model}: level {report.level}",
        report=report,
        rows=_rows(report),
        figures=_tiles(report),
        shown=shown,
        drop=charts.drop(report.metric, limit) if report.metric else "",
        layers=charts.layers(report.layers) if report.layers else "",
        floats=[layer for layer in report.layers if layer.precision in FLOAT_PRECISIONS],
        curves=charts.curves(report.curves) if report.curves else "",
        curves_shown=min(len(report.curves), charts.CURVES_MAX),
        front=charts.front(report.candidates, _metric_name(report)) if report.candidates else "",
        series=list(dict.fromkeys(each.series for each in report.candidates)),
    )


def write_page(path: Path, report: OptimizationReport, shown: Sequence[ShownFrame] = ()) -> None:
    """Writes the page atomically."""
    write_atomic(path, page(report, shown).encode())


def beside(bundle: Path) -> Path:
    """Returns the path of the page with the pictures, beside the bundle's folder."""
    return bundle.with_name(bundle.name + BESIDE_SUFFIX)


def _metric_name(report: OptimizationReport) -> str:
    return report.metric.name if report.metric else "mAP@0.5" if report.float.map50 is not None else "metric"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("latency, mean of the frames' medians", "latency_ms", _ms),
    ("latency, 95th percentile", "latency_p95_ms", _ms),
    ("throughput, a caller for each core", "throughput_fps", "{:.1f} frames/s".format),
    ("peak memory", "memory_bytes", megabytes),
    ("size of the model", "size_bytes", megabytes),
)
"""Rows of the table before and after: name, field of `ModelFigures`, how it is written."""


def _is_measured(report: OptimizationReport) -> bool:
    return all(gate.status == "passed" for gate in report.gates if gate.name == "speed")


def _rows(report: OptimizationReport) -> list[ReportRow]:
    one, two = report.float, report.int8
    more = ("throughput_fps",)
    rows = [
        _row(name, getattr(one, field), getattr(two, field, None), form, more=field in more)
        for name, field, form in _FIGURES
    ]
    made = [row for row in rows if row is not None]
    if two is not None:
        ratio = _time_ratio(report, two)
        made[0] = dataclasses.replace(made[0], change=f"{ratio:.2f} ×", good=_better(ratio, more=False))
    metric = report.metric
    if metric is not None:
        made.append(_metric_row(metric.name, metric.before, metric.after))
    elif one.map50 is not None and two is not None and two.map50 is not None:
        made.append(_metric_row("mAP@0.5", one.map50, two.map50))
    elif one.map50 is not None:
        made.append(ReportRow("mAP@0.5", f"{one.map50:.4f}", "", "", None))
    return made


def _metric_row(name: str, before: float, after: float) -> ReportRow:
    points = (after - before) * 100
    change = f"{points:+.2f} points".replace("-", "−")
    return ReportRow(name, f"{before:.4f}", f"{after:.4f}", change, None if abs(points) < 0.005 else points > 0)


def _row(
    name: str, before: float | None, after: float | None, form: Callable[[float], str], *, more: bool = False
) -> ReportRow | None:
    """Returns a row of a figure of which less, or ``more``, is better; ``None`` if it was not measured."""
    if before is None or (after is None and not before):
        return None
    if after is None:
        return ReportRow(name, form(before), "", "", None)
    ratio = after / before if before else 1.0
    return ReportRow(name, form(before), form(after), f"{ratio:.2f} ×", _better(ratio, more=more))


def _better(ratio: float, *, more: bool) -> bool | None:
    return None if 0.99 < ratio < 1.01 else (ratio > 1) is more


def _tiles(report: OptimizationReport) -> list[tuple[str, str]]:
    """Returns the main figures, each with its meaning."""
    one, two, metric = report.float, report.int8, report.metric
    found = []
    if two is not None:
        where = "" if _is_measured(report) else ", here; the target is elsewhere and measures for itself"
        where = f" on {report.timed_on}" if report.timed_on else where
        found.append((f"{1 / _time_ratio(report, two):.2f} ×", f"as fast as the source model{where}"))
        found.append((f"{two.size_bytes / one.size_bytes:.2f} ×", "its size"))
        if one.memory_bytes and two.memory_bytes:
            found.append((f"{two.memory_bytes / one.memory_bytes:.2f} ×", "its peak memory"))
    if metric is not None:
        words = f"points of {metric.name}, at worst {_points(metric.high)} at {metric.confidence:.0%}"
        found.append((_points(metric.before - metric.after), words))
    elif two is not None and one.map50 is not None and two.map50 is not None:
        found.append((_points(one.map50 - two.map50), "points of mAP@0.5"))
    passed = sum(gate.status == "passed" for gate in report.gates)
    forced = [gate.name for gate in report.gates if gate.status == "overridden"]
    rest = f"{' and '.join(forced)} overridden" if forced else "the others could not be measured here"
    found.append((f"{passed} of {len(report.gates)}", f"gates passed; {rest}"))
    if passed == len(report.gates):
        found[-1] = (str(passed), "gates, all passed")
    return found


def _time_ratio(report: OptimizationReport, fastest: ModelFigures) -> float:
    """Returns the fastest variant's share of the source model's time: of paired calls, where the report has it."""
    return report.time_ratio or fastest.latency_ms / report.float.latency_ms


def _points(drop: float) -> str:
    """A drop of 0.004 as ``−0.40``: a loss is negative here."""
    return f"{-drop * 100 + 0.0:+.2f}".replace("-", "−")
