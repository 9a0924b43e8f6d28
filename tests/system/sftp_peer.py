"""An SFTP server: a folder by asyncssh, to anybody on this machine; can lose its connections in the middle of a file.

python -m tests.system.sftp_peer FOLDER [PART N]

With ``PART N``, the Nth file that is opened for writing and has PART in its path is written half, and then every
connection is cut, once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import asyncssh


class Fault:
    """When connections are cut."""

    def __init__(self, part: str = "", number: int = 0) -> None:
        self.part, self.left = part, number
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.handle: Any = None

    def opened(self, path: bytes, handle: Any) -> None:
        """Counts a file that is written."""
        if self.part and self.part.encode() in path and self.left > 0:
            self.left -= 1
            self.handle = handle if self.left == 0 else None

    def cut(self, handle: Any, offset: int) -> bool:
        """Cuts if this is the file."""
        if self.handle is None or handle is not self.handle:
            return False
        self.handle = None
        print(f"cut at {offset}", flush=True)
        for each in self.connections:
            each.abort()
        return True


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

        def write(self, file_obj: Any, offset: int, data: bytes) -> int:
            half = data[: len(data) // 2]
            if fault.handle is file_obj:
                super().write(file_obj, offset, half)
                os.fsync(file_obj.fileno())
                fault.cut(file_obj, offset + len(half))
                raise asyncssh.SFTPConnectionLost("cut")
            return int(super().write(file_obj, offset, data))

    class Anybody(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            fault.connections.append(conn)

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


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
