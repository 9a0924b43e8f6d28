"""``lineside train compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_json
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.training.monitoring.comparison import Comparison, RunSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the runs, and where a page is to be written."""
    parser.add_argument("run_folder", type=Path, nargs="+", metavar="RUN", help="folders that `lineside train` wrote")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with the curves over one another")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the comparison, and writes a page where asked."""
    with needs("convert"):
        from lineside_converters.training.monitoring.comparison import compare_runs, write_comparison
    if len(options.run_folder) < 2:
        raise InputError("one run alone can't be compared", expected="two folders or more", actual=1)
    found = compare_runs(options.run_folder)
    if options.html is not None:
        write_comparison(options.html, found)
        inform(f"page: {options.html}")
    if options.json:
        print_json(_plain(found))
    else:
        _print(found)
    return 0


def _plain(found: Comparison) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    for each in plain["runs"]:
        del each["curves"]  # they stand in each run's curves.json
    return plain


def _print(found: Comparison) -> None:
    width = max(len(each.name) for each in found.runs) + 2
    show(
        f"{'run':<{width}}{'figure':<10}{'best':>8}{'at step':>9}{'last loss':>11}{'steps':>15}{'minutes':>9}  network"
    )
    for each in found.runs:
        show(_row(each, width))
    if found.best:
        show(f"the highest figure: {found.best}")
    for name, values in found.differing.items():
        show(f"{name}: " + "  ".join("-" if value is None else str(value) for value in values))


def _row(each: RunSummary, width: int) -> str:
    best = "-" if each.mean is None else f"{each.mean:.4f}"
    loss = "-" if each.loss is None else f"{each.loss:.4f}"
    steps = f"{each.step} of {each.steps}"
    network = each.architecture if each.ended else "(not ended)"
    return (
        f"{each.name:<{width}}{each.figure:<10}{best:>8}{each.best_step:>9}{loss:>11}{steps:>15}"
        f"{each.minutes:>9.1f}  {network}"
    )
