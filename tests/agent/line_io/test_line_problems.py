"""Problems of a line appear in the status, in ``/metrics`` and in the doctor's findings of a running agent."""

from __future__ import annotations

import json
import re
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.client import ModbusTcpClient

from lineside.cli import main
from lineside_agent.health.doctor import is_held
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_runtime.bundle import Bundle
from tests.peers.waiting import free_port, wait_for
from tests.worlds.agent import TriggeredAgent


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def findings(agent: TriggeredAgent, capsys: pytest.CaptureFixture[str]) -> str:
    main(["agent", "doctor", "--config", str(agent.config_path), "--root", str(agent.folder / "root"), "--json"])
    return "\n".join(found["what"] for found in json.loads(capsys.readouterr().out)["findings"])


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def server(port: int) -> dict[str, Any]:
    return {"type": "modbus-tcp-server", "host": "127.0.0.1", "port": port}


def test_port_in_use_late_fault_and_missing_folder_are_told(
    tmp_path: Path, bundle: Bundle, taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    metrics_port = free_port()
    agent = TriggeredAgent(
        tmp_path,
        bundle.path,
        trigger={"deadline_ms": 0.01, "late_max": 2},
        line_io=[server(taken_port), server(port)],
        metrics={"port": metrics_port},
    )
    try:
        wait_for(lambda: agent.line.get("ready"), 120.0, what=lambda: f"ready: {agent.log[-2000:]}")
        assert is_held(agent.state)
        with ModbusTcpClient("127.0.0.1", port=port, timeout=60.0) as plc:
            wait_for(plc.connect, what="the second server")
            assert not plc.read_input_registers(0, count=10).isError()
        for _ in range(2):
            ask(agent.state, TriggerRequest("trigger"))
        shutil.rmtree(tmp_path / "frames")
        wait_for(lambda: agent.line.get("fault") == "LATE")
        wait_for(lambda: agent.status["line_io_problem"])
        said = findings(agent, capsys)
        assert f"modbus-tcp 127.0.0.1:{taken_port}: port {taken_port} of 127.0.0.1 can't be opened" in said, said
        assert "Address already in use" in said
        assert "the line is at fault LATE" in said
        assert f"{tmp_path / 'frames'} are not there" in said
        assert "the kernel sees no camera" not in said
        told = metrics(metrics_port)
        for name in ("line_io_problem", "line_fault"):
            assert f'lineside_{name}{{device="cam-1"}} 1.0' in told, told
        assert "lineside_plc_polled_s_ago" in told
        main(["agent", "status", "--config", str(agent.config_path)])
        shown = capsys.readouterr()
        assert re.search(rf"modbus-tcp 127.0.0.1:{port}: open, \d+ verdicts sent, PLC last polled \d", shown.out)
        assert "at fault LATE" in shown.out
    finally:
        agent.stop()
    assert not is_held(agent.state)
