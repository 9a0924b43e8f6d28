"""Table of the runs of CI."""

from __future__ import annotations

from benchmarks.figures.blocks import block
from benchmarks.figures.forms import fixed
from benchmarks.figures.results import Value
from benchmarks.figures.tables import table

_HEAD = ("run", "load before", "beside", "demo, s", "check, s", "test-ci, s", "all, s", "passed", "failed", "flaky")


@block("ci_runs", "ci_runs", ages=False)
def ci_runs(found: Value) -> str:
    """Seconds and outcome of each recorded run of ``.ci/run``, and its flaky tests."""
    return table(_HEAD, [_row(run) for run in found["runs"].values()])


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
