"""`Terminal`: this terminal and a serial line, joined byte by byte until Ctrl-].

Not pyserial's miniterm: it keeps no log, and ends itself by TIOCSTI, which Linux has switched off since 6.2, so that a
pulled adapter leaves it hanging.
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

from lineside_boards.provision.port import Port
from lineside_runtime.errors import DiskFullError, InputError, InputNotFoundError

ESCAPE = b"\x1d"
"""Ctrl-], as in telnet(1)."""


class Terminal:
    """The terminal that this process runs in; use it in a ``with``: it is as before afterwards, whatever happens.

    Args:
        log: Gets what the board says, as it says it; appended to.

    Raises:
        InputError: There is no terminal.
        InputNotFoundError: The log can't be written.
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

    def run(self, port: Port, *, greeting: str) -> None:
        """Joins terminal and line until Ctrl-].

        Args:
            port: The line.
            greeting: Is shown once every key goes to the board, Ctrl-C too; not before.

        Raises:
            BoardLinkError: The adapter is gone.
            DiskFullError: There is no room for the log.
        """
        # Not TCSAFLUSH, which is tty's default: what was typed meanwhile would be lost.
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
