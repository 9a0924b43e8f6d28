"""The agent as a Modbus TCP server, triggered and polled by ``mbpoll``: libmodbus, nothing of ours."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.agent.line_io.conftest import StartLine
from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for

pytestmark = pytest.mark.peer

COIL, DISCRETE, INPUT, HOLDING = "0", "1", "3:hex", "4"


class Poll:
    """One ``mbpoll`` a request; addresses from 0, as in a PDU."""

    def __init__(self, port: int) -> None:
        self.program = find_program("mbpoll", "mbpoll")
        self.port = port
        self.unit = 1

    def run(self, kind: str, address: int, *values: int, count: int = 1) -> list[int]:
        command = [
            self.program,
            "-0",
            "-1",
            "-q",
            "-a",
            str(self.unit),
            "-t",
            kind,
            "-r",
            str(address),
            "-p",
            str(self.port),
        ]
        command += ["-c", str(count)] if not values else []
        done = subprocess.run([*command, "127.0.0.1", *map(str, values)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return [int(found, 0) for found in re.findall(r"^\[\d+\]:\s+(\S+)", done.stdout, re.M)]


def test_coil_triggers_bits_tell_the_verdict_the_heartbeat_counts_and_what_is_not_on_the_map_is_refused(
    start_line: StartLine,
) -> None:
    port = free_port()
    agent = start_line(f'[[line_io]]\ntype = "modbus-tcp-server"\nport = {port}\n')
    agent.wait_ready()
    poll = Poll(port)
    seen = {poll.run(INPUT, 1)[0]}

    def beats() -> bool:
        seen.add(poll.run(INPUT, 1)[0])
        return len(seen) > 2

    wait_for(beats)
    for kind, address, values in ((COIL, 200, (1,)), (HOLDING, 18, (1, 2, 3, 4)), (INPUT, 100, ())):
        with pytest.raises(AssertionError, match="Illegal data address"):
            poll.run(kind, address, *values, count=60)
    assert agent.line["triggers"] == 0
    assert poll.run(DISCRETE, 0, count=7) == [1, 0, 0, 0, 0, 0, 0]
    for part, passed in enumerate((1, 0, 1)):
        poll.run(COIL, 0, 1)
        wait_for(lambda: agent.line["answered"] == part + 1)  # noqa: B023
        assert poll.run(DISCRETE, 0, count=4) == [1, 0, 1, passed]
        assert poll.run(INPUT, 4, count=4) == [0, part, 0, 1 if passed else 2]
        poll.run(COIL, 0, 0)
    poll.unit = 255  # any unit is answered over TCP
    assert poll.run("3", 0) == [1]
    assert agent.stop() == 0
    assert [(row.sequence, row.verdict) for row in agent.rows()] == [(0, "pass"), (1, "reject"), (2, "pass")]


def test_counter_triggers_with_the_parts_name_and_both_come_back(start_line: StartLine) -> None:
    port = free_port()
    agent = start_line(f'[[line_io]]\ntype = "modbus-tcp-server"\nport = {port}\n')
    agent.wait_ready()
    poll = Poll(port)
    poll.run(HOLDING, 4, 0x4142, 0x2D37, 0)  # "AB-7"
    poll.run(HOLDING, 0, 537)
    wait_for(lambda: agent.line["answered"] == 1)
    assert poll.run(INPUT, 6, count=2) == [537, 1]
    assert poll.run(INPUT, 24, count=3) == [0x4142, 0x2D37, 0]
    poll.run(HOLDING, 0, 537)  # said again, as after a lost answer: no second trigger
    poll.run(HOLDING, 0, 539)  # two at once: the first part has passed by
    wait_for(lambda: agent.line["answered"] == 3)
    ring = poll.run(INPUT, 42, count=12)
    assert [ring[at + 2 : at + 4] for at in (0, 4, 8)] == [[537, 1], [538, 6], [539, 2]]
    defect, defects, score, camera, *ring_defect = poll.run(INPUT, 106, count=12)
    assert (defect, camera, ring_defect[:2]) == (1, 1, [0x0000, 0x0100])
    assert defects >= 1
    assert 5000 < score <= 10_000
    agent.stop()
    rows = agent.rows()
    assert [row.part_id for row in rows] == ["AB-7", "trigger-1", "AB-7"]
    assert [row.verdict for row in rows] == ["pass", "fault", "reject"]
