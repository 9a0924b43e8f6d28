"""Frames a second of the agent at full speed, 640×480 JPEG, the shipped INT8 detector, against the roofline.

The roofline is cores ÷ the summed processor time a frame of the stages run bare (`bare_stages`). Beside it stands what
one such loop on each core really does, as other processes may need the cores as well: agent and bare loops take turns,
and the agent is stopped (SIGSTOP) meanwhile. ``share_by_processor_time`` is a bare frame's processor time over the
agent's, both of the same minute: the share of the roofline if nobody else needed the cores and no thread waited. What
the agent does is counted in its database by a process that imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.agents import agent, processor_s, wait_recorded, write_pictures
from benchmarks.bare_stages import STAGES

BUNDLE = "surface-12-slim"
PICTURES = 32
SIZE = (640, 480)
ROUNDS = 3
SECONDS = 8.0
BARE_S = 6.0
BARE_START_S = 4.0
BAR = 0.9
CORES = min(2, len(os.sched_getaffinity(0)))
COUNTER = Path(__file__).with_name("records_counted.py")
BEST = f"workers_{CORES}"
WAYS: dict[str, dict[str, int]] = {"workers_1": {}, f"threads_{CORES}": {"threads": CORES}, BEST: {"workers": CORES}}


def run() -> dict[str, Any]:
    """Measures."""
    with tempfile.TemporaryDirectory() as place:
        frames = Path(place) / "frames"
        write_pictures(frames, PICTURES, size=SIZE)
        alone = _bare(frames, 1)
        rounds = {name: _rounds(Path(place) / name, frames, settings) for name, settings in WAYS.items()}
    roofline = CORES / _summed(alone) * 1000
    ways = {name: _figures(found, roofline) for name, found in rounds.items()}
    return {
        "baseline": f"{CORES} cores ÷ the processor time of the stages in a bare loop; and such a loop on each core",
        "bundle": BUNDLE,
        "cores": CORES,
        "bare_ms": {stage: round(alone[stage], 4) for stage in STAGES},
        "roofline_frames_a_second": round(roofline, 2),
        "agent": ways,
        "bar_share": BAR,
        "share_of_roofline": ways[BEST]["share_of_roofline"],
        "share_of_bare_loops": ways[BEST]["share_of_bare_loops"],
        "share_by_processor_time": ways[BEST]["share_by_processor_time"],
    }


def _rounds(folder: Path, frames: Path, inspect: dict[str, int]) -> list[dict[str, float]]:
    """Bare loops and one agent, in turn."""
    folder.mkdir()
    (folder / "frames").symlink_to(frames)
    found = []
    with agent(folder, {"inspect": inspect}, bundle=BUNDLE) as process:
        wait_recorded(folder, 3 * PICTURES)
        for _ in range(ROUNDS if inspect == WAYS[BEST] else 1):
            process.send_signal(signal.SIGSTOP)
            try:
                bare = _bare(frames, CORES)
            finally:
                process.send_signal(signal.SIGCONT)
            found.append({**_counted(folder, process.pid), "bare": bare["frames"] / BARE_S, "bare_ms": _summed(bare)})
    return found


def _summed(stages: dict[str, float]) -> float:
    return sum(stages[stage] for stage in STAGES)


def _bare(frames: Path, count: int) -> dict[str, float]:
    """So many loops at once: the sum of their frames, and the mean of their stages."""
    from_s = time.monotonic() + BARE_START_S
    command = [sys.executable, "-m", "benchmarks.bare_stages", str(frames), BUNDLE, str(from_s), str(BARE_S)]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    found = [json.loads(loop.communicate()[0]) for loop in loops]
    mean = {stage: sum(each[stage] for each in found) / count for stage in STAGES}
    return {"frames": sum(each["frames"] for each in found), **mean}


def _counted(folder: Path, pid: int) -> dict[str, float]:
    before_s = processor_s(pid)
    command = [sys.executable, "-I", "-S", str(COUNTER), str(folder / "state" / "records.db"), str(SECONDS)]
    counted = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    rate = counted["records"] / counted["seconds"]
    used_s = processor_s(pid) - before_s
    return {"rate": rate, "processor_ms": 1000 * used_s / counted["records"], "used": used_s / counted["seconds"]}


def _figures(rounds: list[dict[str, float]], roofline: float) -> dict[str, Any]:
    rate = statistics.median(each["rate"] for each in rounds)
    return {
        "frames_a_second": round(rate, 2),
        "bare_loops_frames_a_second": round(statistics.median(each["bare"] for each in rounds), 2),
        "processor_ms_a_frame": round(statistics.median(each["processor_ms"] for each in rounds), 3),
        "cores_used": round(statistics.median(each["used"] for each in rounds), 3),
        "share_of_roofline": round(rate / roofline, 3),
        "share_by_processor_time": round(
            statistics.median(each["bare_ms"] / each["processor_ms"] for each in rounds), 3
        ),
        "share_of_bare_loops": round(statistics.median(each["rate"] / each["bare"] for each in rounds), 3),
    }
