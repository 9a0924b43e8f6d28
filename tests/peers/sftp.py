"""An SFTP server: a folder by asyncssh, to anybody on this machine; can lose a connection in the middle of a file.

python -m tests.peers.sftp FOLDER [PART N]

With ``PART N``, the Nth file that is opened for writing and has PART in its path is written half, and then the
connection that it came by is cut.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import asyncssh

from tests.peers.processes import ChildProcess

_PORT = re.compile(r"^(\d+)$", re.MULTILINE)


class Fault:
    """When a connection is cut."""

    def __init__(self, part: str = "", number: int = 0) -> None:
        self._part, self._left = part.encode(), number
        self.handle: Any = None

    def opened(self, path: bytes, handle: Any) -> None:
        """Counts a file that is written."""
        if self._part and self._part in path and self._left > 0:
            self._left -= 1
            self.handle = handle if self._left == 0 else None


def main(folder: str, *fault: str) -> None:
    """Serves until it is killed; prints its port, and ``cut`` when it has cut."""
    asyncio.run(_serve(folder, Fault(fault[0], int(fault[1])) if fault else Fault()))


async def _serve(folder: str, fault: Fault) -> None:
    class Files(asyncssh.SFTPServer):
        def __init__(self, channel: Any) -> None:
            super().__init__(channel, chroot=folder.encode())

        def open(self, path: bytes, pflags: int, attrs: Any) -> Any:
            found = super().open(path, pflags, attrs)
            if pflags & asyncssh.FXF_WRITE:
                fault.opened(path, found)
            return found

        def write(self, file_obj: Any, offset: int, data: bytes) -> Any:
            if fault.handle is not file_obj:
                return super().write(file_obj, offset, data)
            super().write(file_obj, offset, data[: len(data) // 2])
            file_obj.flush()
            print(f"cut at {offset + len(data) // 2}", flush=True)
            fault.handle = None
            self.channel.get_connection().abort()
            raise asyncssh.SFTPConnectionLost("cut")

    class Anybody(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            del username
            return False

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Anybody,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        sftp_factory=Files,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.wait_closed()


class Served(ChildProcess):
    """The server in a process of its own.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, folder: Path, *fault: str) -> None:
        super().__init__([sys.executable, "-m", __name__, str(folder), *fault], folder.with_suffix(".log"))

    def __enter__(self) -> Served:
        self.start()
        self.wait_for(lambda: _PORT.search(self.said), what="its port")
        self.port = int(_PORT.findall(self.said)[0])
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
