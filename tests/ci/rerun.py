"""Run pytest, run each failed test once more, alone, and separate flaky tests from broken ones.

``python -m tests.ci.rerun [--report FOLDER] PYTEST_ARGUMENTS``

A test that fails in the run and passes alone is flaky: it is printed with both outputs and kept in
``FOLDER/flaky.json`` and ``FOLDER/flaky.md``. The exit status is 0 only if every test passed, in the run or alone.
A collection error and a worker that crashed are failures like any other: the file, or the test that the worker ran,
is run again. Everything that pytest doesn't report as failed tests (an internal error, wrong arguments, no tests)
keeps pytest's own status.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

REPORT = "test-report"
RERUNS_MAX = 20
"""More failures than this are no coincidence; running them all again would only take time."""

RERUN_TIMEOUT_S = 1200.0
_WIDTH = 100
_KEPT = ("passed", "skipped", "xfailed", "xpassed")


class Failure(msgspec.Struct, kw_only=True):
    """A test, or a file that could not be collected, that failed in the run.

    Attributes:
        name: Its node id.
        first: Output of the run.
        second: Output of the run alone; empty if it was not run again.
        passed_alone: Whether it then passed.
    """

    name: str
    first: str
    second: str = ""
    passed_alone: bool = False


class RunReport(msgspec.Struct, kw_only=True):
    """The whole run, as it is kept in ``flaky.json``.

    Attributes:
        exit_status: Of this program.
        seconds: Of the run and of the reruns.
        counts: Tests by outcome, in the run.
        flaky: Failed in the run and passed alone.
        failed: Failed in both, or were not run again.
    """

    exit_status: int
    seconds: float
    counts: dict[str, int]
    flaky: list[Failure]
    failed: list[Failure]


class FailureRecorder:
    """A pytest plugin that keeps what failed. With xdist it runs in the controller, which every report reaches."""

    def __init__(self) -> None:
        self.failures: dict[str, Failure] = {}
        self.counts: dict[str, int] = {}
        self.root = Path.cwd()

    def pytest_configure(self, config: pytest.Config) -> None:
        self.root = config.rootpath

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._add(report)

    def _add(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        text = "\n".join([report.longreprtext, *(f"--- {title} ---\n{body}" for title, body in report.sections)])
        known = self.failures.setdefault(report.nodeid, Failure(name=report.nodeid, first=""))
        known.first = f"{known.first}\n{text}".strip()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self.counts = {name: len(terminalreporter.stats.get(name, ())) for name in _KEPT}


def run_alone(failure: Failure, *, root: Path) -> None:
    """Runs a failed test in its own process, without parallel workers, and notes the outcome in ``failure``."""
    with tempfile.TemporaryDirectory(prefix="lineside-rerun-") as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", failure.name, "--junitxml", str(results)]
        try:
            done = subprocess.run(
                command,
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RERUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as caught:
            failure.second = f"{(caught.output or b'').decode(errors='replace')}\nnot ended after {RERUN_TIMEOUT_S:g} s"
            return
        failure.second = done.stdout.decode(errors="replace").strip()
        failure.passed_alone = done.returncode == 0 and _passed(results) > 0


def _passed(results: Path) -> int:
    """Returns the number of tests that ran and passed: a test that is skipped has not passed."""
    return sum(1 for case in ElementTree.parse(results).iter("testcase") if not len(case.findall("skipped")))


def run(arguments: Sequence[str], report_folder: Path) -> RunReport:
    """Runs pytest with ``arguments``, then the failed tests alone, and writes the report."""
    recorder, began = FailureRecorder(), time.monotonic()
    status = int(pytest.main(["--continue-on-collection-errors", *arguments], plugins=[recorder]))
    failures = list(recorder.failures.values())
    if status == pytest.ExitCode.TESTS_FAILED and 0 < len(failures) <= RERUNS_MAX:
        for failure in failures:
            print(f"running again, alone: {failure.name}", flush=True)
            run_alone(failure, root=recorder.root)
        if all(failure.passed_alone for failure in failures):
            status = 0
    report = RunReport(
        exit_status=status,
        seconds=round(time.monotonic() - began, 1),
        counts=recorder.counts,
        flaky=[failure for failure in failures if failure.passed_alone],
        failed=[failure for failure in failures if not failure.passed_alone],
    )
    report_folder.mkdir(parents=True, exist_ok=True)
    (report_folder / "flaky.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (report_folder / "flaky.md").write_text(markdown(report))
    return report


def markdown(report: RunReport) -> str:
    """Returns the report for a person."""
    lines = ["# Flaky tests", "", *([] if report.flaky else ["None.", ""])]
    for failure in report.flaky:
        for title, text in (("In the run", failure.first), ("Alone", failure.second)):
            lines += [f"## {failure.name}: {title}", "", textwrap.indent(text, "    "), ""]
    return "\n".join(lines)


def summary(report: RunReport) -> str:
    """Returns the outcome of run and reruns, with a closing line of pytest's form; empty if nothing failed."""
    if not report.flaky and not report.failed:
        return ""
    lines = []
    for heading, failures in (("flaky", report.flaky), ("failed again", report.failed)):
        lines += [_ruled(heading)] if failures else []
        for failure in failures:
            lines += [failure.name, "  in the run:", textwrap.indent(failure.first, " " * 4)]
            lines += ["  alone:", textwrap.indent(failure.second or "not run again", " " * 4), ""]
    counts = {"failed": len(report.failed), **report.counts, "flaky": len(report.flaky)}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return "\n".join([*lines, _ruled(f"{told} in {report.seconds:.2f}s")])


def _ruled(text: str) -> str:
    return f" {text} ".center(_WIDTH, "=")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ci.rerun", description=__doc__, allow_abbrev=False)
    parser.add_argument("--report", type=Path, default=Path(REPORT), help="folder of flaky.json and flaky.md")
    options, arguments = parser.parse_known_args()
    report = run(arguments, options.report)
    print(summary(report), flush=True)
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
