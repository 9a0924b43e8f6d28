"""Who hears what an optimizer does: its caller, else the terminal, else the log."""

from __future__ import annotations

import io
import logging

import pytest

from lineside_converters.progress import reporter_for


class Terminal(io.StringIO):
    """A stderr before which somebody sits."""

    def isatty(self) -> bool:
        return True


def test_a_caller_that_listens_hears_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    lines: list[str] = []
    counts: list[tuple[str, int, int]] = []
    with reporter_for(lines.append, lambda *count: counts.append(count)) as progress:
        progress.report("calibrate")
        assert list(progress.through([7, 8], "frames")) == [7, 8]
    assert lines == ["calibrate"]
    assert counts == [("frames", 0, 2), ("frames", 1, 2), ("frames", 2, 2)]
    assert terminal.getvalue() == ""


def test_a_terminal_sees_lines_and_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with reporter_for(None, None) as progress:
        progress.report("calibrate")
        list(progress.through(range(3), "frames"))
    assert "calibrate" in terminal.getvalue()
    assert "frames" in terminal.getvalue()


def test_without_a_terminal_the_log_has_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("sys.stderr", quiet := io.StringIO())
    with caplog.at_level(logging.INFO, "lineside.convert"), reporter_for(None, None) as progress:
        progress.report("calibrate")
        list(progress.through(range(3), "frames"))
    assert caplog.messages == ["calibrate"]
    assert quiet.getvalue() == ""
