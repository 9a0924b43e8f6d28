"""The benchmark's report as one HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from lineside_runtime.benchmark import charts, text_table
from lineside_runtime.benchmark.operators import Bottleneck
from lineside_runtime.benchmark.report import BenchmarkReport, Result
from lineside_runtime.files import write_atomic
from lineside_runtime.reports import markup

OPERATORS_SHOWN = 15

_LATENCY_NOTE = (
    "Line: 5th to 95th percentile. Box: the middle half. Bar: the median. Ring: the 99th percentile. "
    "Times are of Session.predict, warm."
)
_ROUNDS_NOTE = (
    "Median of each turn against the contestant's own median. Where all lines jump together, the machine was the "
    "cause; the ratios compare round by round and are hardly affected by it."
)
_TILES = {
    "frames/s": "frames a second",
    "p50 ms": "ms, median",
    "p99": "ms, p99",
    "peak MB": "MB at most",
    "start ms": "ms to the first answer",
}
"""Columns of the table that are shown as tiles too, and their captions."""


def page(report: BenchmarkReport) -> str:
    """Returns the page."""
    devices = dict.fromkeys(device for one in report.results for device in one.used_devices)
    title = f"{report.results[-1].bundle} on {', '.join(devices)}"
    body = [
        markup.header(title, _subtitle(report)),
        _tiles(report),
        markup.cautions(text_table.cautions(report)),
        _table(report),
        markup.section("Latency of a call", charts.latencies(report.results), _LATENCY_NOTE),
        markup.section("Noise and drift", charts.rounds(report.results), _ROUNDS_NOTE),
        *(_bottleneck(one, one.bottleneck) for one in report.results if one.bottleneck is not None),
        _conditions(report),
    ]
    return markup.document(f"lineside bench: {title}", "\n".join(filter(None, body)))


def write_page(report: BenchmarkReport, path: Path) -> None:
    """Writes the page atomically."""
    write_atomic(path, page(report).encode())


def _subtitle(report: BenchmarkReport) -> str:
    here = report.machine
    cores = f"{here.cores} core{'s' * (here.cores > 1)}"
    return " · ".join(part for part in (here.board, here.cpu, cores, report.made_at) if part)


def _tiles(report: BenchmarkReport) -> str:
    one = report.results[-1] if len(report.results) == 2 else report.results[0]
    tiles = [
        (text, _TILES[head])
        for head, cell in text_table.columns(report)
        if head in _TILES and (text := cell(one)) != text_table.NOT_MEASURED
    ]
    if one.latency_ratio is not None and one.latency_ratio.differs:
        tiles.insert(0, (f"{1 / one.latency_ratio.median:.2f} ×", f"as fast as {report.baseline}"))
    return f'{markup.tiles(tiles)}<p class="note">Of {escape(one.name)}.</p>'


def _table(report: BenchmarkReport) -> str:
    columns = text_table.columns(report)
    table = markup.table(
        ["", *(head for head, _ in columns)],
        [[one.name, *(cell(one) for _, cell in columns)] for one in report.results],
        dots=True,
    )
    ran = "".join(
        f'<li class="{"bad" if text_table.fell_back(one) else ""}">{escape(one.name)}: '
        f"{escape(text_table.where(one))}</li>"
        for one in report.results
    )
    notes = [*text_table.verdicts(report), *(f"Accuracy: {line}." for line in text_table.sources(report))]
    below = f'<p class="note">{"<br>".join(map(escape, notes))}</p>'
    heading = "Before and after" if len(report.results) > 1 else "Baseline"
    return markup.section(heading, f"{table}<h3>What ran where</h3><ul>{ran}</ul>{below}")


def _bottleneck(one: Result, found: Bottleneck) -> str:
    table = markup.table(
        ("kind", "operator", "calls", "mean µs", "share"),
        [
            (each.kind, each.name, str(each.calls), f"{each.mean_us:.1f}", f"{each.share:.1%}")
            for each in found.operators[:OPERATORS_SHOWN]
        ],
        words=(1,),
    )
    more = len(found.operators) - OPERATORS_SHOWN
    note = (
        f"By {found.source}, {found.runs} runs: {found.operators_ms:.3f} ms in operators of {found.run_ms:.3f} ms "
        f"a run with profiling on. {f'{more} faster operators are in the JSON only. ' if more > 0 else ''}"
        + " ".join(f"{remark[0].upper()}{remark[1:]}." for remark in found.remarks)
    )
    return markup.section(
        f"Where the time goes: {one.name}", f"{charts.kinds(found)}<h3>Slowest operators</h3>{table}", note
    )


def _conditions(report: BenchmarkReport) -> str:
    here, before, after = report.machine, report.before, report.after
    facts = {
        "system": f"{here.system}, Python {here.python}, {here.memory_mb} MB",
        "packages": ", ".join(f"{name} {version}" for name, version in here.packages.items()),
        "clock": _clock(report),
        "temperature": _from_to(before.temperature_c, after.temperature_c, "°C"),
        "throttled": f"{before.throttled or 'no sign of it'} → {after.throttled or 'no sign of it'}",
        "load": _from_to(before.load, after.load, ""),
        "rounds": f"{report.rounds}, turns of {report.turn_ms:g} ms and at least one call, in changing order",
        "warm-up": report.warm_up,
        "input": report.material,
        "start, memory": "of fresh processes, each alone, its files already in the system's cache; "
        "a device's own memory isn't in it",
    }
    return markup.section("How it was measured", markup.facts(facts))


def _clock(report: BenchmarkReport) -> str:
    now = report.after
    if not now.governor and now.clock_mhz is None:
        return "this machine does not say"
    clock = "" if now.clock_mhz is None else f"{now.clock_mhz[0]:.0f} to {now.clock_mhz[1]:.0f} MHz at the end"
    return ", ".join(part for part in (f"governor {now.governor}" if now.governor else "", clock) if part)


def _from_to(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    return f"{before:.1f} → {after:.1f} {unit}".strip()
