"""A disk that forgets what wasn't flushed when its power is cut, as a card with a cache of its own may.

::

    qemu ──NBD──► nbdkit, its delay filter, its cache filter in write-back mode ──► the image file
                                                 └── kept in memory only, until the board flushes

What the board has flushed is in the image and stays; what it only wrote is lost, all of it. Not simulated: a card that
loses some of it and keeps the rest, one that reorders across a flush, one that lies about a flush, and half a sector.
"""

from __future__ import annotations

from pathlib import Path

from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program


class VolatileDisk:
    """The disk.

    Args:
        image: Holds what was flushed.
        socket: Path of the NBD server's socket.

    Attributes:
        write_ms: How long each write takes, as on a slow card; from the next `on` on.
    """

    def __init__(self, image: Path, socket: Path) -> None:
        self.image, self.socket, self.write_ms = image, socket, 0
        self._server: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Under which qemu's programs open it."""
        return f"nbd+unix:///?socket={self.socket}"

    def on(self) -> None:
        """Gives it power."""
        self.socket.unlink(missing_ok=True)
        command = [find_program("nbdkit", "nbdkit"), "--foreground", "--exit-with-parent", "--unix", str(self.socket)]
        command += ["--threads=64", "--filter=delay", "--filter=cache", "file", str(self.image)]
        command += ["cache=writeback", f"delay-write={self.write_ms}ms"]
        self._server = ChildProcess(command, self.socket.with_suffix(".log"))
        self._server.start()
        self._server.wait_for(self.socket.exists, what="nbdkit's socket")

    def cut(self) -> None:
        """Takes its power away: what wasn't flushed is gone."""
        if self._server is not None:
            self._server.kill()
