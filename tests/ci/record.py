"""Add a run of CI to the table in ``docs/figures/ci.md``.

``python -m tests.ci.record --into FILE --step demo=95 --step check=500 --step test-ci=900 --seconds 1000 --status 0
--load 2 1 1``

``.ci/run`` calls it at its end where ``LINESIDE_CI_RECORD`` names a file. Outcome and flaky tests are read from the
report that `tests.ci.rerun` has written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from benchmarks import provenance
from benchmarks.provenance import Provenance
from tests.ci.rerun import REPORT, RunReport

COMMAND = "bash .ci/run"
SOURCES = (".ci", "Makefile", "tests/ci")
"""What starts, runs and records the tests. The tests themselves change daily, and each row names its commit."""


class CiRun(msgspec.Struct, kw_only=True):
    """One run of ``.ci/run``.

    Attributes:
        provenance: Of the run; its load average is from before the run began.
        green: Whether its exit status was 0.
        beside: What else ran on the machine, as its caller told.
        seconds: By step, and of the whole run (``all``). Steps overlap since December 2026.
        counts: Tests by outcome; empty if no tests were run.
        failed: Tests that failed twice.
        flaky: Tests that failed in the run and passed alone.
    """

    provenance: Provenance
    green: bool
    beside: str
    seconds: dict[str, int]
    counts: dict[str, int]
    failed: list[str]
    flaky: list[str]


class CiRuns(msgspec.Struct, kw_only=True):
    """A result file.

    Attributes:
        provenance: Of the last run.
        runs: Oldest first.
    """

    provenance: Provenance
    runs: list[CiRun]


def describe(
    *,
    status: int,
    seconds: dict[str, int],
    total_s: int,
    load_average: tuple[float, float, float],
    beside: str,
    report_folder: Path,
) -> CiRun:
    """Returns the run that has just ended."""
    place = report_folder / "flaky.json"
    report = msgspec.json.decode(place.read_bytes(), type=RunReport) if place.exists() else None
    origin = provenance.collect(COMMAND, SOURCES)
    return CiRun(
        provenance=msgspec.structs.replace(origin, load_average=load_average, seconds=float(total_s)),
        green=status == 0,
        beside=beside,
        seconds={**seconds, "all": total_s},
        counts=report.counts if report else {},
        failed=[failure.name for failure in report.failed] if report else [],
        flaky=[failure.name for failure in report.flaky] if report else [],
    )


def add(run: CiRun, into: Path) -> None:
    """Appends the run to the file, which is created if it isn't there."""
    before = msgspec.json.decode(into.read_bytes(), type=CiRuns).runs if into.exists() else []
    runs = CiRuns(provenance=run.provenance, runs=[*before, run])
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(msgspec.json.format(msgspec.json.encode(runs), indent=2) + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ci.record", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="FILE")
    parser.add_argument("--report", type=Path, default=Path(REPORT), help="folder of flaky.json")
    parser.add_argument("--step", action="append", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--seconds", type=int, required=True, help="of the run; steps run beside each other")
    parser.add_argument("--status", type=int, required=True, help="exit status of the run")
    parser.add_argument("--load", type=float, nargs=3, required=True, help="load averages before it began")
    parser.add_argument("--beside", default="", help="what else ran on the machine")
    options = parser.parse_args()
    one, five, fifteen = options.load
    run = describe(
        status=options.status,
        seconds={name: int(count) for name, _, count in (step.partition("=") for step in options.step)},
        total_s=options.seconds,
        load_average=(one, five, fifteen),
        beside=options.beside,
        report_folder=options.report,
    )
    add(run, options.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
