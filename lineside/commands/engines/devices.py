"""``lineside devices``."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lineside.console import print_json, show
from lineside.options import add_json, seconds
from lineside_boards.detect import UNKNOWN, Board, detect
from lineside_runtime.system import accelerators, drivers, probing
from lineside_runtime.system.accelerators import Accelerator
from lineside_runtime.system.probing import DeviceReport, EngineReport
from lineside_runtime.wording import counted

UNTESTED = "untested on hardware"
EMULATED = "computes on the CPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=probing.TIMEOUT_S,
        metavar="SECONDS",
        help="time limit for each engine (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tries and prints devices; prints versions, absent engines, and accelerators that no installed engine can use."""
    board, found = detect(), accelerators.find()
    reports = probing.probe(timeout_s=options.timeout, trial=True)
    unused = probing.unused(found, reports)
    if options.json:
        print_json({**_machine(board), "engines": reports, "accelerators": _as_json(found, unused)})
        return 0
    show("\n".join(_page(board, reports, unused)))
    return 0


def _machine(board: Board) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "kernel": drivers.kernel(),
        "python": platform.python_version(),
        "board": board.model,
        "cores": board.cores,
        "memory_bytes": board.memory_bytes,
    }


def _as_json(found: Iterable[Accelerator], unused: Mapping[Accelerator, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "where": one.where,
            "driver": one.driver,
            "engines": one.engines,
            "usable": one not in unused,
            "hint": unused.get(one, ""),
        }
        for one in found
    ]


def _page(board: Board, reports: Sequence[EngineReport], unused: Mapping[Accelerator, str]) -> list[str]:
    lines = [_machine_line(board)]
    lines += _section("devices", [row for report in reports for row in _device_rows(report)])
    known = [report for report in reports if report.versions]
    lines += _section("versions", [_version_row(report) for report in known])
    lines += [f"  {report.name}: {report.advice}" for report in known if report.advice]
    if unused:
        lines += ["", "present, but unusable for the installed engines"]
        lines += [f"  {one.name}, {one.where}: {hint}" for one, hint in unused.items()]
    absent = [report for report in reports if not report.available]
    if absent:
        lines += ["", "absent"]
    for report in absent:
        lines += [f"  {report.name}: {_without_advice(report)}", f"      to install it: {report.install}"]
    return lines


def _machine_line(board: Board) -> str:
    name = "this machine" if board.model == UNKNOWN else board.model
    memory = f", {board.memory_bytes / 2**30:.1f} GiB" if board.memory_bytes else ""
    system = f"Linux {drivers.kernel()}, Python {platform.python_version()}"
    return f"{name}: {platform.machine()}, {counted(board.cores, 'core')}{memory}, {system}"


def _section(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return ["", title, *table]


def _device_rows(report: EngineReport) -> list[list[str]]:
    return [[device.device, device.name, _memory(device), _remark(device)] for device in report.devices]


def _memory(device: DeviceReport) -> str:
    return f"{device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else ""


def _remark(device: DeviceReport) -> str:
    if device.unusable:
        return f"(unusable: {device.unusable})"
    if device.emulated:
        return f"({EMULATED})"
    return "" if device.tested_on_hardware else f"({UNTESTED})"


def _version_row(report: EngineReport) -> list[str]:
    versions = report.versions or {report.name: report.version}
    known = ", ".join(f"{name} {version or 'not found'}" for name, version in versions.items())
    fits = {True: "compatible", False: "INCOMPATIBLE", None: ""}[report.fits]
    return [report.name, known, fits]


def _without_advice(report: EngineReport) -> str:
    """Returns the reason without its code and without the advice, which the next line has."""
    text = report.reason.partition("] ")[2] if report.reason.startswith("[") else report.reason
    advice = f"{report.install[:1].upper()}{report.install[1:]}."
    return text.removesuffix(advice).strip().rstrip(".")
