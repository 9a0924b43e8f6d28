"""State files between releases: an older agent reads what a newer one wrote."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest

from lineside_agent.deployment.self_update.environment import make_environment
from lineside_agent.storage.state_file import FORMAT, peek_state, read_state, write_state
from lineside_runtime.errors import StoreError
from tests.agent.deployment.self_update.wheels import BASE_PYTHON, make_payload, tree_files, tree_wheel
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


def newer_files() -> dict[str, bytes]:
    changed = {}
    for name, (after, more) in NEWER.items():
        text = tree_files()[name].decode()
        assert after in text
        changed[name] = text.replace(after, after + more, 1).encode()
    return changed


@pytest.mark.slow
def test_older_agent_goes_on_with_what_a_newer_one_wrote(tmp_path: Path) -> None:
    """Two releases in two environments, as after a rollback of the agent."""
    new = tree_wheel(tmp_path / "w", "2.0.0", newer_files())
    pythons = {}
    for version, wheel in (("1.0.0", tree_wheel(tmp_path / "w", "1.0.0")), ("2.0.0", new)):
        make_environment(make_payload(tmp_path / version, wheel), tmp_path / f"v{version}", python=BASE_PYTHON)
        pythons[version] = str(tmp_path / f"v{version}" / "bin/python")
    bundle = make_bundle(tmp_path / "bundle")
    config = write_agent(tmp_path, bundle=str(bundle.path), exit_when_done=True)
    for number, version in enumerate(("2.0.0", "1.0.0", "2.0.0")):
        write_frames(tmp_path / "frames", 2 * number + 2, first=2 * number)
        for what in ("check", "run"):
            command = [pythons[version], "-I", "-m", "lineside", "agent", what, "--config", str(config)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        status = json.loads((tmp_path / "state/status.json").read_bytes())
        assert (status["inspected"], status["faults"], status["agent_version"]) == (2, 0, version)
    assert not [path for path in (tmp_path / "state").iterdir() if "damaged" in path.name]
    connection = sqlite3.connect(tmp_path / "state/records.db")
    rows = connection.execute("SELECT verdict, shift FROM records ORDER BY seq").fetchall()
    connection.close()
    assert rows == [("pass", "early"), ("reject", "early")] * 3
