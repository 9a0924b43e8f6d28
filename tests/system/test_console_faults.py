"""More that goes wrong at a serial console; login(1) takes its time over each refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_boards.errors import BoardLinkError, LoginError, ProvisionError
from lineside_boards.provision.console import Console
from lineside_boards.provision.serial_port import SerialPort
from lineside_boards.provision.serial_shell import SerialShell
from lineside_runtime.errors import DiskFullError
from tests.boards.consoles import BashAtWire, board, nobody, port, quiet, shell_on, wire
from tests.peers.small_board import USERS, SmallBoard
from tests.peers.waiting import wait_for
from tests.peers.wire import Wire

__all__ = ["board", "port", "wire"]  # fixtures


def test_line_that_loses_too_much_is_called_so(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire, rc="PS1='$ '"):
        console = Console(port, quiet)
        console.reach_shell("admin", nobody, boot_timeout_s=5)
        shell = SerialShell(console)
        wire.loss = 0.5
        with pytest.raises(BoardLinkError, match=r"loses bytes|stopped answering"):
            shell.run("echo " + "x" * 600, timeout_s=5.0)


def test_wires_that_come_off_are_said(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire):
        console = Console(port, quiet)
        console.reach_shell("admin", nobody, boot_timeout_s=5)
        shell = SerialShell(console)
        wire.cut()
        with pytest.raises(BoardLinkError, match="stopped answering"):
            shell.run("true", timeout_s=3.0)


def test_shell_of_ours_that_a_kill_has_left_is_found_again(wire: Wire, port: SerialPort, board: SmallBoard) -> None:
    first = shell_on(port)
    assert first.run("echo $$").code == 0  # and now we are killed: no prompt, no echo, nobody logs out
    port.write(b"sleep 30\r")
    port.write(b"half a comma")
    second = shell_on(port)
    assert second.run("echo here").text == "here\n"
    second.close()
    wait_for(lambda: wire.heard.rstrip().endswith(b"login:"), 20.0, what="logged out, as the first one would have")


def test_wrong_password_is_refused_and_the_console_is_usable_afterwards(
    wire: Wire, port: SerialPort, board: SmallBoard
) -> None:
    with pytest.raises(LoginError, match="refuses admin"):
        Console(port, quiet).reach_shell("admin", lambda _: "wrong", boot_timeout_s=5)
    assert b"wrong" not in wire.heard
    assert shell_on(port).run("id -un").text == "admin\n"


def test_half_a_login_of_somebody_is_put_aside(wire: Wire, port: SerialPort, board: SmallBoard) -> None:
    port.write(b"guest\r")
    wait_for(lambda: b"Password:" in wire.heard, 20.0)
    assert shell_on(port).run("id -un").text == "admin\n"


def test_user_who_may_not_become_root_is_told(port: SerialPort, board: SmallBoard) -> None:
    shell = shell_on(port, "guest")
    with pytest.raises(LoginError, match="guest"):
        shell.become_root(lambda _: USERS["guest"])


def test_wrong_sudo_password_is_told(port: SerialPort, board: SmallBoard) -> None:
    shell = shell_on(port)
    with pytest.raises(LoginError, match="sudo refuses admin"):
        shell.become_root(lambda _: "wrong")


def test_full_disk_on_the_board_is_said(wire: Wire, port: SerialPort, tmp_path: Path) -> None:
    with SmallBoard(tmp_path, tty=wire.board, sshd=False) as board:
        board.run("sh", "-c", "mkdir /full && mount -t tmpfs -o size=8k full /full")
        shell = shell_on(port, "robot")
        shell.become_root(nobody)
        with pytest.raises(DiskFullError, match="no room"):
            shell.write("/full/file", bytes(20_000))
        with pytest.raises(ProvisionError):
            shell.write("/proc/nothing/file", b"x")
