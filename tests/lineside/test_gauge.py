"""``lineside gauge``: from a picture of a chequerboard to a study of repeatability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside_agent.config import load_rules
from lineside_models.metrology.studies import repeatability_by_anova
from tests.models.metrology.aiag import VALUES, as_csv
from tests.worlds.drawn_parts import Board, DrawnCamera, Plate

CAMERA = DrawnCamera(width=320, height=240, px_per_mm=6.0, tilt=0.06)

RULES = """
[[inspect.measure]]
type = "diameter"
name = "bore"
centre = [100, 119]
radius = 30
search = 12
inside = "bright"
min = 9.8
max = 10.2

[[inspect.measure]]
type = "length"
name = "width"
line = [[10, 170], [309, 170]]
inside = "dark"
min = 39.8
max = 40.2
"""


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["gauge", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file of rules with the calibration that the command has written."""
    board = Board(columns=9, rows=7, square=4.5)
    cv2.imwrite(str(tmp_path / "board.png"), CAMERA.picture(board.brightness))
    out = tmp_path / "calibration.toml"
    command = ["gauge", "calibrate", str(tmp_path / "board.png"), "--board", "9x7", "--square-mm", "4.5"]
    assert main([*command, "--out", str(out)]) == 0
    path = tmp_path / "rules.toml"
    path.write_text(out.read_text() + RULES)
    assert load_rules(path).calibration is not None
    return path


def test_calibrate_then_measure(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, plate in (("fine", Plate()), ("wide", Plate(width=40.6)), ("none", Plate(width=0.0))):
        cv2.imwrite(str(photos / f"{name}.png"), CAMERA.picture(plate.brightness))
    drawn, table = tmp_path / "drawn", tmp_path / "values.csv"
    options = ("--rules", str(rules), "--draw", str(drawn), "--csv", str(table))
    found = answer(capsys, "measure", str(photos), *options, code=1)
    values = {Path(one["source"]).stem: {each["name"]: each for each in one["measurements"]} for one in found["photos"]}
    assert values["fine"]["bore"]["value"] == pytest.approx(10, abs=0.02)
    assert [values[name]["width"]["in_tolerance"] for name in ("fine", "wide", "none")] == [True, False, False]
    assert values["wide"]["width"]["value"] == pytest.approx(40.6, abs=0.03)
    assert "2012" in values["none"]["width"]["error"] and found["failed"] == 1
    assert len(list(drawn.glob("*.png"))) == 3 and len(table.read_text().splitlines()) == 7
    cv2.imwrite(str(photos / "small.png"), np.full((40, 40), 90, np.uint8))
    assert main(["gauge", "measure", str(photos), "--rules", str(rules)]) == 1
    printed = capsys.readouterr()
    assert f"not measured: {photos / 'small.png'}: [2012]" in printed.err and "wide.png" in printed.out
    assert main(["gauge", "measure", str(photos / "wide.png"), "--rules", str(rules)]) == 0
    assert "width 40.6" in (out := capsys.readouterr().out) and "OUT OF [39.8, 40.2]" in out


def test_a_known_part_gives_the_scale(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight = DrawnCamera(width=320, height=240, px_per_mm=6.0)
    files = []
    for seed in range(2):
        files.append(str(tmp_path / f"known-{seed}.png"))
        cv2.imwrite(files[-1], straight.picture(Plate().brightness, seed))
    found = answer(capsys, "calibrate", *files, "--known", "bore=10", "--rules", str(rules))
    assert 1 / found["mm_from_px"][0][0] == pytest.approx(6.0, rel=1e-3) and found["size"] == [320, 240]


def test_rules_follow_the_part(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = DrawnCamera(width=320, height=240, px_per_mm=5.0)
    for name, plate in (("first", Plate()), ("turned", Plate(angle=30))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), camera.picture(plate.brightness))
    capsys.readouterr()
    assert main(["gauge", "locate", str(tmp_path / "first.png"), "--inside", "dark", "--level", "125"]) == 0
    path = tmp_path / "follow.toml"
    rule = 'name = "width"\ntype = "length"\nline = [[40, 155], [279, 155]]\nunit = "px"\nmin = 199\nmax = 201\n'
    path.write_text(f"{capsys.readouterr().out}[[inspect.measure]]\n{rule}")
    found = answer(capsys, "measure", str(tmp_path / "turned.png"), "--rules", str(path))
    assert found["photos"][0]["measurements"][0]["value"] == pytest.approx(200, abs=0.3)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "values.csv").write_text(f"part,value\n{'x' * 200_000},1\n")
    assert main(["gauge", "study", str(tmp_path / "values.csv")]) == 1
    assert "expected a CSV file" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["nan", "inf", "1,5", ""])
def test_a_limit_that_is_no_number_is_wrong_usage(capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gauge", "study", "values.csv", "--lower", word, "--upper", "9"])
    assert ended.value.code == 2
    assert f"argument --lower: expected a number such as 0.5, not {word!r}" in capsys.readouterr().err


def test_study_of_the_published_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, page = tmp_path / "aiag.csv", tmp_path / "study.html"
    source.write_text(as_csv())
    found = answer(capsys, "study", str(source), "--html", str(page), "--lower", "-5", "--upper", "5")
    expected = repeatability_by_anova(VALUES, tolerance=10.0)
    assert {one["name"]: one["sd"] for one in found["result"]["components"]} == pytest.approx(
        {one.name: one.sd for one in expected.components}
    )
    assert found["verdict"] == "conditional" and expected.rr_percent == pytest.approx(18.14, abs=0.01)
    text = page.read_text()
    assert "18.1 %" in text and "Ranges by part" in text and text.count("<svg") == 3
    assert main(["gauge", "study", str(source), "--method", "range"]) == 0
    assert "R&R of the total variation: 26.7 %" in capsys.readouterr().out


def test_study_of_frames_that_a_rule_measures(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for part, bore in enumerate((9.9, 10.0, 10.1)):
        folder = tmp_path / "frames" / f"part-{part}"
        folder.mkdir(parents=True)
        for trial in range(3):
            plate = Plate(bore=bore, shift=tuple(rng.uniform(-0.3, 0.3, 2)), angle=rng.uniform(-1, 1))
            cv2.imwrite(str(folder / f"{trial}.png"), CAMERA.picture(plate.brightness, 10 * part + trial))
    words = ("study", str(tmp_path / "frames"), "--rules", str(rules), "--rule", "bore")
    found = answer(capsys, *words, "--csv", str(tmp_path / "values.csv"))["result"]
    sds = {one["name"]: one["sd"] for one in found["components"]}
    assert (found["operators"], found["parts"], found["trials"]) == (1, 3, 3)
    assert found["tolerance"] == pytest.approx(0.4)
    assert sds["part"] == pytest.approx(0.1, rel=0.1) and sds["R&R"] < 0.01
    again = answer(capsys, "study", str(tmp_path / "values.csv"), "--lower", "9.8", "--upper", "10.2")["result"]
    assert again["components"] == found["components"]


def test_frames_in_more_folders_than_operator_and_part_are_refused(
    rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames" / "monday" / "anna" / "part-1"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "1.png"), CAMERA.picture(Plate().brightness, 0))
    assert main(["gauge", "study", str(tmp_path / "frames"), "--rules", str(rules), "--rule", "bore"]) == 1
    assert "expected at most OPERATOR/PART/FRAME.png; got monday/anna/part-1/1.png" in capsys.readouterr().err


def test_one_part_and_single_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = 12 + 0.01 * np.random.default_rng(0).normal(size=50)
    master, process = tmp_path / "master.csv", tmp_path / "process.csv"
    master.write_text("Part;Value\n" + "".join(f"m;{value:.5f}\n".replace(".", ",") for value in values))
    process.write_text("part,value\n" + "".join(f"{number},{value:.5f}\n" for number, value in enumerate(values)))
    limits = ("--lower", "11.9", "--upper", "12.1")
    gauge = answer(capsys, "study", str(master), "--reference", "12", *limits)
    assert gauge["result"]["cg"] == pytest.approx(0.2 * 0.2 / (6 * values.std(ddof=1)), rel=1e-3)
    assert gauge["verdict"] == "rejected"
    found = answer(capsys, "study", str(process), *limits, "--html", str(tmp_path / "p.html"))["result"]
    assert found["study"] == "process" and found["cp"] == pytest.approx(0.2 / (6 * values.std(ddof=1)), rel=1e-3)
    assert answer(capsys, "study", str(master), *limits, code=1)["error"]["expected"].startswith("--reference")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("part,number\n1,2\n", "a header with the columns part, value"),
        ("part,value\n1,2\n1,x\n", "line 3: value"),
        ("operator,part,value\nA,1,2\nA,1,3\nB,1,2\n", "1 of part 1 by operator B"),
        ("", "nothing"),
        ("part,value,Value\n1,2,3\n", "line 1; expected one value column; got part,value,Value"),
        ("operator,appraiser,part,value\nA,B,1,2\n", "expected one operator column"),
        (
            "operator,part,value\nA,1,10,258\nA,1,10,3\n",
            "line 2 has more cells than the header; expected 3 cells; got A,1,10,258",
        ),
        ("part,trial,value\n1,1,2\n1,2,3\n1,2,4\n", "line 4; expected one value of each trial; got trial 2 of part 1"),
    ],
)
def test_files_that_are_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, why: str) -> None:
    (tmp_path / "values.csv").write_text(text)
    assert main(["gauge", "study", str(tmp_path / "values.csv")]) == 1
    assert why in capsys.readouterr().err
