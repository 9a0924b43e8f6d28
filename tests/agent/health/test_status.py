"""The path of the status."""

from __future__ import annotations

from pathlib import Path

from lineside_agent.health.status import status_place


def test_status_lies_in_memory_where_there_is_such_a_folder_and_a_link_leads_there(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    run.mkdir()
    (state / "status.json").write_text("of an older agent")
    place = status_place(state, f"{run}:/run/other")
    assert place == run / "status.json"
    place.write_text("{}")
    assert (state / "status.json").read_text() == "{}"
    assert status_place(state, str(run)) == place


def test_status_lies_in_the_state_folder_elsewhere(tmp_path: Path) -> None:
    assert status_place(tmp_path, "") == tmp_path / "status.json"
    (tmp_path / "status.json").symlink_to(tmp_path / "gone" / "status.json")
    assert status_place(tmp_path, str(tmp_path / "gone")) == tmp_path / "status.json"
    assert not (tmp_path / "status.json").is_symlink()
