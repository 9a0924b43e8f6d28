"""The process of one step: ``python -m benchmarks.gpu.step_process STEP CASE ANSWER``, step and case as JSON."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import msgspec

from benchmarks.gpu.steps import Case, LeftOut, Outcome, Status, Step, StepError
from lineside_runtime.files import write_atomic


def main(step: str, case: str, answer: str) -> int:
    """Runs a step and writes its outcome; returns 1 if it failed."""
    outcome = outcome_of(msgspec.json.decode(step, type=Step), msgspec.json.decode(case, type=Case, dec_hook=_path))
    write_atomic(Path(answer), msgspec.json.encode(outcome))
    return int(outcome.status == "failed")


def _path(_: type, value: str) -> Path:
    return Path(value)


def outcome_of(step: Step, case: Case) -> Outcome:
    """Runs a step in this process."""
    done: Status = "ok" if case.gpus else "no GPU"
    try:
        return Outcome(status=done, figures=step.call(case))
    except LeftOut as reason:
        return Outcome(status="left out" if case.gpus else done, reason=str(reason))
    except StepError as error:
        return Outcome(status="failed", reason=str(error), figures=error.figures)
    except Exception as error:  # noqa: BLE001  # reported, and the next step runs
        traceback.print_exc()
        return Outcome(status="failed", reason=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
