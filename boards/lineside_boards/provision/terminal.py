"""`Terminal`: connect this terminal with a serial line until Ctrl-].

Not pyserial's miniterm: it writes no log, and hangs when the adapter is pulled, because Linux 6.2 disabled TIOCSTI.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from pathlib import Path
from typing import IO, Any

from lineside_boards.provision.serial_port import SerialPort
from lineside_runtime.errors import DiskFullError, InputError, InputNotFoundError

ESCAPE = b"\x1d"
"""Ctrl-], as in telnet(1)."""


class Terminal:
    """The terminal of this process; a context manager that restores its settings.

    Args:
        log: The board's output is appended to it.

    Raises:
        InputError: There is no terminal.
        InputNotFoundError: The log cannot be written.
    """

    def __init__(self, *, log: Path | None = None) -> None:
        self._keys, self._screen = sys.stdin.fileno(), sys.stdout.fileno()
        if not os.isatty(self._keys):
            raise InputError("there is no terminal here", action="Start it in one: it is for a person.")
        try:
            self._log: IO[bytes] | None = log.open("ab") if log is not None else None
        except OSError as error:
            raise InputNotFoundError(f"{log}: {error.strerror}") from error
        self._before: list[Any] = []

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(self._keys)
        return self

    def __exit__(self, *_: object) -> None:
        termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()

    def run(self, port: SerialPort, *, greeting: str) -> None:
        """Connects terminal and line until Ctrl-].

        Args:
            greeting: Shown once all keys, also Ctrl-C, go to the board.

        Raises:
            BoardLinkError: The adapter was removed.
            DiskFullError: There is no space for the log.
        """
        # tty's default TCSAFLUSH would discard keys that were typed meanwhile.
        tty.setraw(self._keys, termios.TCSADRAIN)
        os.write(self._screen, f"{greeting}\r\n".encode())
        while True:
            if select.select([self._keys], [], [], 0)[0]:
                typed = os.read(self._keys, 4096)
                if not typed:
                    return
                before, escape, _ = typed.partition(ESCAPE)
                port.write(before)
                if escape:
                    return
            if data := port.read():
                self._show(data)

    def _show(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._screen, view) :]
        if self._log is not None:
            try:
                self._log.write(data)
                self._log.flush()
            except OSError as error:
                raise DiskFullError(path=str(self._log.name)) from error
