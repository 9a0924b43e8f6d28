"""Other users cannot read records, images or the status, also after an upgrade from an installation that allowed it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lineside_runtime.bundle import Bundle
from tests.worlds.agent import AgentProcess, write_agent, write_frames


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def run_agent(folder: Path, bundle: Bundle, frames: int) -> AgentProcess:
    write_frames(folder / "frames", frames)
    write_agent(folder, bundle=str(bundle.path), exit_when_done=True, tables='[store]\nkeep_images = "bad"\n')
    agent = AgentProcess(folder)
    agent.start()
    assert agent.wait() == 0, agent.log
    return agent


def open_to_others(state: Path, bits: int) -> list[str]:
    """Returns the paths of the state that another user could reach."""
    if not stat.S_IMODE(state.stat().st_mode) & bits:
        return []
    names = [state / "records.db", state / "status.json", *(state / "images").rglob("*.png")]
    return [str(path) for path in names if path.is_file() and stat.S_IMODE(path.stat().st_mode) & bits]


@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_the_state_is_the_agents_alone_also_where_everybody_could_read_before(
    umask: None, tmp_path: Path, bundle: Bundle
) -> None:
    agent = run_agent(tmp_path, bundle, 4)
    assert stat.S_IMODE(agent.state.stat().st_mode) == 0o700
    for path in (agent.state / "records.db", agent.state / "status.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((agent.state / "images").stat().st_mode) == 0o700

    agent.state.chmod(0o755)  # as an older installation has it
    for path in agent.state.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert open_to_others(agent.state, 0o077)
    run_agent(tmp_path, bundle, 6)
    assert open_to_others(agent.state, 0o077) == []


@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_a_group_that_the_service_lets_read_still_may(umask: None, tmp_path: Path, bundle: Bundle) -> None:
    agent = run_agent(tmp_path, bundle, 4)
    assert stat.S_IMODE(agent.state.stat().st_mode) == 0o750
    assert stat.S_IMODE((agent.state / "records.db").stat().st_mode) == 0o640
    assert open_to_others(agent.state, 0o007) == []
