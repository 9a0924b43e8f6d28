"""An agent: its pictures, its configuration, its process, and what it says of itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import msgspec
import tomli_w

from lineside_agent.deployment.machine import BundleMachine
from lineside_agent.storage.records import RecordStore
from lineside_link.config import LinkConfig
from lineside_link.messages import ResultRow
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for
from tests.worlds.bundles import bright, dark
from tests.worlds.hub import link_table

DEVICE = "cam-1"


def write_frames(folder: Path, count: int, *, first: int = 0) -> None:
    """Writes pictures for a folder camera: dark (pass) and bright (reject) in turn, beginning with dark.

    Args:
        folder: Made if it is not there.
        count: How many there are afterwards.
        first: Number of the first one that is written.
    """
    folder.mkdir(exist_ok=True, parents=True)
    for number in range(first, count):
        cv2.imwrite(str(folder / f"{number:04d}.png"), bright() if number % 2 else dark())


def folder_camera(**options: Any) -> dict[str, Any]:
    """Returns a ``[camera]`` table that reads the folder ``frames`` beside ``agent.toml``."""
    return {"type": "folder", "path": "frames"} | options


def write_agent(folder: Path, /, *, tables: str = "", link: LinkConfig | None = None, **settings: Any) -> Path:
    """Writes ``agent.toml``; returns its path.

    Args:
        folder: For the file, and for the state unless the setting ``folder`` names another.
        tables: More tables, as TOML.
        link: To the hub; its ``root.json`` is expected beside the file.
        settings: Keys and tables in place of those that are written without: `DEVICE`, ``state``, `folder_camera`.
    """
    content: dict[str, Any] = {"device": DEVICE, "folder": "state"}
    if link is not None:
        content |= {"root": "root.json", "link": link_table(link)}
    content |= {"camera": folder_camera(), **settings}
    path = folder / "agent.toml"
    path.write_text(f"{tomli_w.dumps(content)}\n{tables}")
    return path


class AgentProcess(ChildProcess):
    """``lineside agent run`` as a child.

    Args:
        folder: With its ``agent.toml``; its log is written there.
        state: Its state folder; ``folder/state`` if not given.
        environment: In place of this process's own.
    """

    def __init__(
        self, folder: Path, *, state: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        self.config_path = folder / "agent.toml"
        command = [sys.executable, "-m", "lineside_agent", "--config", str(self.config_path)]
        super().__init__(command, folder / "agent.log", environment=environment)

    @property
    def status(self) -> dict[str, Any]:
        """What ``status.json`` says; empty until the process that was started last has written it."""
        path = self.state / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found if self._child is None or found.get("pid") == self.pid else {}

    @property
    def machine(self) -> BundleMachine:
        """The update's state as it lies on the disk."""
        return msgspec.json.decode((self.state / "update.json").read_bytes(), type=BundleMachine)

    @property
    def line(self) -> dict[str, Any]:
        """The trigger controller's part of the status; empty before it is there, and without a ``[trigger]`` table."""
        return self.status.get("line") or {}

    def rows(self) -> list[ResultRow]:
        """Returns the records; the agent must have ended."""
        store = RecordStore(self.state)
        try:
            return store.rows(0, 200_000)
        finally:
            store.close()


class TriggeredAgent(AgentProcess):
    """An agent whose parts are triggered, on one dark and one bright picture in turn.

    Args:
        folder: For its files.
        bundle: Path of the bundle.
        tables: More tables of ``agent.toml``, as TOML.
        trigger: More keys of its ``[trigger]``.
        settings: As for `write_agent`.
    """

    def __init__(
        self, folder: Path, bundle: Path, tables: str = "", *, trigger: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(folder)
        write_frames(folder / "frames", 2)
        settings = {"camera": folder_camera(loop=True), **settings}
        write_agent(
            folder,
            bundle=str(bundle),
            trigger={"deadline_ms": 30_000, **(trigger or {})},
            tables=tables,
            **settings,
        )
        self.start()

    def wait_ready(self) -> None:
        """Waits until parts may come and every line can be reached."""
        wait_for(self._is_ready, 120.0, what=lambda: f"ready\n{self.log[-3000:]}")

    def _is_ready(self) -> bool:
        status = self.status
        return bool(status and status["line"]["ready"] and all(line["open"] for line in status["line_io"]))
