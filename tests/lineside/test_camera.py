"""``lineside camera``: on the simulator, on a real GigE camera, and on one that breaks every rule."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside_agent.cameras import Camera, LostFrame, Shot
from lineside_agent.cameras.registry import KINDS
from lineside_models.frame import Frame
from tests.peers import CameraProcess


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["camera", *arguments, "--json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def results(answer: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["result"] for check in answer["checks"]}


def test_frames_of_a_camera_are_counted_and_the_last_is_kept_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seen.jpg"
    answer = ask(capsys, "test", "simulator", 'kinds=["steel"]', "seed=3", "--frames", "5", "--out", str(out))
    tried = answer["tried"]
    assert (tried["source"], tried["frames"], tried["lost"]) == ("simulator:3", 5, 0)
    assert (tried["height"], tried["width"], tried["colour"]) == (200, 200, True)
    assert tried["rate_hz"] > 0
    seen = cv2.imread(str(out))
    assert seen is not None and seen.shape == (200, 200, 3)


def test_camera_of_a_configuration_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml").write_text('device = "a"\nfolder = "s"\nbundle = "b"\n[camera]\ntype = "simulator"\n')
    out = str(tmp_path / "x.jpg")
    answer = ask(capsys, "test", "--config", str(tmp_path / "agent.toml"), "--frames", "1", "--out", out)
    assert answer["tried"]["source"] == "simulator:0"


def test_one_of_several_cameras_of_a_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = "".join(f'[[camera]]\ntype = "simulator"\nname = "{name}"\n' for name in ("top", "side"))
    config = tmp_path / "agent.toml"
    config.write_text(f'device = "a"\nfolder = "s"\nbundle = "b"\n{cameras}[trigger]\n')
    out = str(tmp_path / "x.jpg")
    answer = ask(capsys, "test", "--config", str(config), "--name", "side", "--frames", "1", "--out", out)
    assert answer["tried"]["source"] == "side"
    assert main(["camera", "test", "--config", str(config), "--frames", "1", "--out", out]) != 0
    assert "--name with one of top, side" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("test",), "either a type with its settings, or --config"),
        (("test", "rtsp"), "url"),
        (("test", "rtsp", "url"), "key=value"),
        (("test", "simulator", "speed=3"), "$.camera.speed is not a known key"),
        (("test", "nonsense"), "nonsense"),
    ],
)
def test_wrong_words_are_said(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = ask(capsys, *arguments, code=1)["error"]
    assert words in f"{error['message']} {error['expected']} {error['actual']}"


def test_simulator_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "conformance", "simulator", 'kinds=["steel"]')
    assert answer["passed"]
    assert set(results(answer).values()) == {"pass", "skip"}
    assert answer["type"] == "simulator"


def test_real_gige_camera_is_listed_and_conforms(
    gige_camera: CameraProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = ask(capsys, "ls")
    assert any(one["settings"] == 'address = "127.0.0.1"' and "LINE1" in one["name"] for one in listed["cameras"])
    settings = ("address=127.0.0.1", "pixel_format=Mono8", "width=320", "height=240", "gain_db=0", "timeout_s=5")
    answer = ask(capsys, "conformance", "aravis", *settings)
    found = results(answer)
    assert answer["passed"], answer["checks"]
    assert found["A longer exposure gives a brighter picture"] == "pass"
    assert list(found.values()).count("skip") == 1  # nobody is there to pull the cable


class Bad(Camera):
    """Uses its memory again, counts as it likes, runs its clock backwards and loses a frame."""

    def __init__(self) -> None:
        super().__init__("bad", finite=False)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        image = np.zeros((8, 8), np.uint8)
        for number in itertools.count():
            image[:] = number % 250
            taken_ns = time.time_ns() - number * 1_000_000_000
            yield Frame(image, self.source, number, str(number), taken_ns)
            if number == 3:
                yield LostFrame(self.source, number, "", taken_ns, "it fell off")


class HeardFromTheMiddle(Camera):
    """Loses its first two frames."""

    def __init__(self) -> None:
        super().__init__("middle", finite=False)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        for number in itertools.count(start_at):
            if number < start_at + 2:
                yield LostFrame(self.source, number, "", time.time_ns(), "damaged on its way")
            else:
                yield Frame(np.zeros((8, 8), np.uint8), self.source, number, str(number), time.time_ns())


def make(name: str, options: dict[str, Any]) -> Camera:
    return Bad() if options["bad"] else HeardFromTheMiddle()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("own", f"{__name__}:make", "lineside.cameras")
    monkeypatch.setattr("lineside_agent.cameras.registry.plugins", lambda: {"own": point})


@pytest.mark.usefixtures("plugin")
def test_frames_that_are_lost_as_a_camera_is_opened_are_told_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "conformance", "plugin", "kind=own", "options={bad=false}")
    assert answer["passed"]
    assert "as it was opened, 2 of 20 frames were lost: damaged on its way" in answer["checks"][0]["note"]


@pytest.mark.usefixtures("plugin")
def test_camera_that_breaks_the_rules_fails_each_check_that_it_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "conformance", "plugin", "kind=own", "options={bad=true}", code=1)
    assert not answer["passed"]
    assert list(results(answer).values()) == ["fail", "fail", "fail", "fail", "pass", "skip", "skip"]


def test_help_names_every_kind_of_camera(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["camera", "test", "--help"])
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {kind.config.type_name() for kind in KINDS} <= words
