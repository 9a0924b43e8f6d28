"""Bytes that a running agent writes to its disk a day, at ten parts a second, of which one in a hundred is kept.

Three agents run side by side, each a process with the shipped detector on the line simulator: with the defaults; with
one commit a record (the baseline: what a plain store with ``synchronous=FULL`` writes); and with a limit of 50 MB a
day. The figures are the kernel's own (``/proc/PID/io``). The first two are measured for a minute after their first
records. The third is measured when its limit has it write packs, from one pack to the next but one: its allowance of
an hour, which a start may use at once, is not in. Their status lies in memory, as under systemd.

It also measures what a verdict waits for its record to be noted in memory, before the line is told.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.smoke import SMOKE, kept, scaled
from lineside_agent.storage.record_files.journal import RecordJournal
from lineside_agent.storage.write_budget import COMMIT_EVERY_S, Saving
from lineside_link.messages import ResultRow
from lineside_models import zoo
from tests.worlds.agent import AgentProcess, write_agent

RATE_HZ = 10
SECONDS = scaled(60, smoke=1)
FIRST_RECORDS = scaled(50, smoke=2)
"""Of each agent, before the counting begins."""

KEPT_EVERY = 20
"""One pass in twenty, of which the simulator makes one in five: one frame in a hundred."""

PACKS = 2
"""Packs over which the limited agent is measured."""

NOTES = scaled(20_000, smoke=100)
PENDING = 5
"""Records that wait for their commit with the defaults at ten a second."""

DAY_S = 86400
SCRATCH = kept(".wear")
MEMORY = "/dev/shm"
"""Where the status lies under systemd is memory, too."""

LIMITED = "limit of 50 MB a day"
STORES: dict[str, dict[str, float]] = {
    "defaults": {},
    "one commit a record": {"commit_every_s": 0.0},
    LIMITED: {"writes_max_bytes_a_day": 50_000_000},
}


class _Agent(AgentProcess):
    def __init__(self, folder: Path, memory: Path, store: dict[str, float]) -> None:
        super().__init__(folder, environment=os.environ | {"RUNTIME_DIRECTORY": str(memory)})
        folder.mkdir()
        memory.mkdir()
        write_agent(
            folder,
            bundle=str(zoo.path("surface-12")),
            camera={"type": "simulator", "kinds": ["steel"], "rate_hz": RATE_HZ},
            store={"keep_images": "none", "keep_good_every": KEPT_EVERY, **store},
        )
        self.start()

    def written_bytes(self) -> int:
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        counts = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
        return counts["write_bytes"] - counts["cancelled_write_bytes"]


def run() -> dict[str, Any]:
    """Runs the agents; returns bytes a day and a record of each."""
    SCRATCH.mkdir(exist_ok=True)
    on_disk = tempfile.TemporaryDirectory(dir=SCRATCH)
    in_memory = tempfile.TemporaryDirectory(dir=MEMORY)
    with on_disk as scratch, in_memory as memory:
        if os.major(Path(scratch).stat().st_dev) == 0:
            raise OSError(f"{scratch} is on no disk: nothing would be counted")
        agents = {
            name: _Agent(Path(scratch) / str(place), Path(memory) / str(place), store)
            for place, (name, store) in enumerate(STORES.items())
        }
        try:
            return {"rate_hz": RATE_HZ, "agents": _measured(agents), "note_us": _note_us(Path(memory))}
        finally:
            for agent in agents.values():
                agent.stop()


def _measured(agents: dict[str, _Agent]) -> dict[str, Any]:
    for agent in agents.values():
        _wait(agent, lambda status: status.get("recorded", 0) >= FIRST_RECORDS)
    before = {name: _sample(agent) for name, agent in agents.items()}
    time.sleep(SECONDS)
    found = {name: _between(before[name], _sample(agents[name])) for name in STORES if name != LIMITED or SMOKE}
    for name, agent in agents.items():
        if name != LIMITED:
            agent.signal(signal.SIGTERM)
    if SMOKE:
        return found
    limited = agents[LIMITED]
    _wait(limited, lambda status: status["commit_every_s"] == COMMIT_EVERY_S[Saving.PACKS])
    first = _after_commit(limited)
    for _ in range(PACKS):
        last = _after_commit(limited)
    return found | {LIMITED: _between(first, last)}


def _wait(agent: _Agent, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    while not is_so(status := agent.status):
        if not agent.alive:
            raise RuntimeError(agent.log)
        time.sleep(0.2)
    return status


def _after_commit(agent: _Agent) -> _Sample:
    recorded = agent.status["recorded"]
    _wait(agent, lambda status: status["recorded"] > recorded)
    return _sample(agent)


class _Sample(NamedTuple):
    at_s: float
    written: int
    status: dict[str, Any]


def _sample(agent: _Agent) -> _Sample:
    return _Sample(time.monotonic(), agent.written_bytes(), agent.status)


def _between(first: _Sample, last: _Sample) -> dict[str, Any]:
    seconds, count = last.at_s - first.at_s, last.written - first.written
    grown = {name: last.status[name] - first.status[name] for name in ("recorded", "images_kept", "images_skipped")}
    return {
        "seconds": round(seconds, 1),
        "records": grown["recorded"],
        "records_a_second": round(grown["recorded"] / seconds, 2),
        "images_kept": grown["images_kept"],
        "images_skipped": grown["images_skipped"],
        "bytes_a_record": round(count / max(1, grown["recorded"])),
        "megabytes_a_day": round(count * DAY_S / seconds / 1e6, 1),
        "commit_every_s": last.status["commit_every_s"],
        "written_problem": last.status["written_problem"],
    }


def _note_us(folder: Path) -> dict[str, float]:
    """Time to note a record of two defects in memory, in microseconds, with a settled group after each few."""
    box = ("scratches", 0.9482662677764893, 82.47309875488281, 61.417198181152344, 94.60075378417969, 187.8524017333984)
    rows = [
        ResultRow(
            seq=0, part_id=f"part-{number}", source="cam", sequence=number, verdict="reject", detections=(box, box)
        )
        for number in range(NOTES)
    ]
    journal = RecordJournal(folder)
    journal.begin("epoch", [])
    took_us = []
    for number, row in enumerate(rows):
        began_ns = time.perf_counter_ns()
        journal.note(row)
        took_us.append((time.perf_counter_ns() - began_ns) / 1000)
        if number % PENDING == PENDING - 1:
            journal.settle(rows[number + 1 - PENDING : number + 1])
    journal.close()
    took_us.sort()
    return {"median": round(statistics.median(took_us), 1), "p99": round(took_us[int(0.99 * len(took_us))], 1)}
