"""The PLC of ``tests/peers/plc.py`` as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLC = Path(__file__).parents[1] / "peers" / "plc.py"
CYCLE_MS = 2.0
"""A PLC's own cycle is one to twenty; one that polls without a pause takes a core from what it watches."""

ENDLESS = 10**9
"""Parts of a PLC that goes on until it gets SIGTERM."""


def start_plc(port: int, parts: int, *options: str, log: Path, cycle_ms: float = CYCLE_MS) -> subprocess.Popen[str]:
    """Starts a PLC that triggers parts of the agent at a port here; its counts come from ``communicate``.

    Args:
        port: Of the agent's Modbus TCP server.
        parts: How many.
        options: As ``plc.py`` describes them.
        log: For its progress.
        cycle_ms: Between two polls.
    """
    command = [sys.executable, "-S", str(PLC), "127.0.0.1", str(port), str(parts), *options]
    with log.open("w") as errors:
        return subprocess.Popen(
            [*command, "--cycle-ms", str(cycle_ms)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
