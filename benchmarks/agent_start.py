"""From the start of the agent to its first verdict on the line, and its memory, seen by the kernel and the line's end.

The line is a serial one: the other end of a pty, read here. Memory is taken when it has judged frames for a while.
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

from benchmarks.agents import START_S, agent, memory_bytes, write_pictures

STARTS = 5
FRAMES = 200
BAR_S = 3.0
BAR_BYTES = 150_000_000
SIZES = {"200x200": None, "640x480": (640, 480)}
BUNDLES = ("surface-12", "surface-12-slim")


def run() -> dict[str, Any]:
    """Measures seconds and bytes."""
    found: dict[str, Any] = {"bar": {"first_verdict_s": BAR_S, "resident_bytes": BAR_BYTES}}
    for bundle in BUNDLES:
        for name, size in SIZES.items():
            with tempfile.TemporaryDirectory() as folder:
                found[f"{bundle}_{name}"] = _measured(Path(folder), bundle, size)
    return found


def _measured(folder: Path, bundle: str, size: tuple[int, int] | None) -> dict[str, Any]:
    write_pictures(folder / "frames", 16, size=size)
    starts, memory = [], {}
    for number in range(STARTS):
        is_last = number == STARTS - 1
        first_s, memory = _started(folder, bundle, FRAMES if is_last else 1)
        starts.append(first_s)
    return {
        "first_verdict_s": {"median": round(statistics.median(starts), 3), "most": round(max(starts), 3)},
        "memory_bytes": memory,
    }


def _started(folder: Path, bundle: str, frames: int) -> tuple[float, dict[str, int]]:
    """Seconds to the first verdict, and memory after so many."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    settings = {"line_io": [{"type": "serial", "port": os.ttyname(theirs)}], "camera": {"rate_hz": 20.0}}
    try:
        began_s = time.monotonic()
        with agent(folder, settings, bundle=bundle) as process:
            _await_verdicts(ours, 1)
            first_s = time.monotonic() - began_s
            _await_verdicts(ours, frames - 1)
            return first_s, memory_bytes(process.pid)
    finally:
        os.close(ours)
        os.close(theirs)


def _await_verdicts(descriptor: int, count: int) -> None:
    seen = 0
    until_s = time.monotonic() + START_S
    while seen < count:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
            raise RuntimeError("no verdict came over the serial line")
        seen += os.read(descriptor, 4096).count(b"\n")
