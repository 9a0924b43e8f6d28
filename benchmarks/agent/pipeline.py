"""Frames a second of the agent at full speed, 640×480 JPEG, the shipped INT8 detector, against the roofline.

The roofline is cores ÷ the summed processor time a frame of the stages run bare, by one loop alone (`bare_stages`).
Beside it stands what one such loop on each core really does, as other processes may need the cores as well. On a shared
machine the same loop is a third slower in one ten seconds than in the next, so all of them take short turns, the agent
stopped (SIGSTOP) meanwhile, and each share is the median of many rounds' ratios. The best way is run three times, each
with an agent started anew: the bar holds for the median of each run. ``share_by_processor_time`` is a bare
frame's processor time (a loop on each core) over the agent's of the same round: the share of the roofline if nobody
else needed the cores and no thread waited. One row keeps the image of every frame as PNG, which no bare loop does. What
the agent does is counted in its database by a process that imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.agent.agents import BUNDLE, agent, wait_recorded, write_pictures
from benchmarks.agent.bare_stages import STAGES
from benchmarks.smoke import scaled

PICTURES = scaled(32, smoke=4)
SIZE = (640, 480)
ROUNDS = scaled(10, smoke=1)
RUNS_OF_BEST = scaled(3, smoke=1)
SECONDS = scaled(1.5, smoke=0.3)
BARE_S = scaled(0.8, smoke=0.3)
BAR = 0.9
CORES = min(2, len(os.sched_getaffinity(0)))
COUNTER = Path(__file__).with_name("records_counted.py")
BEST = f"workers_{CORES}"
WAYS: dict[str, dict[str, Any]] = {
    "workers_1": {"store": {"keep_images": "none"}},
    f"threads_{CORES}": {"inspect": {"threads": CORES}, "store": {"keep_images": "none"}},
    BEST: {"inspect": {"workers": CORES}, "store": {"keep_images": "none"}},
    f"{BEST}_images": {"inspect": {"workers": CORES}, "store": {"keep_images": "all"}},
}
"""A line keeps the images of its rejects: of the drawn frames most are, so that images are measured apart."""

MEASURED = scaled(tuple(WAYS), smoke=(BEST,))
"""Names of the ways that a run measures."""


def run() -> dict[str, Any]:
    """Measures frames a second of each way, in shares of the roofline and of bare loops."""
    with tempfile.TemporaryDirectory() as place:
        frames = Path(place) / "frames"
        write_pictures(frames, PICTURES, size=SIZE)
        runs = {
            name: [
                _rounds(Path(place) / f"{name}-{run}", frames, WAYS[name])
                for run in range(RUNS_OF_BEST if name == BEST else 1)
            ]
            for name in MEASURED
        }
    ways = {name: _figures([each for run in found for each in run]) for name, found in runs.items()}
    best = [each for run in runs[BEST] for each in run]
    return {
        "baseline": f"{CORES} cores ÷ the processor time of the stages in a bare loop; and such a loop on each core",
        "bundle": BUNDLE,
        "cores": CORES,
        "bare_ms": {stage: round(statistics.median(each["alone"][stage] for each in best), 4) for stage in STAGES},
        "agent": ways,
        "bar_share": BAR,
        "share_of_roofline": ways[BEST]["share_of_roofline"],
        "share_of_roofline_by_run": [_figures(run)["share_of_roofline"]["median"] for run in runs[BEST]],
        "share_of_bare_loops": ways[BEST]["share_of_bare_loops"],
        "share_by_processor_time": ways[BEST]["share_by_processor_time"],
    }


def _rounds(folder: Path, frames: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A bare loop alone, one on each core, and one agent, in turn."""
    folder.mkdir()
    (folder / "frames").symlink_to(frames)
    found = []
    with _bare_loops(frames) as loops, agent(folder, settings) as process:
        wait_recorded(process, 3 * PICTURES)
        for _ in range(ROUNDS):
            process.freeze()
            try:
                alone, each_core = _bare(loops[:1]), _bare(loops)
            finally:
                process.thaw()
            found.append({**_counted(folder, process.pid), "alone": alone, "each_core": each_core})
    return found


def _summed(stages: dict[str, float]) -> float:
    return sum(stages[stage] for stage in STAGES)


@contextlib.contextmanager
def _bare_loops(frames: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts a bare loop for each core, which wait for their turns, and ends them."""
    command = [sys.executable, "-m", "benchmarks.agent.bare_stages", str(frames), BUNDLE]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        loops = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(CORES)]
        for loop in loops:
            stack.enter_context(loop)
            _line_of(loop)
        yield loops


def _bare(loops: Sequence[subprocess.Popen[str]]) -> dict[str, float]:
    """Returns the sum of the frames of these loops at once, and the mean of their stages."""
    for loop in loops:
        print(BARE_S, file=loop.stdin, flush=True)
    found = [json.loads(_line_of(loop)) for loop in loops]
    mean = {stage: sum(each[stage] for each in found) / len(loops) for stage in STAGES}
    return {"frames": sum(each["frames"] for each in found), **mean}


def _line_of(loop: subprocess.Popen[str]) -> str:
    line = loop.stdout.readline() if loop.stdout is not None else ""
    if not line:
        raise RuntimeError("a bare loop has ended; its error stands above")
    return line


def _counted(folder: Path, pid: int) -> dict[str, float]:
    database = folder / "state" / "records.db"
    command = [sys.executable, "-I", "-S", str(COUNTER), str(database), str(SECONDS), str(pid)]
    counted = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    records, seconds, used_s = counted["records"], counted["seconds"], counted["processor_s"]
    return {
        "rate": records / seconds,
        "processor_ms": 1000 * used_s / records,
        "system_ms": 1000 * counted["system_s"] / records,
        "page_faults": counted["page_faults"] / records,
        "used": used_s / seconds,
    }


def _figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [each["rate"] for each in rounds]
    rooflines = [1000 * CORES / _summed(each["alone"]) for each in rounds]
    loops = [each["each_core"]["frames"] / BARE_S for each in rounds]
    processor_ms = [each["processor_ms"] for each in rounds]
    bare_ms = [_summed(each["each_core"]) for each in rounds]
    return {
        "rounds": len(rounds),
        "frames_a_second": _median(rates),
        "roofline_frames_a_second": _median(rooflines),
        "bare_loops_frames_a_second": _median(loops),
        "processor_ms_a_frame": _median(processor_ms),
        "processor_ms_by_round": [round(each, 2) for each in processor_ms],
        "system_ms_a_frame": _median([each["system_ms"] for each in rounds]),
        "page_faults_a_frame": _median([each["page_faults"] for each in rounds]),
        "cores_used": _median([each["used"] for each in rounds]),
        "share_of_roofline": _share(rates, rooflines),
        "share_of_bare_loops": _share(rates, loops),
        "share_by_processor_time": _share(bare_ms, processor_ms),
        "bare_loops_share_of_roofline": _share(loops, rooflines),
    }


def _median(found: list[float]) -> float:
    return round(statistics.median(found), 3)


def _share(found: list[float], of: list[float]) -> dict[str, float]:
    ratios = sorted(one / other for one, other in zip(found, of, strict=True))
    return {"median": _median(ratios), "least": round(ratios[0], 3), "most": round(ratios[-1], 3)}
