"""Codes on parts in an agent: from the frame to the line, the record, the status and the hub's table."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lineside_agent.config import FolderCameraConfig, InspectConfig, parse_config, read_config, with_settings
from lineside_agent.health import metrics
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_agent.inspection.pipeline import InspectionPipeline
from lineside_agent.inspection.views import Views
from lineside_agent.line_io.codes import defect_types, summarize_defects
from lineside_agent.line_io.verdict_reporter import VerdictReporter
from lineside_agent.storage.record_queries import RecordQuery, find, report, table_row
from lineside_link.messages import ReadMark, ResultRow
from lineside_link.result_table import COLUMNS, export_rows
from lineside_models.frame import Frame
from lineside_models.identification.expected_values import ExpectedValues
from lineside_models.identification.mark_reader import MarkReader
from lineside_models.vision.images import read_image
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.worlds.agent import AgentProcess, write_agent
from tests.worlds.drawn_codes import HEAT, LABEL, coil


@pytest.fixture
def agent(tmp_path: Path, bundle: Bundle) -> Iterator[AgentProcess]:
    """An agent whose recipe reads label and heat number, with the certificates of two coils."""
    frames, certificates = tmp_path / "frames", tmp_path / "certificates"
    frames.mkdir()
    certificates.mkdir()
    seen = [
        coil("C100", "A2B347"),
        coil("C101", "AB2347"),
        coil("", "A2B347"),
        coil("C900", "A2B347"),
        coil("C100", "A2B347", defect=True),
    ]
    for number, picture in enumerate(seen):
        cv2.imwrite(str(frames / f"{number}.png"), picture)
    (certificates / "8841.json").write_text(json.dumps({"part_id": ["C100", "C101"], "heat_number": "A2B347"}))
    write_agent(
        tmp_path,
        bundle=str(bundle.path),
        exit_when_done=True,
        inspect={"expected_values": "certificates"},
        recipe=[{"name": "coil", "inspect": {"read": [LABEL, HEAT]}}],
    )
    agent = AgentProcess(tmp_path)
    yield agent
    agent.stop()


def test_label_certificate_and_inspection_meet_in_one_record(agent: AgentProcess, tmp_path: Path) -> None:
    agent.start()
    assert agent.wait() == 0, agent.log
    good, wrong, unread, unknown, spotted = agent.rows()
    assert [row.part_id for row in (good, wrong, unread, unknown, spotted)] == ["C100", "C101", "2.png", "C900", "C100"]
    label, heat = good.readings
    assert good.verdict == "pass" and label.accepted and (label.text, label.symbology) == ("C100", "data-matrix")
    assert (heat.text, heat.expected, heat.agrees_with, heat.symbology) == ("A2B347", "A2B347", "heat_number", "qr")
    assert 170 < heat.outline[0][0] < 190 and len(heat.outline) == 4
    assert wrong.verdict == "reject" and not wrong.unsure and wrong.readings[1].error == "heat_number is A2B347"
    assert unread.verdict == "fault" and "label not read: nothing was read" in unread.error
    assert unknown.verdict == "fault" and "part C900 has no heat_number" in unknown.error
    assert spotted.verdict == "reject" and spotted.detections and spotted.readings == good.readings
    _check_counts(agent)
    config = parse_config(agent.config_path.read_bytes(), agent.folder)
    assert report(config, RecordQuery()).defects == {"heat": 1, "bright": 1}
    assert [record.row.part_id for record in find(config, RecordQuery(defect="heat"))] == ["C101"]
    rows = [table_row(config, record) for record in find(config, RecordQuery(part_id="C101"))]
    assert export_rows(iter(rows), tmp_path / "x.csv") == 1
    (cells,) = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert set(cells) == set(COLUMNS) and json.loads(cells["readings"])[1]["text"] == "AB2347"


def _check_counts(agent: AgentProcess) -> None:
    assert agent.status["results"]["marks"] == {
        "label": {"accepted": 4, "refused": 0, "unread": 1},
        "heat": {"accepted": 2, "refused": 3, "unread": 0},
    }
    registry = CollectorRegistry()
    registry.register(metrics._Status(agent.state / "status.json"))
    told = generate_latest(registry).decode()
    assert 'lineside_marks_total{device="cam-1",result="unread",rule="label"} 1.0' in told


def test_the_example_reads_its_frames() -> None:
    folder = Path(__file__).parents[3] / "examples" / "coil-line"
    inspect = read_config(folder / "agent.toml").inspect
    reader = MarkReader(inspect.read, ExpectedValues(inspect.expected_values))
    frames = sorted((folder / "frames").iterdir())
    read = [[(one.text, one.failure) for one in reader.read(read_image(frame))] for frame in frames]
    assert read == [
        [("C700418", None), ("A2B347", None)],
        [("C700419", None), ("AB2347", "reject")],
        [("", "fault"), ("A2B347", "fault")],
        [("C700999", None), ("A2B347", "fault")],
        [("C700421", None), ("A2B351", None)],
    ]


def test_the_line_is_told_the_rule_as_a_defect_type() -> None:
    wrong = ReadMark(name="label", text="C2", failure="reject", error="label is C1")
    fault = ReadMark(name="heat", failure="fault", error="nothing was read")
    row = ResultRow(seq=1, part_id="p", verdict="reject", readings=(wrong, fault))
    assert defect_types(row) == {"label"} and summarize_defects(row, (), {"label": 9}).number == 9
    assert msgspec.json.encode(row.readings).startswith(b'[{"name":"label",')


def inspected(
    bundle: Bundle, folder: Path, line_id: str, **views: tuple[np.ndarray, list[dict[str, Any]]]
) -> ResultRow:
    """Returns the record of a part of which each camera has given an image that it reads by rules of its own."""
    (folder / "orders.csv").write_text("part_id,heat_number\nC1,H1\nC2,H2\n")
    cameras = [
        FolderCameraConfig(name=name, path=folder, inspect={"read": rules}) for name, (_, rules) in views.items()
    ]
    loaded = load("a", bundle, InspectConfig(expected_values=str(folder / "orders.csv")), cameras=cameras)
    active, found = ActiveBundle(), list[ResultRow]()
    active.swap(loaded)
    shots = tuple(Frame(image, name, 1, line_id) for name, (image, _) in views.items())
    left = [Views(shots, "+".join(views), 1, line_id)]
    reporter = VerdictReporter([], lambda row, _: found.append(row))
    pipeline = InspectionPipeline(
        lambda: left.pop() if left else None, active, reporter=reporter, stop=threading.Event()
    )
    pipeline.run()
    pipeline.close()
    loaded.close()
    return found[0]


@pytest.mark.parametrize(
    ("labels", "line_id", "part_id", "verdict"),
    [
        (("C1", ""), "trigger-1", "C1", "fault"),
        (("C1", "C1"), "trigger-1", "C1", "pass"),
        (("C1", "C2"), "trigger-1", "trigger-1", "fault"),
        (("C1", "C2"), "C1", "C1", "fault"),
        (("C2", "C1"), "C1", "C1", "fault"),
    ],
)
def test_a_part_whose_cameras_read_different_ids_never_passes_whatever_the_line_says(
    bundle: Bundle, tmp_path: Path, labels: tuple[str, str], line_id: str, part_id: str, verdict: str
) -> None:
    top, side = (coil(label, "H1") for label in labels)
    row = inspected(bundle, tmp_path, line_id, top=(top, [LABEL]), side=(side, [LABEL]))
    assert (row.part_id, row.verdict) == (part_id, verdict)
    assert ("different part ids were read: C1, C2" in row.error) == (set(labels) == {"C1", "C2"})


@pytest.mark.parametrize("line_id", ["C1", "C2", "trigger-1"])
@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize(("heat", "verdict"), [("H2", "pass"), ("H1", "reject")])
def test_a_camera_finds_expected_values_by_the_id_that_another_one_has_read(
    bundle: Bundle, tmp_path: Path, line_id: str, label_first: bool, heat: str, verdict: str
) -> None:
    label, other = (coil("C2", ""), [LABEL]), (coil("", heat), [HEAT])
    views = {"top": label, "side": other} if label_first else {"side": other, "top": label}
    row = inspected(bundle, tmp_path, line_id, **views)
    assert (row.part_id, row.verdict) == ("C2", verdict)


def test_a_hub_sets_rules_and_the_device_has_the_values(tmp_path: Path) -> None:
    def config(**inspect: object) -> bytes:
        camera = {"type": "folder", "path": "f"}
        return msgspec.toml.encode({"device": "a", "folder": "s", "bundle": "b", "camera": camera, "inspect": inspect})

    pushed = msgspec.toml.encode({"inspect": {"read": [LABEL, HEAT]}})
    known = parse_config(config(expected_values="orders.csv"), tmp_path)
    assert known.inspect.expected_values == str(tmp_path / "orders.csv")
    assert [rule.name for rule in with_settings(known, pushed).inspect.read] == ["label", "heat"]
    with pytest.raises(ConfigError, match="heat agrees with heat_number, and there are no expected values"):
        with_settings(parse_config(config(), tmp_path), pushed)
    with pytest.raises(ConfigError, match="expected_values can't be set by a hub"):
        with_settings(known, b'[inspect]\nexpected_values = "x.csv"')
