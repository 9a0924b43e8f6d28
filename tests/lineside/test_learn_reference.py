"""``lineside learn-reference``, and what its bundle does in the other commands."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from tests.models.reference.boards import board, motion, photo, with_defect
from tests.models.reference.test_learning import good_frames


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boards")
    for name in ("good", "bad", "other"):
        (root / name).mkdir()
    for frame in good_frames(3, 12):
        cv2.imwrite(str(root / "good" / f"{frame.part_id}.png"), frame.image)
    for number, corner in enumerate([(60, 70), (150, 140), (230, 250)]):
        bad = photo(with_defect(board(3), corner), motion((number - 1, 3), 1), seed=number)
        cv2.imwrite(str(root / "bad" / f"{number}.png"), bad)
    cv2.imwrite(str(root / "other" / "board.png"), photo(board(9)))
    return root


@pytest.fixture(scope="module")
def learned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A bundle that was checked on the bad parts, and what was said."""
    out, said = tmp_path_factory.mktemp("made") / "board-3", io.StringIO()
    given = ["learn-reference", "--source", str(data / "good"), "--check", str(data / "bad")]
    damaged = data / "bad" / "damaged.png"
    damaged.write_bytes(b"")
    with contextlib.redirect_stdout(said):
        assert main([*given, "--out", str(out), "--json"]) == 1
    damaged.unlink()
    return out, json.loads(said.getvalue())


def test_a_bundle_of_good_parts_finds_bad_ones_and_names_faults(
    data: Path, learned: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, said = learned
    assert (said["frames"], said["checked"]["frames"], said["checked"]["passed"]) == ([11], 3, [])
    assert [error["code"] for error in said["unreadable"]] == [2003]
    assert main(["bundle", "verify", str(out)]) == 0
    capfd.readouterr()
    places = [str(data / name) for name in ("bad", "other")]
    assert main(["inspect", *places, "--model", str(out), "--json", "--draw", str(tmp_path / "drawn")]) == 1
    said_of_frames = capfd.readouterr()
    told = json.loads(said_of_frames.out)
    assert f"FAULT   {data / 'other' / 'board.png'}: [2021]" in said_of_frames.err
    assert "3 inspected, 3 rejected, 1 fault" in said_of_frames.err
    assert [one["verdict"] for one in told["inspections"]] == ["bad"] * 3
    assert [one["error"]["code"] for one in told["unreadable"]] == [2021]
    drawn = cv2.imread(str(sorted((tmp_path / "drawn").iterdir())[0]))
    assert drawn is not None
    assert np.ptp(drawn.astype(int), axis=2).max() > 60, "boxes are coloured, the board is grey"


def test_another_reference_is_given_where_frames_are_inspected(
    data: Path, learned: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    golden = tmp_path / "golden.png"
    cv2.imwrite(str(golden), photo(board(9), seed=5))
    out, source = learned[0], ["--source", str(data / "good"), "--frames", "6"]
    assert main(["inspect", str(data / "other"), "--model", str(out), "--reference", str(golden)]) == 0
    assert "PASS" in capfd.readouterr().out
    for arguments, expected in [
        (["inspect", str(data / "other"), "--reference", str(golden)], "takes frames alone"),
        (["learn-reference", *source, "--network", "surface-12", "--out", str(tmp_path / "n")], "takes frames alone"),
        (["learn-reference", *source, "--reference", str(tmp_path / "no.png"), "--out", str(tmp_path / "n")], "no.png"),
        (["learn-reference", *source, "--out", str(out)], "overwrite"),
        (["learn-reference", *source, "--out", str(tmp_path / "n"), "--max-shift", "2"], "0 to 0.5"),
    ]:
        assert main(arguments) != 0
        assert expected in capfd.readouterr().err


def test_evaluate_counts_what_cannot_be_compared_as_rejected(
    data: Path, learned: tuple[Path, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(learned[0]), "--data", str(data), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["frames"], found["good"], found["faults"]) == (16, 12, 1)
    assert found["per_class"]["other"]["recall"] == found["per_class"]["bad"]["recall"] == 1
    assert found["auroc"] > 0.99
