"""Every path that an NVIDIA GPU enables, each in a process of its own: ``make test-gpu``.

Without a GPU each step does what it can on the CPU (makes its model, parses its options, runs the same calls on the CPU
device) and is marked ``no GPU``. A step that fails is reported and does not stop the others.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.hardware import find_gpus
from benchmarks.gpu.runner import BUDGET_S, StepResult, run_steps
from benchmarks.smoke import SMOKE


def run() -> dict[str, Any]:
    """Runs every step."""
    gpus = find_gpus()
    with tempfile.TemporaryDirectory(prefix="lineside-gpu-") as folder:
        found = result_of(run_steps(gpus, Path(folder)))
    if SMOKE and found["problems"]:
        raise RuntimeError("\n".join(found["problems"]))
    return {"hardware": msgspec.to_builtins(gpus), "budget_s": BUDGET_S, **found}


def result_of(steps: list[StepResult]) -> dict[str, Any]:
    """Returns the steps, and the problems for which the command fails."""
    problems = [f"{step.name}: {step.reason}" for step in steps if step.status == "failed"]
    return {"problems": problems, "steps": [msgspec.to_builtins(step) for step in steps]}
