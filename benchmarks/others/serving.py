"""The end of a contestant's process; standard library only, since it runs in somebody else's environment.

A worker is called as ``worker.py SPAWNED_NS CORE KIND MODEL FRAME``, ``KIND`` being ``detector`` or ``classifier``. It
loads, answers once, and says so; then each line on its standard input is a number of calls, which it times after one
that it doesn't.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
Boxes = Callable[[Any], list[list[float]]]


def serve(load: Callable[[str, Path, Path], tuple[Call, Boxes]]) -> None:
    """Serves until standard input ends.

    Args:
        load: Takes kind, model and frame; gives what is timed, and what makes ``[class, score, x1, y1, x2, y2]`` of the
            answer.
    """
    spawned_ns, core, kind, model, frame = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    os.sched_setaffinity(0, {int(core)})  # before the imports: libraries count the cores there
    call, boxes = load(kind, Path(model), Path(frame))
    answer = call()
    first_ms = (time.monotonic_ns() - int(spawned_ns)) / 1e6
    print(json.dumps({"first_ms": first_ms, "boxes": boxes(answer)}), file=answers)
    for line in sys.stdin:
        call()
        times = []
        for _ in range(int(line)):
            began = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - began) / 1e6)
        print(json.dumps({"times_ms": times, **memory()}), file=answers)


def memory() -> dict[str, float]:
    """Returns the resident set and its peak, in MB of 2**20 bytes.

    Not the proportional set: others on the machine that use the same libraries make it smaller.
    """
    return {
        "resident_mb": _kilobytes("/proc/self/status", "VmRSS:") / 1024,
        "peak_mb": _kilobytes("/proc/self/status", "VmHWM:") / 1024,
    }


def _kilobytes(path: str, field: str) -> int:
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
