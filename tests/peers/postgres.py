"""Debian's PostgreSQL as a child process of an unprivileged user, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.peers.programs import find_program
from tests.peers.waiting import free_port, wait_for


def _binary(name: str) -> str:
    """Debian keeps the server's programs out of the path, a folder a version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else find_program(name, "postgresql")


class PostgresServer:
    """A server that is made anew, trusts everybody on loopback, and can be killed and started again.

    Attributes:
        port: On loopback.
    """

    def __init__(self) -> None:
        self.port = free_port()
        # PostgreSQL refuses to run as root; pytest's own folders can't be entered by another user.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="lineside-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "lineside", "-A", "trust", "-E", "UTF8", "-N")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://lineside@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [_binary(name), *arguments], user=self._user, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = ["-D", str(self._folder / "data"), "-p", str(self.port), "-k", str(self._folder)]
        options += ["-c", "listen_addresses=127.0.0.1"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), *options], user=self._user, cwd=self._folder, stdout=log, stderr=log
            )
        wait_for(self._ready, what=f"PostgreSQL on port {self.port}")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        command = [_binary("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Ends it and removes its folder."""
        self._end(signal.SIGINT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None
