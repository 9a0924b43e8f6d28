"""The agent on a serial line: ``socat``'s pair of ptys, and ``mbpoll`` as the PLC on the other end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.line_io.conftest import StartLine
from tests.peers.programs import find_program
from tests.peers.waiting import wait_for

pytestmark = pytest.mark.peer


@pytest.fixture
def ptys(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    ours, theirs = tmp_path / "ttyA", tmp_path / "ttyB"
    ends = [f"pty,rawer,link={end}" for end in (ours, theirs)]
    child = subprocess.Popen([find_program("socat", "socat"), *ends])
    wait_for(lambda: ours.exists() and theirs.exists())
    yield ours, theirs
    child.terminate()
    child.wait(60.0)


def poll(port: Path, unit: int, kind: str, address: int, *values: int, count: int = 1) -> list[int]:
    command = [find_program("mbpoll", "mbpoll"), "-m", "rtu", "-b", "115200", "-P", "none", "-0", "-1", "-q"]
    command += ["-a", str(unit), "-t", kind, "-r", str(address), "-o", "10" if unit == 17 else "0.3"]
    command += ["-c", str(count)] if not values else []
    done = subprocess.run([*command, str(port), *map(str, values)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(found, 0) for found in re.findall(r"^\[\d+\]:\s+(\S+)", done.stdout, re.M)]


def test_rtu_answers_its_own_unit_and_is_silent_to_others(start_line: StartLine, ptys: tuple[Path, Path]) -> None:
    ours, theirs = ptys
    line = f'type = "modbus-rtu-server"\nport = "{ours}"\nbaud = 115200\nparity = "N"\nunit = 17\n'
    agent = start_line(f"[[line_io]]\n{line}")
    agent.wait_ready()
    with pytest.raises(AssertionError, match="timed out"):
        poll(theirs, 9, "3", 0)
    poll(theirs, 17, "0", 0, 1)
    wait_for(lambda: agent.line["answered"] == 1)
    assert poll(theirs, 17, "1", 0, count=4) == [1, 0, 1, 1]
    assert poll(theirs, 17, "3", 4, count=4) == [0, 0, 0, 1]
