"""An agent as a process of its own, whose line the test is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2

from lineside_agent.store import Store
from lineside_link.messages import ResultRow
from lineside_runtime.bundle import Bundle
from tests.agent.bundles import bright, dark
from tests.peers.waiting import wait_for


class LineAgent:
    """Frames are dark (pass) and bright (reject) in turn, beginning with dark."""

    def __init__(self, folder: Path, bundle: Bundle, tables: str, *, trigger: str = "", camera: str = "") -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "frames").mkdir(exist_ok=True)
        for number in range(2):
            cv2.imwrite(str(folder / "frames" / f"{number}.png"), bright() if number else dark())
        camera = camera or 'type = "folder"\npath = "frames"\nloop = true'
        top = f'device = "cam-1"\nfolder = "state"\nbundle = "{bundle.path}"\n'
        camera = camera if camera.startswith("[[camera]]") else f"[camera]\n{camera}"
        text = f"{top}{camera}\n[trigger]\ndeadline_ms = 5000\n{trigger}\n{tables}"
        (folder / "agent.toml").write_text(text)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "lineside_agent", "--config", str(self.folder / "agent.toml")]
        with (self.folder / "agent.log").open("ab") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        """Until parts may come and every line can be reached."""
        wait_for(self._is_ready, 120.0, what="ready")

    def _is_ready(self) -> bool:
        status = self.status
        return bool(status and status["line"]["ready"] and all(line["open"] for line in status["line_io"]))

    @property
    def status(self) -> dict[str, Any]:
        path = self.state / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if found.get("pid") == self.child.pid else {}

    @property
    def line(self) -> dict[str, Any]:
        return self.status.get("line") or {}

    @property
    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def stop(self) -> int:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        return self.child.wait(60.0)

    def rows(self) -> list[ResultRow]:
        """The records; the agent must have ended."""
        store = Store(self.state)
        rows = store.rows(0, 200_000)
        store.close()
        return rows
