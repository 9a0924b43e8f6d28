"""The report as one HTML file: no script, no other file, readable by day and by night."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from lineside_runtime.benchmark.operators import Bottleneck
from lineside_runtime.benchmark.pages import charts, style, text_table
from lineside_runtime.benchmark.pages.svg import COLOURS
from lineside_runtime.benchmark.report import BenchmarkReport, Result
from lineside_runtime.files import write_atomic

OPERATORS_SHOWN = 15


def page(report: BenchmarkReport) -> str:
    """Returns the page."""
    devices = dict.fromkeys(device for one in report.results for device in one.used_devices)
    title = f"{report.results[-1].bundle} on {', '.join(devices)}"
    body = [
        f"<header><h1>{_text(title)}</h1><p>{_text(_subtitle(report))}</p></header>",
        _tiles(report),
        _cautions(report),
        _table(report),
        _section("Latency of a call", charts.latencies(report.results), _LATENCY_NOTE),
        _section("Noise and drift", charts.rounds(report.results), _ROUNDS_NOTE),
        *(_bottleneck(one, one.bottleneck) for one in report.results if one.bottleneck is not None),
        _conditions(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>lineside bench: {_text(title)}</title>\n<style>{style.STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(filter(None, body))}\n</main>\n</body>\n</html>\n"
    )


def write_page(report: BenchmarkReport, path: Path) -> None:
    """Writes the page, whole or not at all."""
    write_atomic(path, page(report).encode())


_LATENCY_NOTE = (
    "Line: 5th to 95th percentile. Box: the middle half. Bar: the median. Ring: the 99th percentile. "
    "Times are of Session.predict, warm."
)
_ROUNDS_NOTE = (
    "Median of each turn against the contestant's own median. Where all lines jump together, it was the machine; "
    "the ratios compare round by round and are hardly touched by that."
)


def _subtitle(report: BenchmarkReport) -> str:
    here = report.machine
    cores = f"{here.cores} core{'s' * (here.cores > 1)}"
    return " · ".join(part for part in (here.board, here.cpu, cores, report.made_at) if part)


def _tiles(report: BenchmarkReport) -> str:
    one = report.results[-1] if len(report.results) == 2 else report.results[0]
    figures = [
        (text, head) for head, cell in text_table.columns(report) if (text := cell(one)) != text_table.NOT_MEASURED
    ]
    wanted = {
        "frames/s": "frames a second",
        "p50 ms": "ms, median",
        "p99": "ms, p99",
        "peak MB": "MB at most",
        "start ms": "ms to the first answer",
    }
    tiles = [
        f"<div class=tile><b>{_text(text)}</b><span>{wanted[head]}</span></div>"
        for text, head in figures
        if head in wanted
    ]
    if one.latency_ratio is not None and one.latency_ratio.differs:
        faster = f"{1 / one.latency_ratio.median:.2f} ×"
        tiles.insert(0, f"<div class=tile><b>{faster}</b><span>as fast as {_text(report.baseline)}</span></div>")
    return f"<div class=tiles>{''.join(tiles)}</div><p class=note>Of {_text(one.name)}.</p>"


def _cautions(report: BenchmarkReport) -> str:
    lines = text_table.cautions(report)
    return _section("Before you trust this", _list(lines)) if lines else ""


def _table(report: BenchmarkReport) -> str:
    heads = text_table.columns(report)
    rows = [
        f"<tr><td><i class='dot c{number % COLOURS}'></i>{_text(one.name)}</td>"
        + "".join(f"<td>{_text(cell(one))}</td>" for _, cell in heads)
        + "</tr>"
        for number, one in enumerate(report.results)
    ]
    titles = "".join(f"<th>{_text(head)}</th>" for head, _ in heads)
    head = f"<thead><tr><th></th>{titles}</tr></thead>"
    table = f"<div class=scroll><table>{head}<tbody>{''.join(rows)}</tbody></table></div>"
    ran = "".join(
        f"<li class='{'bad' if text_table.fell_back(one) else ''}'>{_text(one.name)}: "
        f"{_text(text_table.where(one))}</li>"
        for one in report.results
    )
    notes = "<br>".join(
        map(_text, [*text_table.verdicts(report), *(f"Accuracy: {line}." for line in text_table.sources(report))])
    )
    heading = "Before and after" if len(report.results) > 1 else "Baseline"
    return _section(heading, f"{table}<h3>What ran where</h3><ul>{ran}</ul><p class=note>{notes}</p>")


def _bottleneck(one: Result, found: Bottleneck) -> str:
    rows = "".join(
        f"<tr><td>{_text(each.kind)}</td><td class=left>{_text(each.name)}</td><td>{each.calls}</td>"
        f"<td>{each.mean_us:.1f}</td><td>{each.share:.1%}</td></tr>"
        for each in found.operators[:OPERATORS_SHOWN]
    )
    more = len(found.operators) - OPERATORS_SHOWN
    table = (
        "<div class=scroll><table><thead><tr><th>kind</th><th class=left>operator</th><th>calls</th><th>mean µs</th>"
        f"<th>share</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    note = (
        f"By {found.source}, {found.runs} runs: {found.operators_ms:.3f} ms in operators of {found.run_ms:.3f} ms "
        f"a run with profiling on. {f'{more} faster operators are in the JSON only. ' if more > 0 else ''}"
        + " ".join(f"{remark[0].upper()}{remark[1:]}." for remark in found.remarks)
    )
    return _section(f"Where the time goes: {one.name}", f"{charts.kinds(found)}<h3>Slowest operators</h3>{table}", note)


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
    cells = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in facts.items() if value)
    return _section("How it was measured", f"<dl>{cells}</dl>")


def _clock(report: BenchmarkReport) -> str:
    now = report.after
    if not now.governor and now.clock_mhz is None:
        return "this machine doesn't tell"
    clock = "" if now.clock_mhz is None else f"{now.clock_mhz[0]:.0f} to {now.clock_mhz[1]:.0f} MHz at the end"
    return ", ".join(part for part in (f"governor {now.governor}" if now.governor else "", clock) if part)


def _from_to(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    return f"{before:.1f} → {after:.1f} {unit}".strip()


def _section(heading: str, content: str, note: str = "") -> str:
    below = f"<p class=note>{_text(note)}</p>" if note else ""
    return f"<section><h2>{_text(heading)}</h2>{content}{below}</section>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _text(value: str) -> str:
    return html.escape(value)
