"""The line's end of a serial port: a real pty pair."""

from __future__ import annotations

import contextlib
import os
import pty
import tty
from pathlib import Path


class SerialPeer:
    """The line's end of the pair; ``path`` is where the agent finds its own, also after a new pair is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plug_in()

    def plug_in(self) -> None:
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._ours)
        os.set_blocking(self._ours, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._theirs))
        self.data = b""

    def unplug(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)

    def heard(self) -> list[bytes]:
        with contextlib.suppress(OSError):
            self.data += os.read(self._ours, 65536)
        return self.data.splitlines()

    def say(self, text: str) -> None:
        os.write(self._ours, text.encode())
