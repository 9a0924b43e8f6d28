"""Trigger to reject on the wire: a PLC in another process, over Modbus TCP, the shipped INT8 detector with two
looks and one, one thread.

The PLC is ``tests/peers/plc.py`` (libmodbus, nothing of ours), which polls once a millisecond. Its clock runs from
before it writes the trigger until it has read the answer. Parts come at a steady rate, as on a belt, and then one right
after the other.

Baseline: the same detector on the same pictures in a bare loop in one process, without line, handshake and record.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.agent.agents import BUNDLE, LOOKS
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.simulator import render
from lineside_runtime.config import Config
from lineside_runtime.session import Session
from tests.peers.waiting import free_port
from tests.worlds.agent import AgentProcess, folder_camera, write_agent
from tests.worlds.plc import start_plc

PARTS = scaled(1000, smoke=12)
CYCLE_MS = 1.0
RATE_HZ = 20.0
PICTURES = 16
BAR_MS = {"p50": 25.0, "p99": 80.0}


def run() -> dict[str, Any]:
    images = [render("steel", seed).image for seed in range(PICTURES)]
    found = {look: _measured(variant, images) for look, variant in LOOKS.items()}
    return {"baseline": "the same detector in a bare loop, ORT, 1 thread", "bar_ms": BAR_MS, **found}


def _measured(variant: str | None, images: list[Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        agent = start_agent(Path(folder), variant, images, port)
        try:
            belt = run_plc(port, "--rate", str(RATE_HZ))
            bare = _bare(variant, images)
            quick = run_plc(port)
        finally:
            agent.stop()
    return {f"belt_{RATE_HZ:.0f}_hz": belt, "as_fast_as_answered": quick, "bare_inspection_ms": bare}


def start_agent(folder: Path, variant: str | None, images: list[Any], port: int, **tables: Any) -> AgentProcess:
    """Starts an agent that a PLC triggers over Modbus TCP, and waits until it is ready.

    Args:
        folder: An empty one.
        variant: Of the shipped detector; ``None`` for its first one.
        images: What the camera shows, again and again.
        tables: More tables of ``agent.toml``.
    """
    (folder / "frames").mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / "frames" / f"{number:04d}.png"), image)
    write_agent(
        folder,
        bundle=str(zoo.path(BUNDLE)),
        camera=folder_camera(loop=True),
        trigger={"deadline_ms": 200},
        line_io=[{"type": "modbus-tcp-server", "port": port}],
        inspect={} if variant is None else {"variant": variant},
        **tables,
    )
    agent = AgentProcess(folder)
    agent.start()
    agent.wait_for(lambda: agent.line.get("ready"), what="ready")
    return agent


def run_plc(port: int, *options: str, parts: int = PARTS) -> dict[str, Any]:
    """Triggers parts by the PLC of the tests, and returns its counts."""
    plc = start_plc(port, parts, *options, log=Path(os.devnull), cycle_ms=CYCLE_MS)
    counted: dict[str, Any] = json.loads(plc.communicate()[0])
    kept = ("triggers", "verdicts", "lost", "twice", "codes", "p50_ms", "p99_ms", "max_ms")
    return {name: counted[name] for name in kept}


def _bare(variant: str | None, images: list[Any]) -> dict[str, float]:
    took: list[float] = []
    with Session(zoo.path(BUNDLE), Config(threads=1, engines=("ort",), variant=variant)) as session:
        inspector = Inspector(session)
        for number in range(PARTS // 3):
            frame = Frame(image=images[number % len(images)])
            began = time.perf_counter_ns()
            inspector.inspect(frame)
            took.append((time.perf_counter_ns() - began) / 1e6)
    return spread(took)
