"""At least 400 parts while the camera, the engine, the broker, the disk and the clock fail: one verdict each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.line import Line, check, run
from tests.peers.programs import find_program
from tests.worlds.bundles import bright, dark, make_bundle

pytestmark = pytest.mark.peer

PARTS = 400
DEADLINE_MS = 300.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path | None]:
    """A small disk for the state; ``None`` where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.timeout(900)
def test_each_trigger_ends_in_exactly_one_verdict_whatever_fails(tmp_path: Path, state: Path | None) -> None:
    find_program("mbpoll", "mbpoll")  # with libmodbus, by which the PLC speaks
    bundle = make_bundle(tmp_path / "bundle")
    line = Line(tmp_path, bundle.path, [dark(), bright(), dark()], deadline_ms=DEADLINE_MS, state=state)
    try:
        counted = run(line, PARTS, every=60, with_disk=state is not None)
        line.agent.stop()
        check(line, counted)
        assert set(counted["faults"]) >= {"camera frozen", "engine killed", "broker gone", "clock forth", "clock back"}
        assert counted["codes"].get("1", 0) + counted["codes"].get("2", 0) > 0  # the line went on between them
    finally:
        line.end()
