"""Trigger to reject on the wire: a PLC in another process, over Modbus TCP, the shipped INT8 detector with two
looks and one, one thread.

The PLC is ``tests/peers/plc.py`` (libmodbus, nothing of ours), which polls once a millisecond. Its clock runs from
before it writes the trigger until it has read the answer. Parts come at a steady rate, as on a belt, and then one right
after the other.

Baseline: the same detector on the same pictures in a bare loop in one process, without line, handshake and record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.agent.agents import BUNDLE, LOOKS
from benchmarks.smoke import scaled
from benchmarks.timing import spread
from lineside.demo.processes import free_port
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.simulator import render
from lineside_runtime.config import Config
from lineside_runtime.session import Session

PLC = Path(__file__).parents[2] / "tests" / "peers" / "plc.py"
PARTS = scaled(1000, smoke=12)
CYCLE_MS = 1.0
RATE_HZ = 20.0
PICTURES = 16
BAR_MS = {"p50": 25.0, "p99": 80.0}


def run() -> dict[str, Any]:
    """Measures milliseconds."""
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
            agent.terminate()
            agent.wait(30)
    return {f"belt_{RATE_HZ:.0f}_hz": belt, "as_fast_as_answered": quick, "bare_inspection_ms": bare}


def start_agent(
    folder: Path, variant: str | None, images: list[Any], port: int, *, tables: str = ""
) -> subprocess.Popen[bytes]:
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
    line = f'[[line_io]]\ntype = "modbus-tcp-server"\nport = {port}\n'
    camera = '[camera]\ntype = "folder"\npath = "frames"\nloop = true\n'
    trigger = "[trigger]\ndeadline_ms = 200\n"
    top = f'device = "bench"\nfolder = "state"\nbundle = "{zoo.path(BUNDLE)}"\n'
    inspect = "" if variant is None else f'[inspect]\nvariant = "{variant}"\n'
    (folder / "agent.toml").write_text(top + camera + trigger + line + inspect + tables)
    command = [sys.executable, "-m", "lineside_agent", "--config", str(folder / "agent.toml")]
    with (folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=log)
    status = folder / "state" / "status.json"
    while not (status.exists() and json.loads(status.read_text())["line"]["ready"]):
        if agent.poll() is not None:
            raise RuntimeError((folder / "agent.log").read_text())
        time.sleep(0.1)
    return agent


def run_plc(port: int, *options: str, parts: int = PARTS) -> dict[str, Any]:
    """Triggers parts by the PLC of the tests, and returns its counts."""
    command = [
        sys.executable,
        "-S",
        str(PLC),
        "127.0.0.1",
        str(port),
        str(parts),
        "--cycle-ms",
        str(CYCLE_MS),
        *options,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    counted: dict[str, Any] = json.loads(done.stdout)
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
