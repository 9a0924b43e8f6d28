from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineside.cli import main
from lineside_runtime import registry
from tests.boards import machines


def test_detect_prints_one_object_with_the_promised_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "names", lambda: ("hailo", "ort"))  # `lineside devices` is tested with all
    assert main(["board", "detect", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    wanted = {"board", "model", "memory_bytes", "accelerators", "engines", "cameras", "temperature_c"}
    assert wanted <= told.keys()
    assert told["memory_bytes"] > 0
    assert [(engine["name"], engine["available"]) for engine in told["engines"]] == [("hailo", False), ("ort", True)]


def test_another_machines_files_are_read_without_asking_this_ones_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = machines.raspberry_pi_5(tmp_path, throttled="0x50005")
    where = ["--root", str(root), "--machine", "aarch64"]
    assert main(["board", "detect", *where]) == 0
    page = capsys.readouterr().out
    assert page.startswith("Raspberry Pi 5 Model B Rev 1.0: profile rpi5\n")
    assert "under-voltage now" in page
    assert "/dev/video0  UVC Camera" in page
    assert main(["board", "doctor", *where]) == 1
    page = capsys.readouterr().out
    assert "  error  under-voltage now\n         -> Use the maker's power supply" in page


def test_profiles_are_listed_and_shown_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "profiles"]) == 0
    assert "rpi5-hailo" in capsys.readouterr().out
    assert main(["board", "profiles", "jetson-orin-nano"]) == 0
    assert "pins: onnxruntime==1.23.2, numpy==2.2.6" in capsys.readouterr().out
    assert main(["board", "profiles", "rpi5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["optimize"]["activation"] == "s8s8"


def test_unknown_board_is_an_error_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "profiles", "rpi6"]) == 1
    assert "[7001] no profile 'rpi6'" in capsys.readouterr().err
