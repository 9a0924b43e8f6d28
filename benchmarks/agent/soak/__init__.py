"""``make soak``: the agent at full speed for hours; memory and file handles must stay where they are.

The agent runs the shipped INT8 detector on pictures of 640×480 from a folder, again and again, as fast as it can; its
records and kept pictures go home over mosquitto to a hub, and its verdicts to a topic. `sampler` looks at it from
outside, in a process that imports nothing of ours. `verdict` judges what it saw, `chart` draws it. Bounds of the store
are low, so that old pictures and records already go while the run lasts.

``soak.svg`` stands beside its JSON.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.agent.soak import chart, verdict
from benchmarks.smoke import scaled
from lineside_models import zoo
from lineside_models.simulator import render
from tests.peers.brokers import Mosquitto, find_mosquitto
from tests.worlds.agent import AgentProcess, folder_camera
from tests.worlds.site import Site

SAMPLER = Path(__file__).with_name("sampler.py")
PICTURES = scaled(32, smoke=4)
SIZE = (640, 480)
BUNDLE = "surface-12"
KEPT_EVERY = 21
"""One pass in so many; it has no divisor in common with `PICTURES`, so that each picture has its turn. Every other
picture is of a good part; keeping those that are no pass would be a test of PNG."""

EVERY_S = 5.0
SAMPLES_MIN = 60
"""A short run is sampled more often, so that there is something to judge."""

MINUTES = scaled(120.0, smoke=0.04)
REPORTED = (
    *("inspected", "recorded", "lost", "faults", "outbox_pending", "images_kept", "images_removed", "frames_sent"),
    *("records_removed", "records_bytes", "resent", "store_problem", "frames_problem"),
)
"""What the agent says of itself at the end."""


def run(out: Path, minutes: float = MINUTES) -> dict[str, Any]:
    """Runs it.

    Args:
        out: Folder for the chart ``soak.svg``.
        minutes: How long frames run.

    Returns:
        As `verdict.judge`, with what the agent said of itself at the end under ``agent``.

    Raises:
        AssertionError: The agent never started.
        RuntimeError: It ended by itself.
        ValueError: It was too short to judge.
    """
    seconds = 60.0 * minutes
    with tempfile.TemporaryDirectory(prefix="lineside-soak-") as folder, _site(Path(folder)) as agent:
        agent.wait_for(lambda: agent.status.get("recorded"), what="frames")
        samples = _sampled(agent.pid, seconds, agent.state / "status.json", Path(folder) / "samples.jsonl")
        status = agent.status
        if not agent.alive:
            raise RuntimeError(agent.log[-4000:])
    found = verdict.judge(samples)
    found["agent"] = {name: status[name] for name in REPORTED}
    (out / "soak.svg").write_text(chart.draw(samples, warm_up=verdict.WARM_UP))
    return found


@contextlib.contextmanager
def _site(folder: Path) -> Iterator[AgentProcess]:
    """Broker, hub and agent; gives the agent."""
    store = {
        "keep_good_every": KEPT_EVERY,
        "images_max_bytes": 50_000_000,
        "records_max_bytes": 20_000_000,
        "writes_max_bytes_a_day": 20_000_000_000,
    }
    site = Site(
        folder,
        frames=0,
        rate_hz=0.0,
        broker=Mosquitto(folder / "broker", program=find_mosquitto()),
        bundle=str(zoo.path(BUNDLE)),
        camera=folder_camera(loop=True),
        inspect={},
        line_io=[{"type": "mqtt", "topic": "cell/4"}],
        store=store,
    )
    _write_pictures(folder / "frames")
    site.start()
    try:
        yield site.agent
    finally:
        site.end()


def _write_pictures(folder: Path) -> None:
    """Steel with and without defects as JPEG."""
    for seed in range(PICTURES):
        frame = render("steel", seed, defects=0 if seed % 2 else None)
        image = cv2.resize(np.asarray(frame.image), SIZE)
        cv2.imwrite(str(folder / f"{seed:04d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


def _sampled(pid: int, seconds: float, status_path: Path, kept: Path) -> list[dict[str, Any]]:
    every_s = min(EVERY_S, seconds / SAMPLES_MIN)
    command = [sys.executable, "-I", "-S", str(SAMPLER), str(pid), str(seconds), str(every_s), str(status_path)]
    with kept.open("w") as file:
        subprocess.run(command, stdout=file, check=True)
    return [json.loads(line) for line in kept.read_text().splitlines()]
