"""The checks of line protocols: ours pass them all, and each fault is found."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from lineside_agent.config import LineConfig, ModbusTcpServerConfig, SerialLineConfig
from lineside_agent.line_io import LineOutput, Signal, conformance, open_output
from lineside_agent.line_io.conformance import LineSubject, run
from lineside_agent.line_io.events import LineState
from tests.agent.line_io.serial_peer import SerialPeer
from tests.peers import free_port


def failures(subject: LineSubject) -> dict[str, str]:
    return {one.check: one.detail for one in run(subject) if one.verdict == "failed"}


def test_serial_line_conforms(peer: SerialPeer, tmp_path: Path) -> None:
    def line(port: Path) -> LineOutput:
        return open_output(SerialLineConfig(port=str(port), timeout_s=0.2))

    assert failures(LineSubject(lambda: line(peer.path), lambda: line(tmp_path / "none"))) == {}


def test_modbus_server_conforms() -> None:
    def line(port: int) -> LineOutput:
        config: LineConfig = ModbusTcpServerConfig(host="127.0.0.1", port=port)
        return open_output(config)

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        subject = LineSubject(lambda: line(free_port()), lambda: line(taken.getsockname()[1]))
        assert failures(subject) == {}


class GoodLine(LineOutput):
    """Does everything right, without another end."""

    port = threading.Lock()

    def __init__(self) -> None:
        super().__init__("good")

    def _open(self) -> None:
        if not self.port.acquire(blocking=False):
            raise OSError("the port is taken")

    def _send(self, signal: Signal) -> None:
        pass

    def _close(self) -> None:
        self.port.release()


class DeafToFaults(GoodLine):
    def _send(self, signal: Signal) -> None:
        if signal.verdict == "fault":
            raise OSError("it knows two verdicts")


class FailsAtLevels(GoodLine):
    def show(self, state: LineState) -> None:
        raise RuntimeError("no such output")


class KeepsItsPort(GoodLine):
    port = threading.Lock()

    def _close(self) -> None:
        pass


class SlowToFail(GoodLine):
    def _open(self) -> None:
        time.sleep(0.1)
        raise OSError("nobody is there")


@pytest.mark.parametrize(
    ("line", "check"),
    [
        (DeafToFaults, "it tells every verdict"),
        (FailsAtLevels, "it takes levels and beats"),
        (KeepsItsPort, "it opens again after it was closed"),
    ],
)
def test_fault_of_a_line_is_found(line: type[LineOutput], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "OPEN_S", 0.3)
    assert check in failures(LineSubject(line))


def test_line_that_waits_too_long_for_its_other_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "ANSWER_MAX_S", 0.05)
    assert set(failures(LineSubject(GoodLine, SlowToFail))) == {"unreachable it counts and does not raise"}


def test_line_that_does_everything_right_conforms() -> None:
    assert failures(LineSubject(GoodLine)) == {}
    assert [one.verdict for one in run(LineSubject(GoodLine))][-1] == "not applicable"
