"""The whole agent as a process on a disk that is full, for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from lineside_agent.store import Store
from lineside_runtime.bundle import Bundle
from tests.agent.bundles import bright, dark, make_bundle
from tests.peers.small_disk import SmallDisk, mounted
from tests.peers.waiting import wait_for


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size_bytes=16 << 20) as small:
        yield small


class Agent:
    """A child process whose state is on the small disk and whose status is read from there."""

    def __init__(self, folder: Path, disk: SmallDisk, bundle: Bundle, *, frames: int, top: str = "") -> None:
        (folder / "frames").mkdir(exist_ok=True)
        for number in range(frames):
            cv2.imwrite(str(folder / "frames" / f"{number:04d}.png"), bright() if number % 2 else dark())
        head = f'device = "cam-1"\nfolder = "{disk.path}/state"\nbundle = "{bundle.path}"\n{top}\n'
        camera = '[camera]\ntype = "folder"\npath = "frames"\nrate_hz = 20.0\n'
        (folder / "agent.toml").write_text(head + camera + "[store]\nfree_min_bytes = 0\n")
        self._log = folder / "agent.log"
        command = [sys.executable, "-m", "lineside_agent", "--config", str(folder / "agent.toml")]
        (folder / "run").mkdir(exist_ok=True)
        environment = os.environ | {"RUNTIME_DIRECTORY": str(folder / "run")}  # in memory, as under systemd
        with self._log.open("ab") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._status = disk.path / "state" / "status.json"

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self._status.read_text()) if self._status.exists() else {}


def recorded(disk: SmallDisk) -> list[str]:
    store = Store(disk.path / "state")
    rows = store.rows(0, 1000)
    store.close()
    return [row.part_id for row in rows]


def test_agent_that_starts_on_a_full_disk_inspects_and_says_so(disk: SmallDisk, bundle: Bundle, tmp_path: Path) -> None:
    first = Agent(tmp_path, disk, bundle, frames=10, top="exit_when_done = true")
    assert first.child.wait(60.0) == 0, first.log
    (disk.path / "state" / "ballast").unlink(missing_ok=True)
    disk.fill()
    agent = Agent(tmp_path, disk, bundle, frames=40)
    try:
        wait_for(lambda: agent.status.get("inspected") == 30, 60.0, what="a verdict for each part")
        assert agent.child.poll() is None, agent.log
        assert "[4002]" in agent.status["store_problem"]
        assert (agent.status["recorded"], agent.status["outbox_pending"]) == (0, 40)
        disk.empty()
        wait_for(lambda: agent.status.get("recorded") == 30, 60.0, what="a record for each part")
        assert (agent.status["lost"], agent.status["store_problem"]) == (0, None)
    finally:
        agent.child.terminate()
        agent.child.wait(60.0)
    assert recorded(disk) == [f"{n:04d}.png" for n in range(40)]
