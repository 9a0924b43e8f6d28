"""Commands as child processes: started, ended, killed and started again, each with a log."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.peers.waiting import wait_for


class ChildProcess:
    """A command that runs as a child; its output goes to the end of a log file.

    Args:
        command: With its arguments.
        log: For standard output and standard error.
        environment: In place of this process's own.
        options: More of `subprocess.Popen`, such as the user that it runs as.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log_path = log
        self._options = {"env": environment, **options}
        self._child: subprocess.Popen[bytes] | None = None
        self._began = 0

    def start(self, command: Sequence[str | Path] | None = None) -> None:
        """Starts the command, or another one in its place this time."""
        self._began = len(self.log)
        started = self.command if command is None else [str(part) for part in command]
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(started, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._options)

    def wait_for(self, happened: Callable[[], object], *, what: str) -> None:
        """Waits until something has happened; that it ends before is a failure with its log."""

        def has_happened() -> object:
            assert self.alive, f"it ended: {self.log[-3000:]}"
            return happened()

        wait_for(has_happened, what=what)

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "it was never started"
        return self._child

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def alive(self) -> bool:
        """Whether it was started and runs."""
        return self._child is not None and self._child.poll() is None

    @property
    def log(self) -> str:
        """What it has written; empty before its first start."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def said(self) -> str:
        """What it has written since it was started last."""
        return self.log[self._began :]

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def freeze(self) -> None:
        """Stops it without ending it: connections stay, and nothing is answered."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Waits until it has ended by itself; returns its exit status."""
        return self.child.wait(timeout_s)

    def wait_killed(self) -> None:
        """Waits until it is dead of a ``kill -9``."""
        assert self.wait() == -signal.SIGKILL, self.log

    def stop(self, timeout_s: float = 60.0) -> int:
        """Ends it as a service manager does: SIGTERM, then SIGKILL; returns its exit status, 0 if it never ran."""
        if self._child is None:
            return 0
        if self.alive:
            self._child.send_signal(signal.SIGTERM)
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.returncode

    def kill(self) -> None:
        """``kill -9``, if it runs."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def restart(self) -> None:
        """Kills it and starts it again."""
        self.kill()
        self.start()
