"""Child processes of the demo."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lineside_hub.simulate.processes import Child
from lineside_runtime.errors import DemoError

POLL_S = 0.05


class Processes:
    """Child processes by name, each with its log; a context manager that stops all of them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, Child] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, *arguments: str) -> None:
        """Starts ``lineside ARGUMENTS`` as process ``name``, with its output appended to its log."""
        command = [sys.executable, "-m", "lineside", "--log-level", "info", *arguments]
        self._running[name] = Child(command, self._logs / f"{name}.log")

    def run(self, name: str, *arguments: str, timeout_s: float) -> None:
        """Runs ``lineside ARGUMENTS`` to its end.

        Raises:
            DemoError: It failed, did not end in time, or another process ended.
        """
        self.start(name, *arguments)
        process = self._running.pop(name).process
        try:
            self.wait_for(f"the end of {name}", lambda: process.poll() is not None, timeout_s=timeout_s)
        finally:
            process.kill()
        if process.wait() != 0:
            raise DemoError(f"{name} ended with {process.returncode}", action=f"Read {self._logs / name}.log.")

    def kill(self, name: str) -> None:
        """Ends a process with SIGKILL."""
        process = self._running.pop(name).process
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """Ends a process with SIGTERM, after 15 s with SIGKILL."""
        self._running.pop(name).stop()

    def check(self, what: str) -> None:
        """Checks that all processes run.

        Args:
            what: What is waited for, for the message.

        Raises:
            DemoError: One has ended.
        """
        for name, child in self._running.items():
            if child.process.poll() is not None:
                raise DemoError(
                    f"the {name} process ended with {child.process.returncode} while waiting for {what}",
                    action=f"Read {self._logs / name}.log: {child.last_words()}",
                )

    def wait_for(self, what: str, happened: Callable[[], bool], *, timeout_s: float) -> None:
        """Waits until ``happened()`` is true.

        Args:
            what: Description for the message.
            happened: Called about twenty times a second.
            timeout_s: Longest time to wait.

        Raises:
            DemoError: It did not happen in time, or a process ended.
        """
        deadline = time.monotonic() + timeout_s
        while not happened():
            self.check(what)
            if time.monotonic() > deadline:
                raise DemoError(f"waited {timeout_s:.0f} s for {what}", action=f"Read the logs in {self._logs}.")
            time.sleep(POLL_S)
