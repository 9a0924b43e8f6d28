"""Finished steps are kept whole, and nothing stale is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside_converters.work_folder import open_until_done, open_work_folder
from lineside_runtime.errors import ConfigError


def test_a_step_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    calls: list[str] = []
    said: list[str] = []

    def make(folder: Path) -> None:
        calls.append("made")
        (folder / "product").write_text("whole")

    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
        with open_work_folder(tmp_path / "work", said.append) as work:
            assert (work.step("clean", inputs, make) / "product").read_text() == "whole"
            work.step("clean", inputs, make)  # not by an earlier run
    assert calls == ["made", "made"]
    assert said == ["clean: done by an earlier run"]


def test_a_step_that_fails_leaves_nothing_and_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("killed")

    (tmp_path / ".half-clean-x").mkdir()
    with open_work_folder(tmp_path, lambda text: None) as work:
        assert not (tmp_path / ".half-clean-x").exists()
        with pytest.raises(RuntimeError):
            work.step("clean", {}, make)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    values = iter([(1.5, None)])
    for _ in range(2):  # values are kept too
        with open_work_folder(tmp_path, lambda text: None) as work:
            assert work.value("tuned", {"x": 1}, lambda: next(values), tuple[float, float | None]) == (1.5, None)


def test_two_processes_do_not_share_a_folder_and_without_one_everything_is_gone_at_the_end(tmp_path: Path) -> None:
    with (
        open_work_folder(tmp_path, lambda text: None),
        pytest.raises(ConfigError, match="work"),
        open_work_folder(tmp_path, lambda text: None),
    ):
        pass
    with open_work_folder(tmp_path, lambda text: None):
        pass  # free again
    with open_work_folder(None, lambda text: None) as work:
        place = work.step("clean", {}, lambda folder: None)
        assert place.is_dir()
    assert not place.exists()


def test_work_that_nobody_asked_to_keep_is_kept_until_it_is_done(tmp_path: Path) -> None:
    place = tmp_path / "out.work"
    calls: list[str] = []
    said: list[str] = []

    def make(folder: Path) -> None:
        calls.append(folder.name)

    with pytest.raises(KeyboardInterrupt), open_until_done(place, said.append) as work:
        work.step("clean", {}, make)
        raise KeyboardInterrupt
    assert place.is_dir()
    assert str(place) in said[0]
    with open_until_done(place, said.append) as work:
        work.step("clean", {}, make)
    assert len(calls) == 1
    assert said[-1] == "clean: done by an earlier run"
    assert not place.exists()
