"""Bytes that a running agent writes to its disk a day, at ten parts a second, of which one in a hundred is kept.

Three agents run side by side for a minute, each a process with the shipped detector on the line simulator: with the
defaults; with one commit a record (the baseline: what a plain store with ``synchronous=FULL`` writes); and with a bound
on a day's bytes that records alone exceed, which is the least that can be had. Their status lies in memory, as under
systemd. The figures are the kernel's own (``/proc/PID/io``), between the first records and the end: the start isn't in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.smoke import kept, scaled
from lineside_agent.storage.write_budget import disk_written_bytes
from lineside_models import zoo

RATE_HZ = 10
SECONDS = scaled(60, smoke=1)
FIRST_RECORDS = scaled(50, smoke=2)
"""Of each agent, before the counting begins."""

KEPT_EVERY = 20
"""One pass in twenty, of which the simulator makes one in five: one frame in a hundred."""

DAY_S = 86400
SCRATCH = kept(".wear")
MEMORY = "/dev/shm"
"""Where the status lies under systemd is memory, too."""

STORES = {
    "defaults": "",
    "one commit a record": "commit_every_s = 0.0\n",
    "bounded to the least": "writes_max_bytes_a_day = 20000000\n",
}


class _Agent:
    def __init__(self, folder: Path, memory: Path, store: str) -> None:
        folder.mkdir()
        memory.mkdir()
        self.folder = folder
        (folder / "agent.toml").write_text(
            f'device = "bench"\nfolder = "state"\nbundle = "{zoo.path("surface-12")}"\n'
            f'[camera]\ntype = "simulator"\nkinds = ["steel"]\nrate_hz = {RATE_HZ}\n'
            f"[store]\nkeep_good_every = {KEPT_EVERY}\n{store}"
        )
        command = [sys.executable, "-m", "lineside_agent", "--config", str(folder / "agent.toml")]
        with (folder / "agent.log").open("wb") as log:
            environment = {"RUNTIME_DIRECTORY": str(memory), "PATH": "/usr/bin:/bin"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def status(self) -> dict[str, Any]:
        path = self.folder / "state" / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def written_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        counts = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
        return counts["write_bytes"] - counts["cancelled_write_bytes"]


def run() -> dict[str, Any]:
    """Runs the agents; returns bytes a day and a record of each."""
    SCRATCH.mkdir(exist_ok=True)
    on_disk = tempfile.TemporaryDirectory(dir=SCRATCH)
    in_memory = tempfile.TemporaryDirectory(dir=MEMORY)
    with on_disk as scratch, in_memory as memory:
        if disk_written_bytes(Path(scratch)) is None:
            raise OSError(f"{scratch} is on no disk: nothing would be counted")
        agents = {
            name: _Agent(Path(scratch) / str(place), Path(memory) / str(place), store)
            for place, (name, store) in enumerate(STORES.items())
        }
        try:
            return _measured(agents)
        finally:
            for agent in agents.values():
                agent.process.terminate()
                agent.process.wait(30.0)


def _measured(agents: dict[str, _Agent]) -> dict[str, Any]:
    for agent in agents.values():
        while agent.status().get("recorded", 0) < FIRST_RECORDS:
            if agent.process.poll() is not None:
                raise RuntimeError((agent.folder / "agent.log").read_text())
            time.sleep(0.2)
    began_s = time.monotonic()
    before = {name: (agent.written_bytes(), agent.status()) for name, agent in agents.items()}
    time.sleep(SECONDS)
    seconds = time.monotonic() - began_s
    found: dict[str, Any] = {"rate_hz": RATE_HZ, "seconds": round(seconds, 1), "agents": {}}
    for name, agent in agents.items():
        written, status = agent.written_bytes(), agent.status()
        records = status["recorded"] - before[name][1]["recorded"]
        count = written - before[name][0]
        found["agents"][name] = {
            "records": records,
            "records_a_second": round(records / seconds, 2),
            "images_kept": status["images_kept"] - before[name][1]["images_kept"],
            "images_skipped": status["images_skipped"] - before[name][1]["images_skipped"],
            "bytes_a_record": round(count / max(1, records)),
            "megabytes_a_day": round(count * DAY_S / seconds / 1e6),
            "written_problem": status["written_problem"],
        }
    return found
