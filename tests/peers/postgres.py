"""Debian's PostgreSQL as a child process of an unprivileged user, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.peers.processes import ChildProcess
from tests.peers.programs import find_program
from tests.peers.waiting import free_port


def _binary(name: str) -> str:
    """Debian keeps the server's programs out of the path, a folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else find_program(name, "postgresql")


class PostgresServer(ChildProcess):
    """A server that is made anew, trusts everybody on loopback, and can be killed and started again.

    Attributes:
        port: On loopback.
    """

    def __init__(self) -> None:
        self.port = free_port()
        # PostgreSQL refuses to run as root; pytest's own folders can't be entered by another user.
        user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="lineside-postgres-"))
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = str(self._folder / "data")
        initdb = [_binary("initdb"), "-D", data, "-U", "lineside", "-A", "trust", "-E", "UTF8", "-N"]
        done = subprocess.run(initdb, user=user, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        command = [_binary("postgres"), "-D", data, "-p", str(self.port), "-k", str(self._folder)]
        command += ["-c", "listen_addresses=127.0.0.1"]
        super().__init__(command, self._folder / "log", user=user, cwd=self._folder)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://lineside@127.0.0.1:{self.port}/postgres"

    def start(self, command: Sequence[str | Path] | None = None) -> None:
        super().start(command)
        self.wait_for(self._ready, what=f"PostgreSQL on port {self.port}")

    def _ready(self) -> bool:
        command = [_binary("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        """Ends it and its children as a power cut would."""
        if self.alive:
            self.signal(signal.SIGQUIT)
            self.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """Ends it, whoever is connected, and removes its folder."""
        if self.alive:
            self.signal(signal.SIGINT)
        status = self.wait(timeout_s)
        shutil.rmtree(self._folder, ignore_errors=True)
        return status
