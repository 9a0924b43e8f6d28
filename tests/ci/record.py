"""Add a run of CI to the table in ``docs/testing.md``.

``python -m tests.ci.record --into FILE --step demo=95 --step check=60 --step test-ci=900 --status 0 --load 0.42``

``.ci/run`` calls it at its end where ``LINESIDE_CI_RECORD`` names a file. Outcome and flaky tests are read from the
report that `tests.ci.rerun` has written.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from tests.ci.rerun import REPORT, RunReport


class CiRun(msgspec.Struct, kw_only=True):
    """One run of ``.ci/run``.

    Attributes:
        date: When it ended, UTC.
        commit: Of the checkout; ends in ``+`` if tracked files differed from it.
        green: Whether its exit status was 0.
        cores: That it could use.
        processor: Name of the processor.
        load_before: Load average of the last minute before it began.
        beside: What else ran on the machine, as its caller told.
        seconds: By step, and in all.
        counts: Tests by outcome; empty if no tests were run.
        failed: Tests that failed twice.
        flaky: Tests that failed in the run and passed alone.
    """

    date: str
    commit: str
    green: bool
    cores: int
    processor: str
    load_before: float
    beside: str
    seconds: dict[str, int]
    counts: dict[str, int]
    failed: list[str]
    flaky: list[str]


class CiRuns(msgspec.Struct, kw_only=True):
    """The recorded runs, oldest first."""

    runs: list[CiRun] = []


def describe(*, status: int, seconds: dict[str, int], load_before: float, beside: str, report_folder: Path) -> CiRun:
    """Returns the run that has just ended in the current folder, which is a checkout."""
    place = report_folder / "flaky.json"
    report = msgspec.json.decode(place.read_bytes(), type=RunReport) if place.exists() else None
    return CiRun(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=_git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        green=status == 0,
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        load_before=load_before,
        beside=beside,
        seconds={**seconds, "all": sum(seconds.values())},
        counts=report.counts if report else {},
        failed=[failure.name for failure in report.failed] if report else [],
        flaky=[failure.name for failure in report.flaky] if report else [],
    )


def add(run: CiRun, into: Path) -> None:
    """Appends the run to the file, which is created if it isn't there."""
    runs = msgspec.json.decode(into.read_bytes(), type=CiRuns) if into.exists() else CiRuns()
    runs.runs.append(run)
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(msgspec.json.format(msgspec.json.encode(runs), indent=2) + b"\n")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ci.record", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="FILE")
    parser.add_argument("--report", type=Path, default=Path(REPORT), help="folder of flaky.json")
    parser.add_argument("--step", action="append", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--status", type=int, required=True, help="exit status of the run")
    parser.add_argument("--load", type=float, required=True, help="load average before it began")
    parser.add_argument("--beside", default="", help="what else ran on the machine")
    options = parser.parse_args()
    seconds = {name: int(count) for name, _, count in (step.partition("=") for step in options.step)}
    run = describe(
        status=options.status,
        seconds=seconds,
        load_before=options.load,
        beside=options.beside,
        report_folder=options.report,
    )
    add(run, options.into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
