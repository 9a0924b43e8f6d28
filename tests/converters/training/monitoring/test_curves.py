"""The page of a run's curves."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from lineside_converters.training.monitoring.curves import CURVES, NUMBERS, CurveLine, page, picture, write_curves

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
