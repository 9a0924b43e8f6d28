"""Run a module of the agent in a process of its own, which may hang or crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lineside_agent.deployment.runner import ShouldStop
from lineside_link.transfer.pull_window import FetchStopped
from lineside_runtime.errors import EngineCrashedError, EngineError
from lineside_runtime.system.packages import child_environment

FAILED = 3
"""Exit status of a module that ends with an error of ours, whose text is the last line of its stderr."""

_NICE = 10
_LOOK_S = 0.2
_MESSAGE_MAX = 300


class ChildResult(NamedTuple):
    """How a module ended that neither hung nor crashed.

    Attributes:
        failure: Text of the error that it ended with; empty for none.
    """

    output: bytes
    failure: str


def run_in_child(
    module: str, arguments: Sequence[str], *, what: str, timeout_s: float, should_stop: ShouldStop
) -> ChildResult:
    """Runs ``python -m module``; at the end its process and those that it started are killed.

    Args:
        module: Of the agent; ends with status `FAILED` for an error of ours.
        what: What it does, for the errors.

    Raises:
        EngineError: It took too long.
        EngineCrashedError: It ended in another way.
        FetchStopped: ``should_stop`` says so.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        output, errors = _wait(child, what, timeout_s, should_stop)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    last = (errors.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:_MESSAGE_MAX]
    if child.returncode not in (0, FAILED):
        how = f"status {child.returncode}" if child.returncode > 0 else signal.Signals(-child.returncode).name
        raise EngineCrashedError(f"{what} ended with {how}: {last}", action="What runs there goes on running.")
    return ChildResult(output, last if child.returncode else "")


def lower_priority() -> None:
    """Lets the line go first, in a module that takes a core for long."""
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # Linux groups processes by session: without this, `nice` compares within one
        Path("/proc/self/autogroup").write_text(str(_NICE))


def _wait(child: subprocess.Popen[bytes], what: str, timeout_s: float, should_stop: ShouldStop) -> tuple[bytes, bytes]:
    until_s = time.monotonic() + timeout_s
    while (left_s := until_s - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=min(_LOOK_S, left_s))
        if should_stop():
            raise FetchStopped
    raise EngineError(
        f"{what} did not end within {timeout_s:g} s and was killed", action="What runs there goes on running."
    )
