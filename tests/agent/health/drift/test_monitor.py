"""The monitor: references are kept, alarms are reported once, and people clear them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from lineside_agent.config import DriftConfig, parse_config
from lineside_agent.health.drift.monitor import DriftMonitor, request
from lineside_link.messages import DriftReport, ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import ConfigError, InputNotFoundError
from tests.agent.health.drift.frames import blurred, images

CONFIG = DriftConfig(reference_frames=100)
LABELS = ("crazing", "scratches")


class MonitoredCamera:
    """A camera and a model with a monitor."""

    def __init__(self, folder: Path, config: DriftConfig = CONFIG) -> None:
        self.reports: list[DriftReport] = []
        self.monitor = DriftMonitor(folder, config, types=lambda: LABELS, report=self.reports.append)
        self._rng = np.random.default_rng(3)

    def run(self, frames: int, *, sigma: float = 0.0, bad: float = 0.05, recipe: str = "") -> None:
        for _ in range(frames):
            image = blurred(images()[int(self._rng.integers(len(images())))], sigma)
            is_bad = bool(self._rng.random() < bad)
            row = ResultRow(
                seq=0,
                part_id="p",
                verdict="reject" if is_bad else "pass",
                detections=(("scratches", 0.9, 1, 2, 3, 4),) if is_bad else (),
                bundle_sha256="b" * 64,
                recipe=recipe,
            )
            self.monitor.observe(row, Frame(image=image))
            self.monitor.check()


@pytest.fixture
def camera(tmp_path: Path) -> MonitoredCamera:
    return MonitoredCamera(tmp_path)


def test_it_learns_then_says_an_alarm_once_and_that_it_is_over(
    camera: MonitoredCamera, caplog: pytest.LogCaptureFixture
) -> None:
    camera.run(60)
    assert (camera.monitor.status()["state"], camera.monitor.status()["frames_learned"]) == ("learning", 60)
    camera.run(60)
    assert (camera.monitor.status()["state"], camera.monitor.status()["alarm"]) == ("watching", False)
    with caplog.at_level(logging.WARNING, "lineside.drift"):
        camera.run(40, sigma=1.5)
    status = camera.monitor.status()
    assert status["alarm"]
    assert status["nearest_share"] == 1.0
    (said,) = [text for text in status["alarms"] if text.startswith("sharpness-low")]
    assert "learned was" in said
    assert sum("sharpness-low" in record.message for record in caplog.records) == 1
    with caplog.at_level(logging.WARNING, "lineside.drift"):
        camera.run(400)
    assert not camera.monitor.status()["alarm"]
    assert sum("drift is over: sharpness-low" in record.message for record in caplog.records) == 1
    assert camera.monitor.status()["alarms_ever"] >= 1


def test_the_hub_is_told_of_each_change_once(camera: MonitoredCamera) -> None:
    camera.run(160)
    camera.run(60, sigma=1.5)
    states = [(report.learning, bool(report.alarms)) for report in camera.reports]
    assert states[:2] == [(True, False), (False, False)]
    assert all(alarms for _, alarms in states[2:])
    names = [tuple(alarm.name for alarm in report.alarms) for report in camera.reports[1:]]
    assert len(set(names)) == len(names), "no report twice"


def test_what_was_learned_outlives_a_restart_also_in_the_middle_of_it(camera: MonitoredCamera, tmp_path: Path) -> None:
    camera.run(70)
    camera.monitor.save(now=True)
    second = MonitoredCamera(tmp_path)
    assert second.monitor.status()["frames_learned"] == 70
    second.run(30)
    assert second.monitor.status()["state"] == "watching"
    third = MonitoredCamera(tmp_path)
    assert third.monitor.status()["state"] == "watching"
    third.run(40, sigma=1.5)
    assert third.monitor.status()["alarm"]


def test_an_alarm_outlives_a_restart_and_stops_the_line_until_its_cause_is_gone(tmp_path: Path) -> None:
    config = DriftConfig(reference_frames=100, stops_line=True)
    before = MonitoredCamera(tmp_path, config)
    before.run(160)
    before.run(40, sigma=1.5, bad=0.9)
    (told, *_) = (alarm for alarm in before.monitor.report().alarms if alarm.name == "sharpness-low")
    names = {alarm.name for alarm in before.monitor.report().alarms}
    assert {"sharpness-low", "bad-high"} <= names
    after = MonitoredCamera(tmp_path, config)
    assert "sharpness-low" in after.monitor.problem() and "bad-high" in after.monitor.problem()
    assert {alarm.name for alarm in after.monitor.report().alarms} == names
    assert all("since before the agent was started" in text for text in after.monitor.status()["alarms"][:1])
    assert told.since_ns in {alarm.since_ns for alarm in after.monitor.report().alarms}
    after.run(1, sigma=1.5, bad=1.0)
    assert {alarm.name for alarm in after.monitor.report().alarms} == names
    after.run(400)
    assert not after.monitor.status()["alarm"] and not after.monitor.problem()
    assert not MonitoredCamera(tmp_path, config).monitor.status()["alarm"]


def test_an_alarm_from_before_a_restart_can_be_cleared(camera: MonitoredCamera, tmp_path: Path) -> None:
    camera.run(160)
    camera.run(40, sigma=1.5, bad=0.9)
    after = MonitoredCamera(tmp_path)
    request_thread = threading.Thread(target=request, args=(tmp_path, "clear"))
    request_thread.start()
    while request_thread.is_alive():
        after.monitor.check()
        request_thread.join(0.01)
    assert not after.monitor.status()["alarm"]
    assert not MonitoredCamera(tmp_path).monitor.status()["alarm"]


def test_a_damaged_file_is_set_aside_and_learned_anew(camera: MonitoredCamera, tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_text("{")
    again = MonitoredCamera(tmp_path)
    assert again.monitor.status()["frames_learned"] == 0
    assert list(tmp_path.glob("drift.json.damaged-*"))


def test_a_person_clears_alarms_or_has_all_learned_anew(camera: MonitoredCamera, tmp_path: Path) -> None:
    camera.run(120)
    camera.run(40, sigma=1.5)
    assert camera.monitor.status()["alarm"]
    for what, learned in (("clear", 100), ("relearn", 0)):
        asking = threading.Thread(target=request, args=(tmp_path, what))
        asking.start()
        while asking.is_alive():
            camera.monitor.check()
        status = camera.monitor.status()
        assert (status["alarm"], status["frames_learned"]) == (False, learned)
    with pytest.raises(InputNotFoundError, match="no agent"):
        request(tmp_path, "clear", timeout_s=0.1)
    assert not (tmp_path / "drift.request").exists()


def test_an_alarm_stops_the_line_only_where_that_is_wanted(tmp_path: Path) -> None:
    for stops in (False, True):
        (tmp_path / str(stops)).mkdir()
        camera = MonitoredCamera(tmp_path / str(stops), DriftConfig(reference_frames=100, stops_line=stops))
        camera.run(120)
        assert camera.monitor.problem() == ""
        camera.run(40, sigma=1.5)
        assert ("sharpness-low" in camera.monitor.problem()) is stops


def test_faults_say_nothing_of_the_parts_and_lost_frames_nothing_of_the_camera(camera: MonitoredCamera) -> None:
    camera.monitor.observe(ResultRow(seq=0, part_id="p", verdict="fault"), None)
    status = camera.monitor.status()
    assert (status["frames_learned"], status["verdicts_learned"]) == (0, 0)


def test_parts_that_the_model_is_unsure_of_are_counted_by_themselves(camera: MonitoredCamera) -> None:
    camera.run(120)
    for _ in range(60):
        row = ResultRow(seq=0, part_id="p", verdict="reject", unsure=True, bundle_sha256="b" * 64)
        camera.monitor.observe(row, None)
    camera.monitor.check()
    assert [alarm.name for alarm in camera.reports[-1].alarms] == ["unsure-high"]


def test_stopping_the_line_needs_a_line_that_triggers() -> None:
    text = b'device = "d"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "simulator"\n[drift]\nstops_line = true\n'
    with pytest.raises(ConfigError, match=r"stops_line"):
        parse_config(text, Path("/"))
    assert parse_config(text + b"[trigger]\n", Path("/")).drift == DriftConfig(stops_line=True)


def test_each_recipe_has_what_was_learned_of_its_product(tmp_path: Path) -> None:
    camera = MonitoredCamera(tmp_path)
    camera.run(120, recipe="sharp")
    camera.run(120, sigma=1.5, recipe="soft/matt")
    assert camera.monitor.status()["state"] == "watching"
    assert not camera.monitor.status()["alarm"]
    again = MonitoredCamera(tmp_path)  # the next start
    again.run(60, recipe="sharp")
    assert (again.monitor.status()["state"], again.monitor.status()["alarm"]) == ("watching", False)
    again.run(60, recipe="soft/matt", sigma=1.5)
    assert not again.monitor.status()["alarm"]
    again.run(60, recipe="sharp", sigma=1.5)
    assert any(text.startswith("sharpness-low") for text in again.monitor.status()["alarms"])
    again.run(1, recipe="soft/matt", sigma=1.5)
    assert not again.monitor.status()["alarm"]
