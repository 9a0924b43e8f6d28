"""100,000 parts by the shipped INT8 detector while everything fails again and again: one verdict each.

`LINE_PARTS` sets another number; SIGTERM to the PLC (`tests/peers/plc.py`) ends with those that were triggered. At the
end the PLC's counts are printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lineside_models import zoo
from lineside_models.simulator import render
from tests.fault.line import Line, check, run
from tests.peers.programs import find_program

PARTS = int(os.environ.get("LINE_PARTS", "100000"))
DEADLINE_MS = 200.0


@pytest.mark.timeout(6 * 3600)
def test_hundred_thousand_triggers_end_in_as_many_verdicts(tmp_path: Path) -> None:
    find_program("mbpoll", "mbpoll")  # with libmodbus, by which the PLC speaks
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(small)], capture_output=True)
    images = [render("steel", seed).image for seed in range(16)]
    state = small if mounted.returncode == 0 else None
    line = Line(tmp_path, zoo.path("surface-12"), images, deadline_ms=DEADLINE_MS, state=state)
    try:
        counted = run(line, PARTS, every=max(100, PARTS // 200), with_disk=state is not None)
        line.agent.stop()
        print(json.dumps({**counted, "deadline_ms": DEADLINE_MS}), file=sys.stderr)
        check(line, counted)
    finally:
        line.end()
        if state is not None:
            subprocess.run(["umount", "--lazy", str(small)], check=True)
