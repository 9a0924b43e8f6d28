"""Training runs beside each other, and the page of a run's curves."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside_converters.training.monitoring.comparison import compare_runs, write_comparison
from lineside_converters.training.monitoring.curves import CURVES, NUMBERS, CurveLine, page, picture, write_curves
from lineside_runtime.errors import InputNotFoundError, TrainingError


def write_run(folder: Path, figures: list[float], *, ended: bool = True, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    curve = [{"step": 10.0 * n, "elapsed_s": 30.0 * n, "top1": value} for n, value in enumerate(figures, 1)]
    losses = [{"step": 10.0 * n, "loss": 2.0 / n, "learning_rate": 1e-3} for n in range(1, len(figures) + 2)]
    write_curves(folder, curve, losses, figure="top-1", steps=60)
    lines = {"data": ["/home/me/parts"], "batch": 16} | settings
    (folder / "config.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    if ended:
        (folder / "training.json").write_text('{"architecture": "surface_classifier_lite0"}')
    return folder


def test_the_best_figures_and_the_settings_that_differ_are_told(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", [0.5, 0.8, 0.7], width=0.25)
    second = write_run(tmp_path / "second", [0.6, 0.9], ended=False, batch=32)
    found = compare_runs([first, second])
    one, two = found.runs
    assert (one.mean, one.best_step, one.loss, one.ended) == (0.8, 20, 0.5, True)
    assert (two.mean, two.step, two.steps, two.ended, two.architecture) == (0.9, 30, 60, False, "")
    assert found.differing == {"batch": (16, 32), "width": (0.25, None)}
    assert found.best == "second"


def test_runs_of_one_name_are_told_apart_and_none_is_best_without_figures(tmp_path: Path) -> None:
    found = compare_runs([write_run(tmp_path / "a" / "run", [0.5]), write_run(tmp_path / "b" / "run", [])])
    assert [each.name for each in found.runs] == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]
    assert found.best == "" and found.runs[1].mean is None


def test_the_page_lays_the_curves_over_one_another_and_loads_nothing(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "<first>", [0.5, 0.8]), write_run(tmp_path / "second", [0.6])]
    write_comparison(tmp_path / "page.html", compare_runs(runs))
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 2 and text.count("<polyline") == 4
    assert "<first>" not in text and not re.search(r"<script|https?://(?!www\.w3\.org)|src=", text)


def test_the_command_prints_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name, [value])) for name, value in (("first", 0.5), ("second", 0.75))]
    assert main(["train", "compare", *runs, "--html", str(tmp_path / "page.html")]) == 0
    assert "the highest figure: second" in capsys.readouterr().out and (tmp_path / "page.html").exists()
    assert main(["train", "compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["mean"] for each in found["runs"]] == [0.5, 0.75] and "curves" not in found["runs"][0]
    assert main(["train", "compare", runs[0]]) == 1
    with pytest.raises(InputNotFoundError, match="no training run"):
        compare_runs([tmp_path, Path(runs[0])])
    (Path(runs[0]) / "curves.json").write_text("{")
    with pytest.raises(TrainingError, match="damaged"):
        compare_runs([Path(each) for each in runs])


CURVE = [
    {"step": 10, "elapsed_s": 3.0, "steel": 0.2, "<pcb>": 0.1},
    {"step": 20, "elapsed_s": 6.0, "steel": 0.5, "<pcb>": 0.4},
    {"step": 30, "elapsed_s": 9.0, "steel": 0.4, "<pcb>": 0.3},
]
LOSSES = [{"step": 10 * n, "loss": 4.0 / n, "learning_rate": 0.001 / n} for n in (1, 2, 3)]


def points(svg: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(svg)
    lines = [each.attrib["points"] for each in root.iter() if each.tag.endswith("polyline")]
    pairs = [[pair.split(",") for pair in line.split()] for line in lines]
    return [[(float(x), float(y)) for x, y in each] for each in pairs]


def test_a_curve_goes_as_its_values_go_and_one_of_one_value_and_one_point_can_be_drawn() -> None:
    (line,) = points(picture([CurveLine("loss", ((0, 1.0), (50, 3.0), (100, 2.0)))], 100))
    xs, ys = zip(*line, strict=True)
    assert xs[1] - xs[0] == xs[2] - xs[1] > 0
    assert ys[1] < ys[2] < ys[0]
    assert abs((ys[0] - ys[2]) * 2 - (ys[0] - ys[1])) < 0.3
    assert len(points(picture([CurveLine("flat", ((5, 0.0),)), CurveLine("also", ((5, 0.0),))], 10))) == 2


def test_the_page_shows_the_best_evaluation_escapes_names_loads_nothing_and_has_its_numbers_beside(
    tmp_path: Path,
) -> None:
    write_curves(tmp_path, CURVE, LOSSES, figure="mAP@0.5", steps=60)
    text = (tmp_path / CURVES).read_text()
    tiles = re.findall(r'class="tile"><b>([\d.]+)</b><span>([^<]+), at the best step 20', text)
    assert tiles == [("0.500", "mAP@0.5 steel"), ("0.400", "mAP@0.5 &lt;pcb&gt;")]
    assert text.count("<svg") == 3 and "<pcb>" not in text
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=", text)
    found = json.loads((tmp_path / NUMBERS).read_text())
    assert found == {"figure": "mAP@0.5", "steps": 60, "curve": CURVE, "losses": LOSSES}
    text = page("r", [{"step": 20, "elapsed_s": 1.0, "top1": 0.5}], [], figure="top-1", steps=20)
    assert "<span>top-1, at the best step 20" in text  # a classifier's figure is named once


def test_the_page_asks_to_be_read_again_until_the_run_has_ended() -> None:
    assert 'http-equiv="refresh"' in page("r", CURVE, LOSSES, figure="mAP@0.5", steps=60)
    ended = page("r", CURVE, LOSSES, figure="mAP@0.5", steps=30)
    assert 'http-equiv="refresh"' not in ended and "has ended" in ended
