"""What systemd does for a service of ``Type=notify``, in a thread: start, hear, watch, end, and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from lineside_agent.deployment.self_update import guard

GUARD = [sys.executable, "-I", "-S", str(Path(guard.__file__))]


class Supervisor:
    """Runs the guard's ``run`` as ``lineside-agent.service`` has it.

    Args:
        home: Where the slots are.
        arguments: Of the agent.
        log: Gets its output.
        watchdog_s: ``WatchdogSec``.
        start_s: ``TimeoutStartSec``.
    """

    def __init__(
        self,
        home: Path,
        arguments: list[str],
        *,
        log: Path,
        watchdog_s: float = 30.0,
        start_s: float = 60.0,
    ) -> None:
        self._home = home
        self._arguments = arguments
        self._log = log
        self._watchdog_s = watchdog_s
        self._start_s = start_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.results: list[str] = []
        self.starts = 0
        self.readies = 0
        self.heard: list[str] = []

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60.0)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        path = self._home / ".notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.settimeout(0.05)
            environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
            while not self._stop.is_set():
                self.starts += 1
                command = [*GUARD, "--home", str(self._home), "run", "--", *self._arguments]
                with self._log.open("ab") as log:
                    child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
                result = self._watch(child, listener)
                self.results.append(result)
                status = {"SERVICE_RESULT": result, "EXIT_CODE": "exited", "EXIT_STATUS": str(child.returncode)}
                subprocess.run([*GUARD, "--home", str(self._home), "ended"], env={**os.environ, **status})

    def _watch(self, child: subprocess.Popen[bytes], listener: socket.socket) -> str:
        ready, heard_s = False, time.monotonic()
        timer_s = heard_s
        while child.poll() is None:
            with contextlib.suppress(TimeoutError):
                message = listener.recv(4096).decode()
                self.heard.append(message)
                heard_s = (
                    time.monotonic() if message in ("READY=1", "WATCHDOG=1") and (ready or "R" in message) else heard_s
                )
                if message == "READY=1":
                    ready = True
                    self.readies += 1
            now_s = time.monotonic()
            if self._stop.is_set():
                return self._end(child, signal.SIGTERM, "success")
            if now_s - heard_s > (self._watchdog_s if ready else self._start_s):
                return self._end(child, signal.SIGKILL, "watchdog" if ready else "timeout")
            if now_s - timer_s > 1.0:  # lineside-guard.timer
                timer_s = now_s
                if subprocess.run([*GUARD, "--home", str(self._home), "overdue"]).returncode == 0:
                    return self._end(child, signal.SIGTERM, "success")
        return "exit-code" if child.returncode else "success"

    def _end(self, child: subprocess.Popen[bytes], number: int, result: str) -> str:
        child.send_signal(number)
        try:
            child.wait(30.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return result
