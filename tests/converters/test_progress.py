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


def test_a_terminal_sees_lines_and_bars_and_without_one_the_log_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def report(stream: io.StringIO) -> str:
        monkeypatch.setattr("sys.stderr", stream)
        with caplog.at_level(logging.INFO, "lineside.convert"), reporter_for(None, None) as progress:
            progress.report("calibrate")
            list(progress.through(range(3), "frames"))
        return stream.getvalue()

    seen = report(Terminal())
    assert "calibrate" in seen and "frames" in seen
    caplog.clear()
    assert report(io.StringIO()) == ""
    assert caplog.messages == ["calibrate"]
