"""Table of the runs of CI."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed
from benchmarks.figures.results import Value
from benchmarks.figures.tables import table

_HEAD = ("run", "load before", "beside", "demo, s", "check, s", "test-ci, s", "all, s", "passed", "failed", "flaky")
SHOWN = 10
"""Runs in the table; the ones before are counted."""


@block("ci_runs", "ci_runs", ages=False)
def ci_runs(found: Value) -> str:
    """Seconds and outcome of the last recorded runs of ``.ci/run``, their flaky tests, and counts of earlier runs."""
    runs = found["runs"].values()
    shown = table(_HEAD, [_row(run) for run in runs[-SHOWN:]])
    return f"{shown}\n\n{_counted(runs[:-SHOWN])}" if len(runs) > SHOWN else shown


def _counted(runs: Sequence[Value]) -> str:
    green = sum(run["green"].truth for run in runs)
    flaky = sum(len(run["flaky"].values()) for run in runs)
    first, last = (run["provenance"]["date"].text[:10] for run in (runs[0], runs[-1]))
    return f"{len(runs)} earlier runs, {first} to {last}: {green} green, {len(runs) - green} red, flaky tests: {flaky}."


def _row(run: Value) -> tuple[str, ...]:
    origin, seconds = run["provenance"], run["seconds"]
    steps = [f"{seconds[step]:.0f}" if step in seconds else "" for step in ("demo", "check", "test-ci", "all")]
    failed = [f"`{name.text}`" for name in run["failed"].values()]
    flaky = [f"`{name.text}`" for name in run["flaky"].values()]
    outcome = "green" if run["green"].truth else "**red**"
    return (
        f"{origin['date'].text[:16]}, `{origin['commit'].text[:7]}`, {outcome}",
        fixed(origin["load_average"].numbers[0], 1),
        run["beside"].text,
        *steps,
        f"{run['counts']['passed']:.0f}" if "passed" in run["counts"] else "",
        _named(failed),
        _named(flaky),
    )


def _named(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "0"
