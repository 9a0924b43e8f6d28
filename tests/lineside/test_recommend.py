"""``lineside recommend`` at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from tests.worlds.recommenders import make_recommender


def test_attributes_are_used_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(make_recommender(tmp_path / "parts").path)
    given = ("--history", "seal-1", "old", "--candidates", "new", "seal-2", "typo")
    described = ("--attributes", "new=spare", "--attributes", "new=viton", "--attributes", "old=spare")
    assert main(["recommend", bundle, *given, *described, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unknown"], found["unknown_attributes"]) == (["typo"], ["viton"])
    assert main(["recommend", bundle, *given, *described]) == 0
    assert "attributes not known to this bundle: viton" in capsys.readouterr().out
    for item, said in (("elsewhere", "in neither"), ("seal-2", "the bundle knows"), ("seal-1", "the bundle knows")):
        assert main(["recommend", bundle, *given, "--attributes", f"{item}=spare"]) == 1
        error = capsys.readouterr().err
        assert f"--attributes {item}" in error
        assert said in error
