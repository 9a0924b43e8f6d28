"""Start time and memory, each measured in fresh processes.

A process shares the pages of its libraries with others that have loaded them, which lowers its proportional set size.
So each process is measured while no other contestant runs.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from lineside_runtime.benchmark.measurement.contestants import ContestantEntry
from lineside_runtime.benchmark.measurement.process import Process
from lineside_runtime.benchmark.measurement.protocol import AskMemory, MemoryUse, Ready, Turn, TurnTimed
from lineside_runtime.benchmark.report import LeftOut, Memory, Start
from lineside_runtime.errors import DeviceError, IncompatibleBundleError, NoDeviceError, UnsupportedModelError
from lineside_runtime.progress import TextListener

ALONE_RUNS = 3
ALONE_CALLS = 20

_CANNOT_RUN = (DeviceError, IncompatibleBundleError, UnsupportedModelError)


@dataclasses.dataclass(frozen=True, slots=True)
class FreshRuns:
    """Measurements in fresh processes of one contestant, without the first one, which reads from the disk."""

    ready: list[Ready]
    held: list[MemoryUse]

    @property
    def start(self) -> Start | None:
        """The start, or ``None`` if it was not measured."""
        if not self.ready:
            return None
        return Start(
            first_result_ms=statistics.median(one.first_result_ms for one in self.ready),
            load_ms=statistics.median(one.load_ms for one in self.ready),
            runs=len(self.ready),
        )

    @property
    def memory(self) -> Memory | None:
        """Memory; ``None`` if it was not measured or the system has no figure."""
        peaks = [one.peak_mb for one in self.held if one.peak_mb is not None]
        resident = [one.resident_mb for one in self.held if one.resident_mb is not None]
        shares = [one.pss_mb for one in self.held if one.pss_mb is not None]
        before = [one.before_mb for one in self.ready if one.before_mb is not None]
        if not (peaks and resident and shares and before):
            return None
        return Memory(
            peak_mb=statistics.median(peaks),
            resident_mb=statistics.median(resident),
            pss_mb=statistics.median(shares),
            before_mb=statistics.median(before),
            runs=len(peaks),
            calls=ALONE_CALLS + 1,
        )


def measure_fresh_processes(
    entries: Sequence[ContestantEntry], inputs: Path | None, runs: int, progress: TextListener
) -> tuple[dict[str, FreshRuns], tuple[LeftOut, ...]]:
    """Starts each contestant once to see whether it runs here, and then ``runs`` times to measure it.

    Returns:
        What was found by the contestants' names, and those that can't run here.

    Raises:
        LinesideError: One that was asked for by name can't run here.
        NoDeviceError: None can.
    """
    able: dict[str, FreshRuns] = {}
    left_out: list[LeftOut] = []
    for entry in entries:
        progress(f"{entry.name}: does it run here?")
        try:
            _one(entry, inputs)
        except _CANNOT_RUN as error:
            if not entry.optional:
                raise
            progress(f"{entry.name}: left out: {error}")
            left_out.append(LeftOut(name=entry.name, code=error.code, reason=str(error)))
        else:
            able[entry.name] = FreshRuns([], [])
    if not able:
        raise NoDeviceError("nothing here runs it", actual="; ".join(f"{one.name}: {one.reason}" for one in left_out))
    for number in range(runs):
        progress(f"start and memory: process {number + 1} of {runs} each")
        for entry in entries:
            if entry.name in able:
                ready, memory = _one(entry, inputs)
                able[entry.name].ready.append(ready)
                able[entry.name].held.append(memory)
    return able, tuple(left_out)


def _one(entry: ContestantEntry, inputs: Path | None) -> tuple[Ready, MemoryUse]:
    with Process(entry, inputs) as process:
        process.ask(Turn(calls=ALONE_CALLS), TurnTimed)
        return process.ready, process.ask(AskMemory(), MemoryUse)
