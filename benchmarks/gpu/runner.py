"""Runs the steps one after the other, each in a process group of its own with a limit, within one budget of time."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.environment import ROOT, Environment, here, prepare, wanted
from benchmarks.gpu.hardware import Gpus
from benchmarks.gpu.step_process import outcome_of
from benchmarks.gpu.steps import STEPS, Case, Outcome, Status, Step
from benchmarks.smoke import SMOKE

BUDGET_S = 20 * 60.0
LEAST_S = 20.0
"""A step is left out if less time than this is left."""

ENVIRONMENT_S = 8 * 60.0
LOG_LINES = 25
"""Of a step that failed, kept in the result."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a step.

    Attributes:
        status: ``no GPU`` after what can be done without one; ``left out`` with its reason.
        reason: Why it failed or was left out.
        figures: What was measured.
        log: Last lines of the output of a step that failed.
    """

    name: str
    status: Status
    seconds: float
    reason: str = ""
    figures: dict[str, Any] = {}
    log: tuple[str, ...] = ()


def run_steps(
    gpus: Gpus, folder: Path, *, steps: Sequence[Step] = STEPS, budget_s: float = BUDGET_S
) -> list[StepResult]:
    """Runs the steps; one that fails or hangs does not stop the others.

    Args:
        folder: An existing folder for the steps' files.
        steps: What to run, in this order.
        budget_s: Of all together.
    """
    ends_s = time.monotonic() + budget_s
    count = 0 if SMOKE else len(gpus.gpus)
    case = Case(gpus=count, folder=folder)
    environment, first = _environment(gpus, count)
    results = [first]
    _tell(first)
    for step in steps:
        left_s = ends_s - time.monotonic()
        if left_s < min(LEAST_S, step.limit_s):
            result = StepResult(
                name=step.name, status="left out", seconds=0, reason=f"the {budget_s:.0f} s of all steps are over"
            )
        elif SMOKE:
            result = run_here(step, case)
        else:
            result = run_step(step, case, environment, limit_s=min(left_s, step.limit_s))
        results.append(result)
        _tell(result)
    return results


def run_step(step: Step, case: Case, environment: Environment, *, limit_s: float) -> StepResult:
    """Runs one step in a process of its own, and ends the process and its children at the limit."""
    answer, log = case.folder / f"{step.name}.json", case.folder / f"{step.name}.log"
    arguments = [msgspec.json.encode(each, enc_hook=str).decode() for each in (step, case)]
    command: list[str | Path] = [environment.python, "-m", "benchmarks.gpu.step_process", *arguments, answer]
    began_s = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_variables(environment), stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            reason = f"its process ended with {code}"
        except subprocess.TimeoutExpired:
            reason = f"not done after {limit_s:.0f} s"
        finally:
            _end(process)
    seconds = round(time.monotonic() - began_s, 1)
    lines = tuple(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    if not answer.exists():
        return StepResult(name=step.name, status="failed", seconds=seconds, reason=reason, log=lines)
    found = msgspec.json.decode(answer.read_bytes(), type=Outcome)
    return StepResult(
        name=step.name,
        status=found.status,
        seconds=seconds,
        reason=found.reason,
        figures=found.figures,
        log=lines if found.status == "failed" else (),
    )


def run_here(step: Step, case: Case) -> StepResult:
    """Runs one step in this process: a smoke run already has one of its own, and imports once."""
    began_s = time.monotonic()
    found = outcome_of(step, case)
    seconds = round(time.monotonic() - began_s, 1)
    return StepResult(name=step.name, status=found.status, seconds=seconds, reason=found.reason, figures=found.figures)


def _environment(gpus: Gpus, count: int) -> tuple[Environment, StepResult]:
    """Makes the environment, which is the first step."""
    began_s = time.monotonic()
    if not count:
        status: Status = "failed" if gpus.broken else "no GPU"
        figures = {"python": platform.python_version(), "would_install": list(wanted())}
        return here(), StepResult(name="environment", status=status, seconds=0, reason=gpus.reason, figures=figures)
    environment = prepare(gpus.cuda, limit_s=ENVIRONMENT_S)
    return environment, StepResult(
        name="environment",
        status="left out" if environment.notes else "ok",
        seconds=round(time.monotonic() - began_s, 1),
        reason="; ".join(environment.notes),
        figures={
            "python": platform.python_version(),
            "libraries": [path.parent.name for path in environment.libraries],
        },
    )


def _variables(environment: Environment) -> dict[str, str]:
    libraries = [*map(str, environment.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONFAULTHANDLER": "1",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a step's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tell(result: StepResult) -> None:
    reason = f": {result.reason}" if result.reason else ""
    print(f"{result.status:8} {result.name} ({result.seconds:.0f} s){reason}", file=sys.stderr, flush=True)
