"""The whole agent as a process on a disk that is full, for real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineside_runtime.bundle import Bundle
from tests.peers.small_disk import SmallDisk, mounted
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, folder_camera, write_agent, write_frames


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size_bytes=16 << 20) as small:
        yield small


def start(folder: Path, disk: SmallDisk, bundle: Bundle, *, frames: int, **settings: Any) -> AgentProcess:
    """Starts an agent whose state is on the small disk, and whose status is in memory as under systemd."""
    write_frames(folder / "frames", frames)
    write_agent(
        folder,
        folder=f"{disk.path}/state",
        bundle=str(bundle.path),
        camera=folder_camera(rate_hz=20.0),
        store={"free_min_bytes": 0},
        **settings,
    )
    (folder / "run").mkdir(exist_ok=True)
    environment = os.environ | {"RUNTIME_DIRECTORY": str(folder / "run")}
    agent = AgentProcess(folder, state=disk.path / "state", environment=environment)
    agent.start()
    return agent


def test_agent_that_starts_on_a_full_disk_inspects_and_says_so(disk: SmallDisk, bundle: Bundle, tmp_path: Path) -> None:
    first = start(tmp_path, disk, bundle, frames=10, exit_when_done=True)
    assert first.wait() == 0, first.log
    (disk.path / "state" / "ballast").unlink(missing_ok=True)
    disk.fill()
    agent = start(tmp_path, disk, bundle, frames=40)
    try:
        wait_for(lambda: agent.status.get("inspected") == 30, 60.0, what="a verdict for each part")
        assert agent.alive, agent.log
        assert "[4002]" in agent.status["store_problem"]
        assert (agent.status["recorded"], agent.status["outbox_pending"]) == (0, 40)
        disk.empty()
        wait_for(lambda: agent.status.get("recorded") == 30, 60.0, what="a record for each part")
        assert (agent.status["lost"], agent.status["store_problem"]) == (0, None)
    finally:
        agent.stop()
    assert [row.part_id for row in agent.rows()] == [f"{n:04d}.png" for n in range(40)]
