"""The agent as a Modbus client: the PLC is a pymodbus server in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.agent.line_io.conftest import StartLine
from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for

PROGRAM = Path(__file__).with_name("plc_server.py")


class PlcServer:
    def __init__(self, where: str) -> None:
        command = [sys.executable, "-W", "ignore", str(PROGRAM), where]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ok"

    def answer(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def order(self, text: str) -> str:
        assert self.child.stdin is not None
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        return self.answer()

    @property
    def registers(self) -> list[int]:
        found: list[int] = json.loads(self.order("dump"))
        return found

    @property
    def ring(self) -> list[tuple[int, int]]:
        """Tag and code of each answer."""
        found = self.registers
        return [(found[at + 2], found[at + 3]) for at in range(42, 42 + 4 * found[41], 4)]

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()


@contextlib.contextmanager
def plc_server(where: str) -> Iterator[PlcServer]:
    made = PlcServer(where)
    try:
        yield made
    finally:
        made.close()


def test_plc_that_has_room_is_told_of_defects(start_line: StartLine) -> None:
    port = free_port()
    with plc_server(str(port)) as plc:
        start_line(
            f'[[line_io]]\ntype = "modbus-tcp-client"\nhost = "127.0.0.1"\nport = {port}\nunit = 3\ndefects = true\n'
        )
        wait_for(lambda: plc.registers[2] & 1, 60.0, what="ready")
        for tag in (42, 43):
            plc.order("trigger")
            wait_for(lambda tag=tag: plc.ring and plc.ring[-1][0] == tag)  # type: ignore[misc]
        found = plc.registers
        assert found[7] == 2
        assert (found[106], found[109]) == (1, 1)  # `bright` is the first label; one camera
        assert found[107] >= 1
        assert 5000 < found[108] <= 10_000
        assert found[110] == 0x0001  # the first part passed, the second has defect 1


def test_plc_is_written_to_and_its_counter_triggers_also_after_it_was_away(start_line: StartLine) -> None:
    port = free_port()
    line = f'[[line_io]]\ntype = "modbus-tcp-client"\nhost = "127.0.0.1"\nport = {port}\nunit = 3\ntimeout_s = 0.3\n'
    with plc_server(str(port)) as plc:
        agent = start_line(line)
        wait_for(lambda: plc.registers[2] & 1, 60.0, what="ready")
        assert plc.registers[41] == 0  # 41 was there before the agent, and is no trigger
        plc.order("trigger AB-7")
        wait_for(lambda: plc.ring == [(42, 1)])
        assert plc.registers[24:27] == [0x4142, 0x2D37, 0]
        plc.order("trigger")
        wait_for(lambda: plc.ring == [(42, 1), (43, 2)])
        seen = {plc.registers[1]}

        def beats() -> bool:
            seen.add(plc.registers[1])
            return len(seen) > 2

        wait_for(beats, what="the heartbeat")
        assert plc.registers[106:] == [0] * 24, "an existing PLC keeps its own data behind the 106 registers"
    wait_for(lambda: "tried again" in agent.log)
    with plc_server(str(port)) as plc:
        wait_for(lambda: plc.registers[0] == 1, what="the agent is back")
        # The counter stands at 41 again, which is no step on from 43: nothing is triggered by that, and earlier answers
        # bear no count that the PLC will give again.
        assert plc.ring == [(0, 1), (0, 2)]
        plc.order("trigger")
        plc.order("trigger")
        wait_for(lambda: len(plc.ring) >= 3, what="missed triggers are answered and not judged")
        assert agent.stop() == 0
        assert not plc.registers[2] & 1
    rows = agent.rows()
    assert [row.part_id for row in rows][:2] == ["AB-7", "0001.png"]
    assert [row.sequence for row in rows] == list(range(len(rows)))


def test_rtu_master_serves_a_plc_on_a_serial_line(start_line: StartLine, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ttyA", tmp_path / "ttyB"
    ends = [f"pty,rawer,link={end}" for end in (ours, theirs)]
    socat = subprocess.Popen([find_program("socat", "socat"), *ends])
    wait_for(lambda: ours.exists() and theirs.exists())
    try:
        with plc_server(str(theirs)) as plc:
            line = f'type = "modbus-rtu-client"\nport = "{ours}"\nbaud = 115200\nparity = "N"\nunit = 3\n'
            start_line(f"[[line_io]]\n{line}")
            wait_for(lambda: plc.registers[2] & 1, 60.0, what="ready")
            for count in range(4):
                plc.order("trigger")
                wait_for(lambda: len(plc.ring) == count + 1)  # noqa: B023
            assert plc.ring == [(42, 1), (43, 2), (44, 1), (45, 2)]
    finally:
        socat.terminate()
        socat.wait(60.0)
