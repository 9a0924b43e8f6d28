"""``lineside agent results``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import inform, print_json, show
from lineside.options import Actions, add_agent_config, add_json
from lineside.result_listing import add_selection, frames_folder, limit_of, print_results, selection_of, utc
from lineside_runtime.errors import InputError
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_agent.config import AgentConfig
    from lineside_agent.storage.record_queries import RecordQuery, ShiftReport


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "results",
        help="list this device's results, write them to a file, or print a shift report",
        description="Prints the results of this device, oldest first, or writes them to a file. Works without a "
        "hub and without a running agent. The columns are those of `lineside fleet results`.",
    )
    add_agent_config(parser)
    add_selection(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--image", type=Path, metavar="FILE", help="write the image of the newest matching part")
    what.add_argument(
        "--report", action="store_true", help="print a shift report: counts by verdict, code, defect and hour"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints or exports results, copies an image, or prints a shift report."""
    from lineside_agent.config import read_config
    from lineside_agent.storage.record_queries import RecordQuery, copy_image, find, report, table_row
    from lineside_link.result_table import COLUMNS

    folder = frames_folder(options)
    if options.out is not None and (options.report or options.image is not None):
        raise InputError("--out beside --report or --image", expected="one of them")
    config = read_config(options.config)
    query = RecordQuery(**selection_of(options), limit=options.limit if options.report else limit_of(options))
    if options.report:
        made = report(config, query)
        print_json({"report": made}) if options.json else print_report(made)
    elif options.image is not None:
        seen = copy_image(config, query, options.image).row
        if options.json:
            print_json({"file": options.image, "part_id": seen.part_id, "verdict": seen.verdict})
        else:
            inform(f"{options.image}: part {seen.part_id}, {seen.verdict}")
    elif options.out is not None or folder is not None:
        _export(options, config, query, folder)
    else:
        found = [dict(zip(COLUMNS, table_row(config, record), strict=True)) for record in find(config, query)]
        print_json({"results": found}) if options.json else print_results(found, query.limit, device=False)
    return 0


def _export(options: argparse.Namespace, config: AgentConfig, query: RecordQuery, folder: Path | None) -> None:
    from lineside_agent.storage.record_queries import copy_images, find, table_row
    from lineside_link.result_table import export_rows

    made: dict[str, Any] = {}
    if options.out is not None:
        rows = (table_row(config, record) for record in find(config, query))
        made = {"rows": export_rows(rows, options.out), "file": options.out}
    frames = copy_images(config, query, folder) if folder is not None else None
    if options.json:
        print_json(made | ({} if frames is None else {"frames": {"folder": folder, "frames": frames}}))
        return
    if made:
        inform(f"{counted(made['rows'], 'result')} in {options.out}")
    if frames is not None:
        inform(f"{counted(frames, 'frame')} in {folder}")


def print_report(report: ShiftReport) -> None:
    """Prints a shift report for a person."""
    span = f", {utc(report.first_ns)} to {utc(report.last_ns)} (UTC)" if report.parts else ""
    show(f"{report.device}{span}")
    show(f"{'parts':<12}{report.parts:>8}")
    for verdict, count in report.verdicts.items():
        show(f"{verdict:<12}{count:>8}{_share(count, report.parts)}")
    if report.challenge:
        show(f"{'challenge':<12}{report.challenge:>8}")
    for title, counts in (("code", report.codes), ("defect type", report.defects)):
        if counts:
            show(f"\n{title:<32}{'parts':>8}")
        for name, count in counts.items():
            show(f"{name:<32}{count:>8}{_share(count, report.parts)}")
    if report.hours:
        show(f"\n{'hour (UTC)':<20}" + "".join(f"{verdict:>8}" for verdict in report.verdicts))
    for hour in report.hours:
        show(f"{utc(hour.start_ns)[:16]:<20}" + "".join(f"{count:>8}" for count in hour.verdicts.values()))
    if report.latency_ms:
        took = ", ".join(f"{name} {value:.1f}" for name, value in report.latency_ms.items())
        show(f"\ntime to a verdict in ms: {took}")


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:>8.1f} %" if of else ""
