"""A serial console: a real getty, login and shell at the other end of a wire that behaves, and of one that doesn't."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lineside_boards.errors import BoardLinkError, ConsoleError
from lineside_boards.provision import console as console_module
from lineside_boards.provision import system_facts
from lineside_boards.provision.console import Console
from lineside_boards.provision.serial_port import SerialPort
from lineside_boards.provision.serial_shell import SerialShell
from tests.boards.consoles import BashAtWire, board, nobody, port, quiet, shell_on, wire
from tests.peers.small_board import USERS, SmallBoard
from tests.peers.waiting import wait_for
from tests.peers.wire import Wire

__all__ = ["board", "port", "wire"]  # fixtures


def open_shell(port: SerialPort) -> SerialShell:
    """Returns the shell that is open at the other end."""
    console = Console(port, quiet)
    console.reach_shell("admin", nobody, boot_timeout_s=60)
    return SerialShell(console)


def test_shell_that_is_there_is_used_and_left_as_it_was(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire):
        shell = open_shell(port)
        assert shell.run("echo one; echo two >&2; exit 3").text == "one\ntwo\n"
        assert shell.run("exit 3").code == 3
        assert shell.run("cat", data=b"x\ny").text == "x\ny"
        long = "echo " + "long " * 1000
        assert shell.run(long).text.split() == ["long"] * 1000
        assert shell.run("printf 'ends without a line'").text == "ends without a line"
        shell.close()
        wire.heard.clear()
        port.write(b"echo back again: $((40+2))\r")
        wait_for(lambda: b"again: 42" in wire.heard and wire.heard.rstrip().endswith((b"$", b"#")))
        assert b"echo back again" in wire.heard, "its echo is there again"
        assert shell.faults == 0


def test_login_facts_root_and_files(wire: Wire, port: SerialPort, board: SmallBoard) -> None:
    shell = shell_on(port)
    found = system_facts.take(shell)
    assert (found.user, found.home, found.hostname) == ("admin", "/home/admin", "factory")
    assert found.python.startswith("3.")
    assert len(found.host_keys) == 2
    shell.become_root(lambda _: USERS["admin"])
    assert shell.ask("id -un", root=True) == "root\n"
    shell.write("/etc/lineside/note", b"text\0" * 700, mode=0o640)
    assert board.path("etc/lineside/note").read_bytes() == b"text\0" * 700
    assert board.path("etc/lineside/note").stat().st_mode & 0o777 == 0o640
    shell.calm()
    assert board.path(".printk").read_text().startswith("1")
    shell.close()
    assert board.path(".printk").read_text().startswith("4")
    wait_for(lambda: wire.heard.rstrip().endswith(b"login:"), what="nobody is logged in any more")
    assert list(board.path("dev/shm").iterdir()) == [], "what keys passed through is gone"


@contextlib.contextmanager
def kernel_that_talks(wire: Wire) -> Iterator[None]:
    """The board's kernel writes a line every 0.15 s, also into what others write."""
    end = threading.Event()

    def talk() -> None:
        for number in itertools.count():
            if end.wait(0.15):
                return
            wire.say(b"[%5d.123456] usb 1-1.2: device descriptor read/64, error -71\r\n" % number)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        yield
    finally:
        end.set()
        talker.join()


@pytest.mark.slow
def test_kernel_that_talks_all_the_time_changes_nothing(wire: Wire, port: SerialPort, board: SmallBoard) -> None:
    with kernel_that_talks(wire):
        shell = shell_on(port, patience_s=90.0)
        for number in range(5):
            assert shell.run(f"seq {number} {number + 60}").text.split() == [str(n) for n in range(number, number + 61)]
        shell.close()


def test_bytes_that_are_lost_are_noticed_and_sent_again(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire, rc="PS1='$ '"):
        shell = open_shell(port)
        wire.loss = 0.0005
        for number in range(8):
            assert shell.run(f"printf '%s' {'a' * 300}{number}").text == "a" * 300 + str(number)
        assert shell.faults > 0
        wire.loss = 0.0
        shell.close()


@contextlib.contextmanager
def lost_answer(wire: Wire) -> Iterator[None]:
    """The board's next answer does not arrive; what it says afterwards does."""
    wire.heard.clear()
    wire.mute()

    def join_again() -> None:
        wait_for(lambda: re.search(rb"%\w{8}=\d+\.\d+\.0%", wire.heard), what="the end of the answer")
        wire.mute(on=False)

    helper = threading.Thread(target=join_again)
    helper.start()
    yield
    helper.join()


@pytest.mark.parametrize("beside", [lambda wire: contextlib.nullcontext(), kernel_that_talks], ids=["silent", "talks"])
def test_script_runs_once_though_its_answer_is_asked_for_again(
    wire: Wire, port: SerialPort, tmp_path: Path, beside: Callable[[Wire], contextlib.AbstractContextManager[None]]
) -> None:
    log = tmp_path / "log"
    with BashAtWire(wire):
        shell = open_shell(port)
        with lost_answer(wire), beside(wire):
            assert shell.run(f"echo once >> {log}; echo done").text == "done\n"
        assert log.read_text() == "once\n"
        shell.close()


def test_line_of_the_kernel_is_no_damaged_answer(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire):
        shell = open_shell(port)
        with lost_answer(wire):
            wire.say(b"[   12.345678] usb 1-1.2: reset high-speed USB device\r\n")
            assert shell.run("echo done").text == "done\n"
        assert shell.faults == 0
        shell.close()


def test_adapter_that_is_pulled_out_is_said(wire: Wire, port: SerialPort) -> None:
    with BashAtWire(wire):
        shell = open_shell(port)
        threading.Timer(0.5, wire.unplug).start()
        with pytest.raises(BoardLinkError, match="is gone"):
            shell.run("sleep 30")
        shell.close()  # says nothing more


def test_sudo_without_a_password_asks_nobody(port: SerialPort, board: SmallBoard) -> None:
    shell = shell_on(port, "robot")
    shell.become_root(nobody)
    assert shell.ask("id -u", root=True) == "0\n"


def test_silent_line_says_what_to_check(port: SerialPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "ANSWER_S", 0.5)
    with pytest.raises(ConsoleError, match="nothing comes from the board") as caught:
        Console(port, quiet).reach_shell("admin", nobody, boot_timeout_s=1)
    assert "TX" in str(caught.value)
    assert "--baud" in str(caught.value)


def test_board_whose_kernel_is_quiet_is_waited_for(
    wire: Wire, port: SerialPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "ANSWER_S", 0.5)
    said: list[str] = []
    console = Console(port, said.append)
    failed: list[Exception] = []

    def reach() -> None:
        try:
            console.reach_shell("admin", nobody, boot_timeout_s=60)
        except ConsoleError as error:
            failed.append(error)

    reacher = threading.Thread(target=reach)
    reacher.start()
    try:
        wait_for(lambda: any("nothing comes from the board yet" in line for line in said), what="the hint")
        with BashAtWire(wire):
            reacher.join(60.0)
            assert not reacher.is_alive()
    finally:
        reacher.join(60.0)
    assert failed == []
    assert len(said) == 1


def test_wrong_speed_says_so(wire: Wire, port: SerialPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "ANSWER_S", 0.5)
    wire.say(bytes([0xFE, 0x00, 0xE0, 0x8C, 0xF8]) * 20)
    end = threading.Event()

    def hum() -> None:
        while not end.wait(0.05):
            wire.say(bytes([0xFE, 0x00, 0xE0, 0x8C, 0xF8]))

    hummer = threading.Thread(target=hum)
    hummer.start()
    try:
        with pytest.raises(ConsoleError, match="no text") as caught:
            Console(port, quiet).reach_shell("admin", nobody, boot_timeout_s=1)
    finally:
        end.set()
        hummer.join()
    assert "1500000" in str(caught.value)


def test_port_that_somebody_else_has_or_that_can_not_be_opened_says_why(wire: Wire, port: SerialPort) -> None:
    absent = (("/dev/absent", "is not there"), ("/", "opened"), ("nonsense://x", "opened"))
    for path, words in ((wire.desk, "used by another program"), *absent):
        with pytest.raises(ConsoleError, match=words):
            SerialPort(path)


def test_adapter_that_goes_while_the_output_drains_is_a_link_error(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, line = pty.openpty()
    port = SerialPort(os.ttyname(line))
    write = port._line.write

    def written_and_unplugged(data: bytes) -> int | None:
        sent: int | None = write(data)
        os.close(adapter)
        return sent

    monkeypatch.setattr(port._line, "write", written_and_unplugged)
    with pytest.raises(BoardLinkError, match="is gone"):
        port.write(b"echo\r")
    port.close()
    os.close(line)
