"""Memory and CPU time of a process and its children, from ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path

from lineside_runtime.benchmark.measurement.protocol import MemoryUse

_PROC = Path("/proc")


def memory_use() -> MemoryUse:
    """Returns the memory of this process and everything below it.

    Pages that a process shares with others count in full in its resident set, and in part in its proportional one,
    which therefore depends on who else runs. A child's peak is added to its parent's although they need not have been
    at the same time: an upper bound.
    """
    pids = _family(os.getpid())
    peaks = [_kilobytes(_PROC / str(one) / "status", "VmHWM:") for one in pids]
    shares = [_kilobytes(_PROC / str(one) / "smaps_rollup", "Pss:") for one in pids]
    resident = [_kilobytes(_PROC / str(one) / "status", "VmRSS:") for one in pids]
    return MemoryUse(peak_mb=_sum_mb(peaks), resident_mb=_sum_mb(resident), pss_mb=_sum_mb(shares))


def cpu_of_children_s() -> float:
    """Returns the processor time of every process below this one, such as an isolated engine's; 0 if there is none."""
    below = _family(os.getpid())[1:]
    tasks = [_read(task) for pid in below for task in (_PROC / str(pid) / "task").glob("*/schedstat")]
    return sum(int(text.split()[0]) for text in tasks if text) / 1e9


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in (_PROC / str(pid) / "task").glob("*/children"):
        found += [below for child in _read(task).split() for below in _family(int(child))]
    return found


def _sum_mb(kilobytes: list[int | None]) -> float | None:
    known = [one for one in kilobytes if one is not None]  # a child may have ended meanwhile
    return sum(known) / 1024 if known else None


def _kilobytes(path: Path, field: str) -> int | None:
    lines = _read(path).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # not on this system, or the process has ended
        return ""
