"""``lineside relabel``, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from tests.hub.relabel.detector_results import PARTS, inspected, make_hub


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["relabel", *arguments, "--json"]) == 0
    said: dict[str, object] = json.loads(capsys.readouterr().out)
    return said


def test_frames_go_out_come_back_and_the_shipped_detector_is_judged_on_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, images = inspected()
    hub = str(Path(make_hub(tmp_path / "hub", rows, images).folder))
    out, dataset = str(tmp_path / "out"), str(tmp_path / "set")
    assert told(capsys, "mark", rows[1].part_id, "--hub", hub, "--wrong", "--note", "n", "--by", "a")["seq"] == 2
    few = ["export", "--hub", hub, "--verdict", "all", "--select", "informative"]
    assert told(capsys, *few, "--limit", "3", "--out", str(tmp_path / "few"))["images"] == 3
    assert main(["relabel", *few, "--out", str(tmp_path / "all")]) == 1
    assert "expected --limit N" in capsys.readouterr().err
    assert told(capsys, "export", "--hub", hub, "--out", out, "--verdict", "all")["images"] == PARTS - 1
    assert told(capsys, "import", out, "--hub", hub, "--into", dataset, "--by", "a")["new"] == PARTS - 1
    assert told(capsys, "import", out, "--hub", hub, "--into", dataset, "--by", "a")["unchanged"] == PARTS - 1
    assert main(["relabel", "import", out, "--into", dataset]) == 0
    again = capsys.readouterr()
    assert "kept" in again.out and "no box was changed" not in again.err
    assert main(["relabel", "import", out, "--into", str(tmp_path / "uncorrected")]) == 0
    assert "no box was changed: if the file was imported before it was corrected" in capsys.readouterr().err
    report = told(capsys, "report", dataset)
    assert (report["images"], report["agreed"], report["people"]) == (PARTS - 1, 1.0, {"a": PARTS - 1})
    assert main(["relabel", "report", dataset]) == 0
    assert "agree on 100%" in capsys.readouterr().out
    assert main(["evaluate", "surface-12", "--data", dataset, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["frames"], figures["f1_boxes"], figures["map50"]) == (PARTS - 1, 1.0, pytest.approx(1.0, abs=0.01))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["export", "--hub", "nowhere", "--out", "x"], 2002),
        (["import", "nowhere.json", "--into", "x"], 2002),
        (["import", "nowhere.json"], 2000),
        (["report", "nowhere"], 2002),
        (["mark", "p", "--hub", "nowhere", "--wrong"], 2002),
    ],
)
def test_what_is_not_there_is_an_error_with_a_code(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["relabel", *arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
