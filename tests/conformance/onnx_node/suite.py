"""Drives the children and gathers what they say."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

CRASHES_MAX = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Result of one of onnx's node tests on the bare engine (``"not run"`` if left out) and in our session."""

    name: str
    bare: str
    ours: str

    @property
    def lost(self) -> bool:
        """Whether the bare engine passes and we don't."""
        return self.bare == "pass" and self.ours != "pass"

    @property
    def gained(self) -> bool:
        """Whether we pass where the bare engine doesn't."""
        return self.ours == "pass" and self.bare not in ("pass", "not run")


def run(engine: str, *, every: bool = False, few: bool = False, kept: Path | None = None) -> list[Case]:
    """Run the cases in our session; a crash of the process is that case's result.

    Args:
        engine: One of `ENGINES`.
        every: Run all cases on the bare engine, too, and not only those that our session doesn't pass.
        few: Run a case of each kind of inputs and outputs only, about a hundred.
        kept: A file that keeps the chosen cases for the next run of the same kind.
    """
    options = [*["every"] * every, *["few"] * few, *([] if kept is None else [f"cases={kept}"])]
    found: dict[tuple[str, str], str] = {}
    order: list[str] = []
    first, count = 0, 1
    for _ in range(CRASHES_MAX):
        first, count = _one_child(engine, first, found, order, options)
        if first >= 2 * count:
            return [Case(name, found[name, "bare"], found[name, "ours"]) for name in order]
    raise RuntimeError(f"{engine} crashed {CRASHES_MAX} times")


def _one_child(
    engine: str, first: int, found: dict[tuple[str, str], str], order: list[str], options: list[str]
) -> tuple[int, int]:
    """Runs one process from step ``first`` on; returns the step to go on with, and the number of cases."""
    command = [sys.executable, "-m", "tests.conformance.onnx_node.child", engine, str(first), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    if not lines:
        raise RuntimeError(f"the child said nothing: {done.stderr[-2000:]}")
    step = first
    for line in lines[1:]:
        step, name, way, result = line
        if name not in order[-1:]:
            order.append(name)
        found[name, way] = f"crash: {_ending(done.returncode)}" if result == "start" else result
    return step + 1, int(lines[0][1])


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def reason(text: str) -> str:
    """Says in a few words why a case did not pass."""
    lowered = text.lower()
    for mark, meaning in _MEANINGS:
        if mark in lowered:
            return meaning
    return text[:60]


_MEANINGS = (
    ("crash", "the engine ends the process"),
    ("not_implemented", "the engine has no kernel for this operator and type"),
    ("could not find an implementation", "the engine has no kernel for this operator and type"),
    ("under development and support for this is limited", "the engine doesn't know this opset yet"),
    ("unable to handle object", "the engine takes no such element type from Python"),
    ("can't be converted to mldatatype", "the engine takes no such element type from Python"),
    ("unsupported data type", "the engine takes no such element type from Python"),
    ("incompatible inputs of type", "the engine takes no such element type from Python"),
    ("unsupportedmodelerror", "the engine can't read the model (2007)"),
    ("items are not equal", "the engine gives another element type"),
    ("not equal", "the engine computes something else"),
    ("mismatch", "the engine computes something else"),
    ("badinputformaterror", "the engine refuses the inputs (2003)"),
    ("engineerror", "the engine fails while it runs (1007)"),
)
