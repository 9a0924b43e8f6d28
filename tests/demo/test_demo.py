"""The main job, as a stranger runs it: real processes, a real broker, and a count from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.peers.browser import load_once

pytestmark = pytest.mark.slow

RECOUNT = Path(__file__).with_name("recount.py")


def demo(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "lineside", "demo", "--out", str(out), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted((out / "logs").glob("*.log")))
    assert done.returncode == 0, f"{done.stderr[-4000:]}\n{logs}"
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, "more than one object on stdout"
    said: dict[str, Any] = json.loads(lines[0])
    assert said == json.loads((out / "result.json").read_text())
    return said


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and result of a demo: of the one that `.ci/run` has just made, or of one of 48 frames."""
    if made := os.environ.get("LINESIDE_DEMO"):
        return Path(made), json.loads((Path(made) / "result.json").read_text())
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo(out, "--frames", "48")


def test_every_frame_is_inspected_once_and_comes_home(simulated: tuple[Path, dict[str, Any]]) -> None:
    out, said = simulated
    listed = json.loads((out / "frames.json").read_text())
    assert said["frames"] == said["inspected"] == said["synced"] == listed["frames"] >= 48
    assert said["lost"] == 0
    assert said["duplicates"] == 0
    assert said["faults"] == 0


def test_an_outside_count_agrees(simulated: tuple[Path, dict[str, Any]]) -> None:
    out, said = simulated
    # -I: no site-packages path of ours, no environment: the script can't import lineside even by accident.
    done = subprocess.run([sys.executable, "-I", "-S", str(RECOUNT), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout)["counted"]
    assert counted == {key: said[key] for key in counted}


def test_the_outside_count_notices_a_lost_and_a_repeated_frame(
    simulated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = simulated
    for name in ("frames.json", "result.json", "hub.db"):
        shutil.copy(out / name, tmp_path / name)
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("UPDATE results SET part_id = (SELECT part_id FROM results WHERE seq = 1) WHERE seq = 2")
    database.commit()
    database.close()
    done = subprocess.run([sys.executable, str(RECOUNT), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    counted = json.loads(done.stdout)["counted"]
    assert (counted["lost"], counted["duplicates"]) == (1, 1)


def test_two_bundles_go_live_while_frames_run_and_the_broken_one_is_refused(
    simulated: tuple[Path, dict[str, Any]],
) -> None:
    _, said = simulated
    assert said["activated"] == ["surface-12-demo@1.0.0", "surface-12-demo@1.1.0"]
    assert [refused["bundle"] for refused in said["rolled_back"]] == ["surface-12-demo@1.2.0"]
    assert said["rolled_back"][0]["code"] == 5001
    assert set(said["frames_by_bundle"]) == {"surface-12-demo@1.0.0", "surface-12-demo@1.1.0"}
    assert all(amount > 0 for amount in said["frames_by_bundle"].values())
    assert said["broker_restarted"] is True


def test_int8_is_smaller_and_about_as_accurate_as_float(simulated: tuple[Path, dict[str, Any]]) -> None:
    _, said = simulated
    assert said["int8"]["size_bytes"] < 0.4 * said["float"]["size_bytes"]
    assert said["int8"]["latency_ms"] > 0
    assert said["float"]["map50"] > 0.5
    assert said["int8"]["map50"] >= said["float"]["map50"] - 0.05
    assert said["used_device"] == "ort/cpu:0"


def test_report_is_one_file_that_fetches_nothing(simulated: tuple[Path, dict[str, Any]]) -> None:
    out, said = simulated
    page = (out / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<figure>") >= 12
    assert "rolled back" in page
    assert len(list((out / "annotated").glob("*.png"))) == said["frames"]


@pytest.mark.peer
def test_report_shows_in_a_browser(simulated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = simulated
    picture = tmp_path / "report.png"
    flags = (f"--screenshot={picture}", "--window-size=1200,2400")
    load_once(out / "report.html", *flags, profile=tmp_path / "profile")
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] == 1200
    assert image.std() > 20, "the page is blank"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    command = [sys.executable, "-m", "lineside", "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"
