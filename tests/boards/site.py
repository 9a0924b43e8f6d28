"""`Site`: a hub and a broker with mutual TLS on this machine, and the board's commands as a user gives them."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lineside_hub.identity import enrolled_devices
from lineside_hub.listing import list_devices
from tests.boards.emulator import HOST
from tests.peers.brokers import find_mosquitto
from tests.peers.waiting import free_port, wait_for

NAME, GROUP = "cam-07", "line-3"


def say(text: str) -> None:
    """A line of the log that is kept."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def lineside(*arguments: str | Path) -> str:
    """Runs a command as a user does."""
    done = subprocess.run([sys.executable, "-m", "lineside", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"lineside {arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Site:
    """A hub and a broker.

    Args:
        folder: For their files; what is there of an earlier site goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "hub"
        if (self.folder / "hub.toml").exists():
            url = re.search(r'url = "mqtts://[^:]+:(\d+)"', (self.folder / "hub.toml").read_text())
            assert url, "the hub of an earlier site has no broker"
            self.port = int(url[1])
        else:
            self.port = free_port()
            lineside("hub", "init", self.folder, "--site", "plant-1", "--group", GROUP)
            hosts = ("--host", "127.0.0.1", "--host", HOST)
            lineside("hub", "secure", "--hub", self.folder, *hosts, "--port", str(self.port))
        self._log = (folder / "site.log").open("ab")
        self._broker = self._start(find_mosquitto(), "-c", str(self.folder / "identity/mosquitto.conf"))
        wait_for(lambda: _listens(self.port), 60.0, what="mosquitto")  # before, SIGHUP would end it
        self._hub: subprocess.Popen[bytes] | None = None

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def start_hub(self) -> None:
        """Starts the hub, and has the broker read who is enrolled."""
        self.let_in()
        config = str(self.folder / "hub.toml")
        self._hub = self._start(sys.executable, "-m", "lineside", "hub", "run", "--config", config)

    def enrolled(self, device: str) -> bool:
        """Whether the broker would let a device in, if it read its list again."""
        identity = self.folder / "identity"
        return device in enrolled_devices(identity) and f"user {device}\n" in (identity / "mosquitto.acl").read_text()

    def let_in(self) -> None:
        """Has the broker read who is enrolled."""
        self._broker.send_signal(signal.SIGHUP)

    def device(self) -> dict[str, Any]:
        """What ``lineside fleet ls`` says of the board; empty before it was ever there."""
        listed = json.loads(lineside("fleet", "ls", "--hub", self.folder, "--json"))["devices"]
        return next((row for row in listed if row["name"] == NAME), {})

    def verdicts(self) -> list[tuple[str, str]]:
        """Verdict and error of each result of the board's, oldest first, as they stand in the hub's database."""
        with contextlib.closing(sqlite3.connect(self.folder / "hub.db", timeout=30)) as connection:
            query = "SELECT verdict, error FROM results WHERE device = ? ORDER BY seq"
            return connection.execute(query, (NAME,)).fetchall()

    def wait_until(self, timeout_s: float, *, what: str, **wanted: Any) -> None:
        """Returns when the hub's row of the board has these values; a number may be larger.

        Args:
            timeout_s: The test fails after this long.
            what: Was waited for, for the message.
            wanted: Fields of the row.
        """

        def there() -> bool:
            rows = [row for row in list_devices(self.folder) if row.name == NAME]
            found = {name: getattr(rows[0], name) for name in wanted} if rows else {}
            return bool(rows) and all(_reached(found[name], value) for name, value in wanted.items())

        wait_for(there, timeout_s, what=f"{what}: {wanted}", every_s=1.0)
        assert all(_reached(self.device()[name], value) for name, value in wanted.items()), "fleet ls says the same"

    def stop(self) -> None:
        """Ends both."""
        for process in (self._hub, self._broker):
            if process is not None:
                process.terminate()
                process.wait(60)
        self._log.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return False
    return True


def _reached(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return bool(found >= wanted)
    return bool(found == wanted)
