"""``lineside agent person``, as a person types it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from lineside.cli import main
from tests.worlds.agent import write_agent


def test_people_are_added_listed_and_removed_and_no_pin_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ["--config", str(write_agent(tmp_path, bundle="surface-12"))]
    monkeypatch.setattr(sys, "stdin", io.StringIO("3691\n"))
    assert main(["agent", "person", "add", "Otto", "--role", "operate", *config]) == 0
    assert main(["agent", "person", "ls", "--json", *config]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["people"] == [{"name": "Otto", "role": "operate"}]
    assert "3691" not in printed
    assert main(["agent", "person", "remove", "Otto", *config]) == 0
    assert main(["agent", "person", "remove", "Otto", *config]) == 1
    assert "nobody is called 'Otto'" in capsys.readouterr().err
