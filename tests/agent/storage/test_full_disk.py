"""The whole agent as a process on a disk that is really full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import InputNotFoundError
from tests.peers.cameras import RtspServer
from tests.peers.small_disk import SmallDisk
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, folder_camera, write_agent, write_frames

PARTS = 60


def start(
    folder: Path, disk: SmallDisk, bundle: Bundle, *, frames: int, in_memory: bool = True, **settings: Any
) -> AgentProcess:
    """Starts an agent whose state is on the small disk, and whose status is in memory as under systemd."""
    write_frames(folder / "frames", frames)
    write_agent(
        folder,
        folder=f"{disk.path}/state",
        bundle=str(bundle.path),
        **{"camera": folder_camera(rate_hz=20.0), "store": {"free_min_bytes": 0}, **settings},
    )
    (folder / "run").mkdir(exist_ok=True)
    environment = os.environ | ({"RUNTIME_DIRECTORY": str(folder / "run")} if in_memory else {})
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


def start_line(
    folder: Path, disk: SmallDisk, bundle: Bundle, *, in_memory: bool = True, **trigger: Any
) -> AgentProcess:
    """Starts an agent whose parts are triggered by `judge`, with the default settings of the store."""
    trigger = {"deadline_ms": 5000, **trigger}
    camera = folder_camera(loop=True)
    agent = start(folder, disk, bundle, frames=2, in_memory=in_memory, camera=camera, trigger=trigger, store={})
    wait_for(lambda: agent.line.get("ready"), 60.0, what=lambda: f"ready: {agent.log[-2000:]}")
    return agent


def judge(agent: AgentProcess, parts: int) -> list[int]:
    """Triggers parts one after the other; returns their numbers."""
    return [ask(agent.state, TriggerRequest("trigger"))["number"] for _ in range(parts)]


def fill(agent: AgentProcess, disk: SmallDisk) -> None:
    """Fills the disk, and takes the room of the reserve as well."""
    wait_for((agent.state / "ballast").exists, 60.0, what="the ballast of a small disk")
    (agent.state / "ballast").unlink()
    disk.fill()


def top_up(disk: SmallDisk) -> None:
    """Takes the room that was freed since the disk was filled."""
    with (disk.path / "more.log").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_parts_of_a_full_disk_keep_their_numbers_and_have_their_rows_after_a_kill(
    disk: SmallDisk, bundle: Bundle, tmp_path: Path
) -> None:
    agent = start_line(tmp_path, disk, bundle)
    try:
        fill(agent, disk)
        told = judge(agent, PARTS)
        wait_for(lambda: "[4002]" in (agent.status["store_problem"] or ""), 60.0, what="the status says so")
        agent.kill()
        disk.empty()
        agent.start()
        wait_for(lambda: agent.line.get("ready"), 60.0, what="ready after the kill")
        told += judge(agent, 5)
    finally:
        agent.stop()
    assert told == list(range(PARTS + 5)), "no number twice, and none is skipped"
    rows = agent.rows()
    assert [row.sequence for row in rows] == told, "each part has its row, and nothing else has"
    assert not any(row.unknown for row in rows)
    assert not [row for row in rows if row.error.startswith("unrecorded")], "a kill takes no record that waits"


@pytest.mark.parametrize("kill", [True, False])
def test_disk_that_was_full_before_the_very_first_start_gives_no_number_twice(
    disk: SmallDisk, bundle: Bundle, tmp_path: Path, kill: bool
) -> None:
    disk.fill()
    agent = start(tmp_path, disk, bundle, frames=2, camera=folder_camera(loop=True), trigger={"deadline_ms": 5000})
    try:
        wait_for(
            lambda: "part numbers" in (agent.line.get("problem") or ""), 60.0, what=lambda: f"why: {agent.log[-2000:]}"
        )
        assert not agent.line["ready"]
        with pytest.raises(InputNotFoundError):  # an answer would have a number that is not on the disk
            judge(agent, 1)
        if kill:
            agent.kill()
        disk.empty()
        if kill:
            agent.start()
        wait_for(lambda: agent.line.get("ready"), 60.0, what="ready when there is room")
        assert judge(agent, 3) == [0, 1, 2]
    finally:
        agent.stop()
    assert [row.sequence for row in agent.rows()] == [0, 1, 2]


def test_live_camera_is_read_when_its_frames_can_be_numbered(
    disk: SmallDisk, bundle: Bundle, tmp_path: Path, rtsp_server: RtspServer
) -> None:
    disk.fill()
    camera = {"type": "rtsp", "url": rtsp_server.url, "rate_hz": 10.0}
    agent = start(tmp_path, disk, bundle, frames=2, camera=camera)
    try:
        wait_for(lambda: agent.status.get("numbers_problem"), 60.0, what="why it waits")
        assert agent.status["frames"] == 0
        agent.kill()
        disk.empty()
        agent.start()
        wait_for(lambda: agent.status.get("recorded", 0) > 3, 60.0, what="records when there is room")
    finally:
        agent.stop()
    found = [row.sequence for row in agent.rows()]
    assert found == list(range(len(found)))


def test_status_that_a_full_disk_keeps_old_says_so(
    disk: SmallDisk, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = start_line(tmp_path, disk, bundle, in_memory=False)
    try:
        fill(agent, disk)
        judge(agent, 3)

        def says(command: str, words: str) -> bool:
            top_up(disk)
            main(["agent", command, "--config", str(agent.config_path)])
            said = capsys.readouterr()
            return words in said.err + said.out

        wait_for(lambda: says("status", "(it runs, and 0.0 MiB are free)"))
        wait_for(lambda: says("doctor", "the agent runs, but its status is"))
    finally:
        agent.stop()


def test_results_that_cannot_be_recorded_take_ready_away_where_that_is_asked_for(
    disk: SmallDisk, bundle: Bundle, tmp_path: Path
) -> None:
    agent = start_line(tmp_path, disk, bundle, not_ready_when_unrecorded=True)
    try:
        fill(agent, disk)
        judge(agent, 3)
        wait_for(lambda: not agent.line.get("ready"), 60.0, what="Ready off")
        assert "results can't be recorded: [4002]" in agent.line["problem"]
        assert ask(agent.state, TriggerRequest("trigger"))["code"] == "NOT_READY"
        disk.empty()
        wait_for(lambda: agent.line.get("ready"), 60.0, what="Ready when there is room")
    finally:
        agent.stop()
    assert [row.sequence for row in agent.rows()] == list(range(4))
