"""Queries on a device's own records, without a hub: search, export, counts, images."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineside.cli import main
from lineside_agent.config import StoreConfig
from lineside_agent.storage.images import ImageArchive
from lineside_agent.storage.records import RecordStore
from lineside_link.messages import ResultRow, View
from lineside_link.result_table import COLUMNS
from lineside_models.frame import Frame
from lineside_runtime.bundle import Bundle
from tests.agent.line_io.conftest import StartLine
from tests.agent.line_io.conftest import start_line as start_line
from tests.peers.waiting import wait_for
from tests.worlds.agent import write_agent
from tests.worlds.bundles import shade

BOX = (1.0, 2.0, 3.0, 4.0)
HOUR_NS = 3600 * 10**9
START_NS = 500_000 * HOUR_NS
ROWS: tuple[dict[str, Any], ...] = (
    {"part_id": "A-1", "verdict": "pass", "bundle": "surface@1.0.0"},
    {"part_id": "A-2", "verdict": "reject", "detections": (("pits", 0.6, *BOX), ("scratches", 0.9, *BOX))},
    {"part_id": "A-3", "verdict": "reject", "unsure": True, "doubtful": (("pits", 0.3, *BOX),)},
    {"part_id": "trigger-3", "verdict": "fault", "error": "LATE: no verdict within 200 ms of the trigger", "width": 0},
    {"part_id": "A-2", "verdict": "pass", "bundle": "surface@2.0.0"},
    {"part_id": "challenge:C-1", "verdict": "reject", "detections": (("pits", 0.8, *BOX),)},
    {"part_id": "unrecorded-6", "verdict": "fault", "error": "unrecorded: the agent was killed", "width": 0},
    {"part_id": "=1+1", "verdict": "fault", "error": "engine failed"},
    {"part_id": "unrecorded-8", "verdict": "fault", "error": "unrecorded: x", "width": 0, "unknown": True},
)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Path]:
    """``agent.toml`` of a device with one record an hour, and images of the parts that did not pass."""
    path = write_agent(tmp_path, bundle="surface-12", store={"keep_images": "bad"})
    archive = ImageArchive(tmp_path / "state", StoreConfig(keep_images="bad"))
    (tmp_path / "state").mkdir()
    store = RecordStore(tmp_path / "state", archive=archive)
    for number, fields in enumerate(ROWS):
        row = ResultRow(
            **{
                "seq": 0,
                "source": "top",
                "sequence": number,
                "captured_at_ns": START_NS + number * HOUR_NS,
                "latency_ms": float(number),
                "width": 64,
                "height": 64,
                **fields,
            }
        )
        frame = Frame(image=shade(number + 1, 64, 64), source="top", sequence=number)
        store.record(row, frame if row.width else None)
    store.close()
    yield path


def told(capsys: pytest.CaptureFixture[str], station: Path, *words: str) -> str:
    capsys.readouterr()
    assert main(["agent", "results", "--config", str(station), *words]) == 0
    return capsys.readouterr().out


def numbers(capsys: pytest.CaptureFixture[str], station: Path, *words: str) -> list[int]:
    return [row["sequence"] for row in json.loads(told(capsys, station, *words, "--json"))["results"]]


def test_records_are_found_by_part_verdict_defect_bundle_and_time(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert numbers(capsys, station) == list(range(8))
    assert numbers(capsys, station, "--unknown") == list(range(9))
    assert numbers(capsys, station, "--part", "A-2") == [1, 4]
    assert numbers(capsys, station, "--verdict", "reject") == [1, 5]
    assert numbers(capsys, station, "--verdict", "unsure") == [2]
    assert numbers(capsys, station, "--verdict", "fault") == [3, 6, 7]
    assert numbers(capsys, station, "--defect", "pits") == [1, 2, 5]
    assert numbers(capsys, station, "--defect", "pits", "--limit", "2") == [2, 5]
    assert numbers(capsys, station, "--bundle", "surface") == [0, 4]
    with pytest.raises(SystemExit):
        numbers(capsys, station, "--limit", "-1")
    assert "expected a number from 1, not '-1'" in capsys.readouterr().err
    assert numbers(capsys, station, "--bundle", "surface@2.0.0") == [4]
    assert numbers(capsys, station, "--with-frame") == [1, 2, 5, 7]
    since = "2027-01-15T10:00"  # two hours after the first one
    assert numbers(capsys, station, "--since", since) == list(range(2, 8))
    assert numbers(capsys, station, "--until", since) == [0, 1]


def test_a_line_for_people_names_defects_and_reasons(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, station).splitlines()
    assert lines[0].split() == ["captured", "(UTC)", "part", "verdict", "bundle", "frame", "found"]
    assert lines[2].endswith("scratches 0.90, pits 0.60")
    assert lines[4].endswith("LATE: no verdict within 200 ms of the trigger")
    assert not any("[" in line for line in lines)


def test_file_has_the_columns_of_the_hub_and_names_images(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "shift.csv"
    out.parent.mkdir()
    told(capsys, station, "--out", str(out), "--frames")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["part_id"] for row in rows][-1] == "'=1+1"
    assert rows[1]["frame"] == "images/top/00000001.png"
    kept = tmp_path / "state" / rows[1]["frame"]
    copied = out.with_name("shift-frames") / rows[1]["frame"]
    assert hashlib.sha256(copied.read_bytes()).digest() == hashlib.sha256(kept.read_bytes()).digest()
    assert len(list(out.with_name("shift-frames").rglob("*.png"))) == 4
    made = json.loads(told(capsys, station, "--frames", str(tmp_path / "alone"), "--verdict", "unsure", "--json"))
    assert made["frames"]["frames"] == 1
    assert [path.name for path in (tmp_path / "alone").rglob("*.png")] == ["00000002.png"]


def test_image_of_a_part_is_written_or_its_absence_explained(
    station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a3.png"
    told(capsys, station, "--part", "A-3", "--image", str(out))
    assert out.read_bytes() == (tmp_path / "state" / "images" / "top" / "00000002.png").read_bytes()
    words = ["agent", "results", "--config", str(station), "--image", str(out)]
    assert main([*words, "--part", "A-2"]) == 1
    assert "keep_images" in capsys.readouterr().err
    assert main([*words, "--part", "none"]) == 1
    assert "no such record" in capsys.readouterr().err


def test_report_of_a_shift_counts_parts_and_nothing_that_is_none(
    station: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(told(capsys, station, "--report", "--json"))["report"]
    assert report["parts"] == 7
    assert report["verdicts"] == {"pass": 2, "reject": 1, "unsure": 1, "fault": 3}
    assert report["codes"] == {"PASS": 2, "REJECT": 1, "UNSURE": 1, "LATE": 1, "NOT_JUDGED": 1, "UNRECORDED": 1}
    assert report["defects"] == {"pits": 2, "scratches": 1}
    assert report["challenge"] == 1
    assert len(report["hours"]) == 7
    assert report["latency_ms"]["max"] == 7.0
    text = told(capsys, station, "--report", "--verdict", "reject")
    assert "scratches" in text
    assert "LATE" not in text


def test_image_of_a_part_of_several_cameras_is_that_of_the_one_that_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_agent(tmp_path, bundle="surface-12")
    (tmp_path / "state").mkdir()
    store = RecordStore(tmp_path / "state", archive=ImageArchive(tmp_path / "state", StoreConfig(keep_images="all")))
    views = (View(source="top", verdict="pass"), View(source="left", verdict="reject"))
    frames = [Frame(image=np.full((8, 8, 3), n, np.uint8), source=view.source) for n, view in enumerate(views)]
    store.record(ResultRow(seq=0, part_id="A-1", source="top+left", verdict="reject", views=views), frames)
    store.close()
    (found,) = json.loads(told(capsys, path, "--json"))["results"]
    assert found["frame"] == "images/left/00000000.png"


def test_results_of_a_device_that_has_none_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_agent(tmp_path, bundle="surface-12")
    assert main(["agent", "results", "--config", str(path)]) == 1
    assert "lineside agent run" in capsys.readouterr().err


def test_results_are_read_while_the_agent_runs(
    start_line: StartLine, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = start_line("", store={"keep_images": "bad", "commit_every_s": 0})
    agent.wait_ready()
    config = str(agent.config_path)
    assert main(["agent", "trigger", "--config", config, "--part", "A-1"]) == 0
    assert main(["agent", "trigger", "--config", config, "--part", "A-2"]) == 1
    wait_for(lambda: agent.status.get("recorded") == 2)
    (found,) = json.loads(told(capsys, agent.config_path, "--verdict", "reject", "--json"))["results"]
    assert (found["part_id"], found["device"]) == ("A-2", "cam-1")
    assert (agent.state / found["frame"]).is_file()
    assert json.loads(told(capsys, agent.config_path, "--report", "--json"))["report"]["defects"] == {"bright": 1}
