"""What both files of console tests share: a wire, a port at its end, and a shell or a getty at the other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_boards.provision.console import Console
from lineside_boards.provision.serial_port import SerialPort
from lineside_boards.provision.serial_shell import SerialShell
from tests.peers.small_board import USERS, SmallBoard
from tests.peers.waiting import wait_for
from tests.peers.wire import Wire

PROMPT = r"PS1='\[\e[1;32m\]\u@\h\[\e[0m\]:\w\$ '"


def nobody(whose: str) -> str:
    raise AssertionError(f"nobody should be asked for the {whose}")


def quiet(_: str) -> None:
    """Says nothing."""


class BashAtWire:
    """bash on the far end of a wire, as a console that somebody has left open; any user can have that."""

    def __init__(self, wire: Wire, *, rc: str = PROMPT) -> None:
        self._tty = os.open(wire.board, os.O_RDWR | os.O_NOCTTY)
        subprocess.run(["stty", "sane"], stdin=self._tty, check=True)
        script = f'exec setsid -c bash --noprofile --rcfile <(echo "{rc}") -i'
        self._child = subprocess.Popen(
            ["bash", "-c", script],
            stdin=self._tty,
            stdout=self._tty,
            stderr=self._tty,
            env={**os.environ, "TERM": "xterm"},
        )
        wait_for(lambda: b"$ " in wire.heard or b"# " in wire.heard, what="bash's prompt")

    def __enter__(self) -> BashAtWire:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._tty)


def shell_on(port: SerialPort, user: str = "admin", *, patience_s: float = 20.0) -> SerialShell:
    console = Console(port, quiet)
    console.reach_shell(user, lambda _: USERS[user], boot_timeout_s=patience_s)
    return SerialShell(console)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture
def port(wire: Wire) -> Iterator[SerialPort]:
    port = SerialPort(wire.desk)
    yield port
    port.close()


@pytest.fixture
def board(wire: Wire, tmp_path: Path) -> Iterator[SmallBoard]:
    with SmallBoard(tmp_path, tty=wire.board, sshd=False) as board:
        wait_for(lambda: b"login:" in wire.heard, what="getty")
        yield board
