from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside.commands.inspect import _findings
from lineside.inspection.drawing import Drawer
from lineside.inspection.run import inspect_source
from lineside.inspection.sources import open_source
from lineside.vision import QualityInspector
from lineside_models.identification.mark_reading import MarkReading
from lineside_models.inspection import Detection, Inspection
from lineside_models.simulator import render
from lineside_runtime.errors import BadInputFormatError, ConfigError, InputNotFoundError
from tests.models.small_detector import detector_bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return detector_bundle(tmp_path / "bundle").path


def part(bright: bool) -> np.ndarray:
    image = np.full((64, 64, 3), 120, np.uint8)
    image[:32] = 116  # an even frame is a fault
    if bright:
        image[16:32, 16:32] = 250
    return image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos, three of them in a folder below, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number in range(6):
        cv2.imwrite(str(folder / ("below" if number >= 3 else "") / f"{number}.png"), part(number % 2 == 0))
    (folder / "4b.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 64))
    for number in range(9):
        writer.write(part(number % 3 == 0))
    writer.release()
    return path


def test_a_folder_is_inspected_with_those_below_and_goes_on_behind_a_damaged_file(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(photos), "--model", str(model)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["REJECT", "PASS", "REJECT", "PASS", "REJECT", "PASS"]
    assert [Path(line.split()[1]).relative_to(photos).as_posix() for line in lines] == [
        "0.png",
        "1.png",
        "2.png",
        "below/3.png",
        "below/4.png",
        "below/5.png",
    ]
    assert "4b.jpg is not an image" in err
    assert err.strip().endswith("6 inspected, 3 rejected, 1 not read")


def test_of_many_findings_those_that_decide_are_printed_and_the_others_counted() -> None:
    scratches = [Detection(type="scratches", score=0.9 - number / 100, box=(0, 0, 1, 1)) for number in range(20)]
    patch = Detection(type="patches", score=0.6, box=(0, 0, 1, 1))
    few = Inspection(part_id="P", passed=False, verdict="bad", detections=tuple(scratches[:5]))
    many = msgspec.structs.replace(few, detections=(*scratches, patch))
    assert _findings(few) == "scratches 0.90, scratches 0.89, scratches 0.88, scratches 0.87, scratches 0.86"
    assert _findings(many) == "scratches 0.90, patches 0.60, and 19 more"


def test_json_has_the_verdicts_and_what_was_not_read(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(photos), "--model", str(model), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["passed"] for one in told["inspections"]] == [False, True, False, True, False, True]
    assert [(Path(one["source"]).name, one["error"]["code"]) for one in told["unreadable"]] == [("4b.jpg", 2003)]
    assert told["counts"] == {"inspected": 6, "rejected": 3, "unsure": 0, "unreadable": 1}
    assert told["interrupted"] is False


def test_rules_of_a_file_make_parts_unsure(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[inspect]\nthresholds = { "*" = 1.0 }\nunsure_from = { "*" = 0.5 }\n')
    main(["inspect", str(photos), "--model", str(model), "--rules", str(rules)])
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["UNSURE", "PASS", "UNSURE", "PASS", "UNSURE", "PASS"]
    assert "3 rejected (3 of them unsure)" in err


def test_parts_whose_code_is_not_read_are_counted_as_faults_as_their_lines_say(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[inspect.read]]\ntype = "code"\nname = "label"\n')
    main(["inspect", str(photos), "--model", str(model), "--rules", str(rules)])
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["REJECT", "FAULT", "REJECT", "FAULT", "REJECT", "FAULT"]
    assert "6 rejected (3 faults among them)" in err


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (
            '[[inspect.measure]]\nname = "w"\ntype = "length"\nunit = "px"\nline = [[9, 40], [50, 40]]\nmin = 1\n',
            "2012",
        ),
        ('[[inspect.read]]\ntype = "code"\nname = "label"\nregion = [30, 30, 60, 60]\n', "2013"),
        ('[[inspect.regions]]\nkind = "ignore"\nunits = "px"\npolygon = [[40, 40], [60, 40], [60, 60]]\n', "2001"),
    ],
)
def test_a_photo_whose_size_the_rules_do_not_fit_is_named_and_the_others_are_judged(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str, why: str
) -> None:
    cv2.imwrite(str(photos / "0b.png"), part(bright=False)[:20, :20])
    (tmp_path / "rules.toml").write_text(rules)
    assert main(["inspect", str(photos), "--model", str(model), "--rules", str(tmp_path / "rules.toml")]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert f"FAULT   {photos / '0b.png'}: [{why}]" in err and "1 fault, 1 not read" in err


def test_the_threshold_of_the_command_line_comes_before_that_of_the_file(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[inspect]\nconfidence_threshold = 1.0\n")
    given = ["inspect", str(photos / "0.png"), "--model", str(model), "--rules", str(rules)]
    main(given)
    main([*given, "--threshold", "0.5"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["PASS", "REJECT"]


def test_a_fault_of_a_part_whose_class_is_sure_says_nothing_of_classes() -> None:
    unread = MarkReading(name="label", type="code", failure="fault", error="nothing was read")
    one = Inspection(part_id="P", passed=False, verdict="unsure", probabilities={"good": 1.0}, readings=(unread,))
    assert _findings(one) == "label not read: nothing was read"
    doubt = Detection(type="dent", score=0.4, box=(0, 0, 1, 1))
    unsure = msgspec.structs.replace(one, probabilities={"dent": 0.4, "good": 0.3}, doubtful=(doubt,))
    assert _findings(unsure) == "no class is sure: dent 0.40, good 0.30, label not read: nothing was read"


def test_json_lines_come_in_the_order_of_the_frames(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["inspect", str(photos), "--model", str(model), "--jsonl"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(one["source"]).name for one in told] == [
        "0.png",
        "1.png",
        "2.png",
        "4b.jpg",
        "3.png",
        "4.png",
        "5.png",
    ]
    assert [one.get("passed") for one in told] == [False, True, False, None, True, False, True]


def test_every_verdict_is_drawn(model: Path, photos: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn" / "here"
    main(["inspect", str(photos), "--model", str(model), "--draw", str(drawn)])
    assert [path.name for path in sorted(drawn.iterdir())] == [f"{number:05d}-{number}.png" for number in range(6)]
    reject, good = (cv2.imread(str(drawn / f"{number:05d}-{number}.png")) for number in (0, 1))
    assert reject is not None and good is not None
    assert reject[5, 300].tolist() == [40, 40, 190]  # the banner of a reject, BGR
    assert good[5, 300].tolist() == [84, 130, 0]


def test_a_name_neither_forges_a_line_nor_is_too_long_for_a_picture(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a\nPASS    b\x1b[2K", "☃" * 80, "\udcff"]
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / f"{name}.png").write_bytes(cv2.imencode(".png", part(True))[1].tobytes())
    drawn = tmp_path / "drawn"
    assert main(["inspect", str(tmp_path / "odd"), "--model", str(model), "--draw", str(drawn)]) == 0
    assert [line[:8] for line in capsys.readouterr().out.splitlines()] == ["REJECT  "] * 3
    assert sorted(path.name[:7] for path in drawn.iterdir()) == ["00000-a", "00001-☃", "00002-\udcff"]
    page = tmp_path / "page.html"
    assert main(["inspect", str(tmp_path / "odd"), "--model", str(model), "--jsonl", "--page", str(page)]) == 0
    assert [json.loads(line)["part_id"] for line in capsys.readouterr().out.splitlines()] == names
    assert page.is_file()


def test_a_video_becomes_a_video_with_the_verdicts(
    model: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "drawn.mp4"
    assert main(["inspect", str(video), "--model", str(model), "--video", str(out)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["REJECT", "PASS", "PASS"] * 3
    capture = cv2.VideoCapture(str(out))
    frames = []
    while (got := capture.read())[0]:
        frames.append(got[1])
    assert (len(frames), capture.get(cv2.CAP_PROP_FPS)) == (9, 12)
    red = [float(frame[5:10, 300:].mean(axis=(0, 1))[2]) for frame in frames]
    assert [value > 120 for value in red] == [True, False, False] * 3
    assert [path.name for path in out.parent.iterdir()] == ["drawn.mp4"]


def test_the_simulator_is_a_source_and_ends_at_the_wanted_frame(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "simulator:7", "--frames", "3", "--model", str(model), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["inspections"]
    assert [one["sequence"] for one in told] == [0, 1, 2]
    seed = int(told[0]["part_id"].split("-")[-1])
    assert (told[0]["height"], told[0]["width"]) == render("steel", seed).image.shape[:2]


def test_ctrl_c_ends_with_the_count_and_130(model: Path) -> None:
    command = [sys.executable, "-m", "lineside", "inspect", "simulator", "--jsonl", "--model", str(model)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # A shell starts what runs behind it with SIGINT ignored, and so the tests, and so the command.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        told = []
        for line in process.stdout:
            told.append(json.loads(line))
            if len(told) == 5:
                process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert [one["sequence"] for one in told] == list(range(len(told)))
    assert f"{len(told)} inspected" in err
    assert "interrupted" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("presses", "lines"), [(1, 1), (2, 0)])
def test_ctrl_c_waits_for_the_line_of_a_counted_frame_and_a_second_one_does_not(
    model: Path, presses: int, lines: int
) -> None:
    told: list[Inspection] = []

    def tell(one: Inspection) -> None:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        told.append(one)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Drawer(None, None, rate_hz=1.0, page=None) as drawer, QualityInspector(model) as inspector:
            source = open_source(["simulator"]).first(3)
            counts = inspect_source(inspector, source, drawer, on_verdict=tell, on_unreadable=print)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (counts.inspected, len(told), counts.interrupted) == (1, lines, True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["nothing.png"], InputNotFoundError, "not there"),
        (["nothing.mp4"], InputNotFoundError, "not there"),
        (["simulator:x"], ConfigError, "seed"),
        (["camera"], ConfigError, "camera"),
        (["camera", "v4l2", "colour=1"], ConfigError, "colour"),
        (["simulator", "photos"], ConfigError, "one video, camera or simulator"),
    ],
)
def test_sources_that_are_none_are_named(given: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(given)


def test_files_of_other_kinds_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputFormatError, match="neither a photo nor a video"):
        open_source([str(photos / "notes.txt")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputNotFoundError, match="no image"):
        open_source([str(tmp_path / "empty")])
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(BadInputFormatError, match="no video"):
        open_source([str(broken)])


@pytest.mark.parametrize(
    "more", [["--json"], ["--json", "--jsonl", "--frames", "2"], ["--video", "x.gif", "--frames", "2"]]
)
def test_options_that_contradict_each_other_are_refused(
    model: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "simulator", "--model", str(model), *more]) == 1
    assert "[2001]" in capsys.readouterr().err
