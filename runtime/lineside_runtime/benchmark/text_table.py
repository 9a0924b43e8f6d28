"""Figures as text columns, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineside_runtime.benchmark.operators import Bottleneck
from lineside_runtime.benchmark.report import BenchmarkReport, Result
from lineside_runtime.benchmark.summary_statistics import Ratio

NOT_MEASURED = "–"

UNDECIDED = 1.1
"""An interval that spans more than this factor around 1 is too wide to say that nothing has changed."""

_KINDS_SHOWN = 10

Column = tuple[str, Callable[[Result], str]]


def columns(report: BenchmarkReport) -> list[Column]:
    """Returns the columns of the before-and-after table: heading and cell."""
    found: list[Column] = [
        ("frames/s", lambda one: _digits(one.throughput_fps)),
        ("p50 ms", lambda one: _digits(one.latency_ms.p50)),
        ("p95", lambda one: _digits(one.latency_ms.p95)),
        ("p99", lambda one: _digits(one.latency_ms.p99)),
    ]
    if len(report.results) > 1:
        found.append(("time ×", lambda one: "1" if one.latency_ratio is None else ratio(one.latency_ratio)))
    found += [
        ("CPU ms", lambda one: _digits(one.cpu_ms)),
        ("peak MB", lambda one: NOT_MEASURED if one.memory is None else f"{one.memory.peak_mb:.0f}"),
        ("RSS MB", lambda one: NOT_MEASURED if one.memory is None else f"{one.memory.resident_mb:.0f}"),
        ("start ms", lambda one: NOT_MEASURED if one.start is None else f"{one.start.first_result_ms:.0f}"),
        ("file MB", lambda one: f"{one.size_bytes / 1e6:.2f}"),
        ("accuracy", lambda one: NOT_MEASURED if one.accuracy is None else f"{one.accuracy.value:.3f}"),
    ]
    return found


def ratio(one: Ratio) -> str:
    """Returns for example ``0.53 (0.52–0.55)``: the median of the rounds and its 95 % interval."""
    return f"{one.median:.2f} ({one.low:.2f}–{one.high:.2f})"


def where(one: Result) -> str:
    """Returns engine and device, in capitals if it is not the requested one."""
    threads = "the engine's threads" if one.threads is None else f"{one.threads} thread{'s' * (one.threads > 1)}"
    text = f"{one.variant} ({one.precision}, level {one.level}) on {', '.join(one.used_devices)}"
    details = [one.engine, one.device_name, threads, f"batch {one.batch}"]
    if one.streams > 1:
        details.append(f"{one.streams} callers")
    if fell_back(one):
        text += f", ASKED FOR {one.requested_device}"
    return f"{text}: {', '.join(part for part in details if part)}"


def fell_back(one: Result) -> bool:
    """Whether another variant, engine or device answered than the requested one."""
    asked = all(_without_engines(device) == one.requested_device for device in one.used_devices)
    return not asked or one.rerouted > 0 or bool(one.fallbacks)


def _without_engines(used: str) -> str:
    """Returns ``cpu:0`` for ``ort/cpu:0``, and the same for each stage of ``ort/cpu:0+openvino/gpu:0``."""
    return "+".join(part.partition("/")[2] for part in used.split("+"))


def verdicts(report: BenchmarkReport) -> list[str]:
    """Returns a sentence for each contestant that was compared with the first."""
    found = []
    first = report.results[0]
    for one in report.results:
        if one.latency_ratio is None:
            continue
        text = _verdict(one.latency_ratio, "time of a call")
        if (one.batch, one.streams) != (first.batch, first.streams) and one.throughput_ratio is not None:
            text += f"; {_verdict(one.throughput_ratio, 'frames a second')}"
        found.append(f"{one.name} against {report.baseline}: {text}")
    return found


def _verdict(compared: Ratio, what: str) -> str:
    if compared.differs:
        return f"{ratio(compared)} × the {what}"
    if compared.high > UNDECIDED * compared.low:
        return f"too noisy to tell: {ratio(compared)} × the {what}; measure more rounds, or while nothing else runs"
    return f"no difference seen: {ratio(compared)} × the {what}"


def cautions(report: BenchmarkReport) -> list[str]:
    """Returns the limits of the figures, as sentences."""
    found = list(report.remarks)
    for one in report.results:
        found += [f"{one.name}: {reason}" for reason in (*one.remarks, *one.fallbacks)]
        if one.rerouted:
            found.append(f"{one.name}: {one.rerouted} calls were answered by another device than the first choice")
    found += [f"{one.name} was left out: {one.reason}" for one in report.left_out]
    return found


def sources(report: BenchmarkReport) -> list[str]:
    """Returns where the accuracies come from, each once."""
    known = [one.accuracy for one in report.results if one.accuracy is not None]
    lines = dict.fromkeys(f"{one.name} from {one.source}" for one in known)
    if len(known) < len(report.results):
        lines["where there is no accuracy, nobody has measured it"] = None
    return list(lines)


def table(report: BenchmarkReport) -> str:
    """Returns the report for a terminal."""
    heads = columns(report)
    rows = [["", *(head for head, _ in heads)]]
    rows += [[one.name, *(cell(one) for _, cell in heads)] for one in report.results]
    lines = _aligned(rows)
    lines += ["", *(f"{one.name}: {where(one)}" for one in report.results)]
    lines += [f"{one.name}: spread p5–p95 {_spread(one)}" for one in report.results]
    lines += [*verdicts(report), *(f"accuracy: {line}" for line in sources(report))]
    lines += [f"careful: {line}" for line in cautions(report)]
    for one in report.results:
        if one.bottleneck is not None:
            lines += ["", *_operators(one.name, one.bottleneck)]
    return "\n".join(lines)


def _spread(one: Result) -> str:
    times = one.latency_ms
    return f"{times.p5:.3f}–{times.p95:.3f} ms, MAD {times.mad:.3f} ms, {times.calls} calls"


def _operators(name: str, found: Bottleneck) -> list[str]:
    rows = [["kind", "operators", "µs a run", "mean µs", "share"]]
    rows += [
        [one.kind, str(one.operators), f"{one.us_per_run:.1f}", f"{one.mean_us:.1f}", f"{one.share:.1%}"]
        for one in found.kinds[:_KINDS_SHOWN]
    ]
    slowest = found.operators[0]
    return [
        f"{name}: where the time goes, by {found.source}, {found.runs} runs",
        *_aligned(rows),
        f"slowest: {slowest.kind} {slowest.name}, {slowest.mean_us:.1f} µs, {slowest.share:.1%}",
        *(f"careful: {remark}" for remark in found.remarks),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _digits(value: float) -> str:
    """Returns a positive number with about three digits that mean something."""
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.4f}"
    )
