"""``evolution.html``: the deployed network beside the candidate."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.evolution.report import EvolutionReport, points
from lineside_converters.evolution.verdict_comparison import ComparedError, ErrorDifference
from lineside_converters.reports import charts
from lineside_converters.reports.report import OptimizationReport
from lineside_converters.reports.templating import megabytes, render
from lineside_runtime.files import write_atomic


def page(report: EvolutionReport, optimized: OptimizationReport) -> str:
    """Returns the page.

    Args:
        optimized: Report of the candidate's optimizer, for the front of the search.
    """
    metric = optimized.metric.name if optimized.metric else "metric"
    return render(
        "evolution.html.j2",
        title=f"{report.candidate} beside {report.deployed}",
        report=report,
        figures=_tiles(report),
        rows=_rows(report),
        front=charts.front(optimized.candidates, metric) if optimized.candidates else "",
        series=list(dict.fromkeys(each.series for each in optimized.candidates)),
        gates=optimized.gates,
    )


def write_page(path: Path, report: EvolutionReport, optimized: OptimizationReport) -> None:
    """Writes the page atomically."""
    write_atomic(path, page(report, optimized).encode())


def _tiles(report: EvolutionReport) -> list[tuple[str, str]]:
    verdicts, latency = report.verdicts, report.latency
    found = [(points(verdicts.error.value), f"points of verdict error, {_between(verdicts.error)} at 95 %")]
    found.append((f"{latency.ratio:.2f} ×", f"the time, {latency.low:.2f} to {latency.high:.2f}, on {latency.where}"))
    before, after = report.size_bytes
    found.append((f"{after / before:.2f} ×", "the size of the bundle"))
    found.append((str(verdicts.parts), f"parts that neither was trained on, {verdicts.frames} frames"))
    return found


def _rows(report: EvolutionReport) -> list[tuple[str, str, str, str, str]]:
    """Returns the table: name, deployed, candidate, difference, and whether that is good or bad."""
    verdicts, latency = report.verdicts, report.latency
    rows = [_error_row("escapes: bad parts that pass", verdicts.escapes)]
    if verdicts.false_rejects is not None:
        rows.append(_error_row("false rejects of good parts", verdicts.false_rejects))
    change = f"{latency.ratio:.2f} × ({latency.low:.2f} to {latency.high:.2f})"
    css = "good" if latency.high < 1 else "bad" if latency.low > 1 else ""
    name = f"time of a {latency.what}" if latency.what == "verdict" else "time of an inference"
    rows.append((f"{name}, {latency.where}", f"{latency.before_ms:.2f} ms", f"{latency.after_ms:.2f} ms", change, css))
    before, after = report.size_bytes
    rows.append(("size of the bundle", megabytes(before), megabytes(after), f"{after / before:.2f} ×", ""))
    return rows


def _error_row(name: str, error: ComparedError) -> tuple[str, str, str, str, str]:
    difference = error.difference
    css = "good" if difference.high < 0 else "bad" if difference.low > 0 else ""
    change = f"{points(difference.value)} points ({_between(difference)}); {error.mended} mended, {error.new} new"
    return (name, _rate(error.before, error.of, error.before_interval), _after(error), change, css)


def _after(error: ComparedError) -> str:
    return _rate(error.after, error.of, error.after_interval)


def _rate(count: int, of: int, ends: tuple[float, float]) -> str:
    share = count / of if of else 0.0
    return f"{share:.1%} ({ends[0]:.1%} – {ends[1]:.1%}; {count} of {of})"


def _between(difference: ErrorDifference) -> str:
    return f"{points(difference.low)} to {points(difference.high)}"
