"""State files between releases: an older agent reads what a newer one wrote."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lineside_agent.storage.state_file import FORMAT, peek_state, read_state, write_state
from lineside_runtime.errors import StoreError
from tests.agent.deployment.self_update.wheels import tree_files
from tests.worlds.agent import write_agent, write_frames
from tests.worlds.bundles import make_bundle


class Old(msgspec.Struct):
    gen: int = 0


class New(msgspec.Struct):
    gen: int = 0
    mood: str = "hopeful"


def test_unknown_fields_are_ignored_and_missing_ones_have_their_default(tmp_path: Path) -> None:
    write_state(tmp_path / "s.json", New(gen=3))
    assert json.loads((tmp_path / "s.json").read_bytes())["format"] == FORMAT
    assert read_state(tmp_path / "s.json", Old) == Old(3)
    write_state(tmp_path / "s.json", Old(gen=4))
    assert read_state(tmp_path / "s.json", New) == New(4)
    (tmp_path / "s.json").write_text('{"gen": 5}')  # from before formats
    assert read_state(tmp_path / "s.json", Old) == Old(5)


@pytest.mark.parametrize("content", [b'{"format": 99, "gen": 1}', b"", b"[1]", b'{"gen": "x"}', b"\xff"])
def test_what_cannot_be_read_is_set_aside_and_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        peek_state(path, Old)
    assert path.read_bytes() == content
    assert read_state(path, Old) is None
    (aside,) = tmp_path.iterdir()
    assert aside.read_bytes() == content
    assert aside.name in caplog.text


NEWER = {
    "lineside_agent/deployment/machine.py": ("    error: Problem | None = None\n", '    mood: str = "hopeful"\n'),
    "lineside_link/messages/results.py": (
        "    latency_ms: float = 0.0\n",
        "    humidity: tuple[float, ...] = (0.5,)\n",
    ),
    "lineside_agent/storage/record_files/database.py": (
        '    database["meta"].create({"key": str, "value": str}, pk="key", if_not_exists=True)\n',
        '    if "shift" not in database["records"].columns_dict:\n'
        '        database["records"].add_column("shift", str, not_null_default="early")\n',
    ),
}
"""Fields that the newer agent adds: file, line before them, and the lines."""


def release(folder: Path, version: str, changes: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Writes the packages that change, and the version; returns the environment in which they come first."""
    packages = {name.partition("/")[0] for name in changes}
    for name, data in tree_files().items():
        if name.partition("/")[0] in packages:
            after, more = changes.get(name, ("", ""))
            text = data.decode()
            assert after in text
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace(after, after + more, 1) if more else text)
    about = folder / f"lineside-{version}.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text(f"Metadata-Version: 2.1\nName: lineside\nVersion: {version}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


def test_older_agent_goes_on_with_what_a_newer_one_wrote(tmp_path: Path) -> None:
    """Two releases, as after a rollback of the agent."""
    releases = {
        "1.0.0": release(tmp_path / "old", "1.0.0", {}),
        "2.0.0": release(tmp_path / "new", "2.0.0", NEWER),
    }
    bundle = make_bundle(tmp_path / "bundle")
    config = write_agent(tmp_path, bundle=str(bundle.path), exit_when_done=True)
    for number, version in enumerate(("2.0.0", "1.0.0", "2.0.0")):
        write_frames(tmp_path / "frames", 2 * number + 2, first=2 * number)
        for what in ("check", "run") if number == 1 else ("run",):
            command = [sys.executable, "-m", "lineside", "agent", what, "--config", str(config)]
            done = subprocess.run(command, capture_output=True, text=True, env=releases[version], cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        status = json.loads((tmp_path / "state/status.json").read_bytes())
        assert (status["inspected"], status["faults"], status["agent_version"]) == (2, 0, version)
    assert not [path for path in (tmp_path / "state").iterdir() if "damaged" in path.name]
    connection = sqlite3.connect(tmp_path / "state/records.db")
    rows = connection.execute("SELECT verdict, shift FROM records ORDER BY seq").fetchall()
    connection.close()
    assert rows == [("pass", "early"), ("reject", "early")] * 3
