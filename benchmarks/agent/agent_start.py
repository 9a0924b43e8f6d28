"""From the start of the agent to its first verdict on the line, seen by the line's end.

The line is a serial one: the other end of a pty, read here. Its memory is `agent_memory`'s.
"""

from __future__ import annotations

import os
import select
import statistics
import tempfile
import time
import tty
from pathlib import Path
from typing import Any

from benchmarks.agent.agents import LOOKS, START_S, agent, write_pictures
from benchmarks.smoke import scaled

STARTS = scaled(11, smoke=1)
BARS = {"first_verdict_s": 3.0, "first_verdict_median_s": 0.5}
"""Of the slowest start, and of the median."""

SIZES: dict[str, tuple[int, int] | None] = scaled({"200x200": None, "640x480": (640, 480)}, smoke={"200x200": None})


def run() -> dict[str, Any]:
    found: dict[str, Any] = {"bar": BARS}
    for look, variant in LOOKS.items():
        for name, size in SIZES.items():
            with tempfile.TemporaryDirectory() as folder:
                found[f"{look}_{name}"] = _measured(Path(folder), variant, size)
    return found


def _measured(folder: Path, variant: str | None, size: tuple[int, int] | None) -> dict[str, Any]:
    write_pictures(folder / "frames", 16, size=size)
    starts = [_started(folder, variant) for _ in range(STARTS)]
    return {"first_verdict_s": {"median": round(statistics.median(starts), 3), "most": round(max(starts), 3)}}


def _started(folder: Path, variant: str | None) -> float:
    """Seconds to the first verdict."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    settings = {"line_io": [{"type": "serial", "port": os.ttyname(theirs)}], "camera": {"rate_hz": 20.0}}
    try:
        began_s = time.monotonic()
        with agent(folder, settings, variant=variant):
            _await_verdict(ours)
            return time.monotonic() - began_s
    finally:
        os.close(ours)
        os.close(theirs)


def _await_verdict(descriptor: int) -> None:
    until_s = time.monotonic() + START_S
    while True:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            raise RuntimeError("no verdict came over the serial line")
        if b"\n" in os.read(descriptor, 4096):
            return
