"""Measuring rules in an agent: from the frame to the line, the record and the hub's table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside_agent.config import parse_config, with_settings
from lineside_agent.line_io.codes import defect_types, summarize_defects
from lineside_agent.storage.record_queries import RecordQuery, report
from lineside_link.messages import MeasuredValue, ResultRow, View
from lineside_link.result_table import RESULT_COLUMNS, values_of
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.worlds.agent import AgentProcess, write_agent
from tests.worlds.bundles import bright

SIZE = (144, 192)
CALIBRATION = {"size": [192, 144], "mm_from_px": [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 1]]}
WIDTH = {
    "type": "length",
    "name": "width",
    "line": [[10, 72], [180, 72]],
    "inside": "bright",
    "min": 9.9,
    "max": 10.1,
}


def part(width: int) -> np.ndarray:
    """A grey block of so many pixels on a dark ground, in which the bundle finds no defect."""
    image = np.full((*SIZE, 3), 10, np.uint8)
    image[40:104, 40 : 40 + width] = 90
    return image


@pytest.fixture
def agent(tmp_path: Path, bundle: Bundle) -> Iterator[AgentProcess]:
    """An agent with a recipe that measures, on a good part, a wide one, none, and one with a defect."""
    frames = tmp_path / "frames"
    frames.mkdir()
    spotted = part(100)
    spotted[60:92, 70:102] = 255
    for number, picture in enumerate((part(100), part(102), part(0), spotted, bright(*SIZE))):
        cv2.imwrite(str(frames / f"{number}.png"), picture)
    write_agent(
        tmp_path,
        bundle=str(bundle.path),
        exit_when_done=True,
        inspect={"calibration": CALIBRATION},
        recipe=[{"name": "block-10", "inspect": {"measure": [WIDTH]}}],
    )
    agent = AgentProcess(tmp_path)
    yield agent
    agent.stop()


def test_tolerances_of_a_recipe_decide_with_the_defects(agent: AgentProcess) -> None:
    agent.start()
    assert agent.wait() == 0, agent.log
    good, wide, none, spotted, dark = agent.rows()
    assert [row.recipe for row in (good, dark)] == ["block-10"] * 2
    (value,) = good.measurements
    assert good.verdict == "pass" and value.in_tolerance and value.value == pytest.approx(10.0, abs=0.01)
    assert (value.unit, value.min, value.max, value.type) == ("mm", 9.9, 10.1, "length")
    assert value.line[2] - value.line[0] == pytest.approx(100, abs=0.1)
    (value,) = wide.measurements
    assert wide.verdict == "reject" and not wide.unsure and not wide.detections and not value.in_tolerance
    assert value.value == pytest.approx(10.2, abs=0.01)
    assert none.verdict == "fault" and "width: [2012]" in none.error and none.measurements[0].value is None
    assert spotted.verdict == "reject" and spotted.detections
    assert dark.verdict == "reject" and "[2012]" in dark.error, "a defect rejects, measured or not"
    assert (agent.status["passed"], agent.status["rejected"], agent.status["faults"]) == (1, 3, 1)
    shift = report(parse_config(agent.config_path.read_bytes(), agent.folder), RecordQuery())
    assert shift.defects == {"bright": 2, "width": 1}


def test_the_line_is_told_the_rule_as_a_defect_type() -> None:
    out = MeasuredValue(name="bore", value=9.0, unit="mm", max=8.0)
    fine = MeasuredValue(name="width", value=9.0, unit="mm", max=10.0, in_tolerance=True)
    row = ResultRow(seq=1, part_id="p", verdict="reject", measurements=(fine, out))
    assert summarize_defects(row, ("scratch",), {}).type == "bore"
    told = summarize_defects(row, (), {"bore": 7})
    assert (told.type, told.number, told.count, told.score) == ("bore", 7, 1, 1.0)
    views = (
        View(source="a", verdict="pass", measurements=(fine,)),
        View(source="b", verdict="reject", measurements=(out,)),
    )
    both = ResultRow(seq=1, part_id="p", verdict="reject", views=views)
    assert summarize_defects(both, (), {}).camera == "b" and defect_types(both) == {"bore"}


def test_measured_values_reach_the_table_of_results() -> None:
    out = MeasuredValue(name="bore", type="diameter", value=9.0, unit="mm", max=8.0, line=(1, 2, 3, 4))
    row = ResultRow(seq=1, part_id="p", verdict="reject", measurements=(out,))
    assert msgspec.json.decode(msgspec.json.encode(row), type=ResultRow) == row
    cells = dict(zip(RESULT_COLUMNS, values_of("d", "e", row, 0), strict=True))
    assert json.loads(cells["measurements"]) == [
        {"name": "bore", "type": "diameter", "value": 9.0, "unit": "mm", "max": 8.0, "line": [1, 2, 3, 4]}
    ]


def config_of(**inspect: Any) -> bytes:
    return msgspec.toml.encode(
        {"device": "a", "folder": "s", "bundle": "b", "camera": {"type": "folder", "path": "f"}, "inspect": inspect}
    )


def test_a_hub_sets_rules_and_the_device_has_the_calibration(tmp_path: Path) -> None:
    calibrated = parse_config(config_of(calibration=CALIBRATION), tmp_path)
    pushed = msgspec.toml.encode({"inspect": {"measure": [WIDTH]}})
    assert [rule.name for rule in with_settings(calibrated, pushed).inspect.measure] == ["width"]
    with pytest.raises(ConfigError, match="width is in mm, and the camera folder is not calibrated"):
        with_settings(parse_config(config_of(), tmp_path), pushed)
    with pytest.raises(ConfigError, match="not calibrated"):
        parse_config(config_of(measure=[WIDTH]), tmp_path)
