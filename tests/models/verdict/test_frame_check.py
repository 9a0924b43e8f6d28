"""A frame that can't show a part never passes: no light, a covered lens, a saturated sensor, another brightness."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from lineside.cli import main
from lineside_models.frame import Frame, UInt8Array
from lineside_models.inspection import Inspection
from lineside_models.inspector import Inspector
from lineside_models.metrology.calibration import scale_calibration
from lineside_models.simulator import render
from lineside_models.verdict.rules import BUNDLES_OWN, Rules, read_rules
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError
from lineside_runtime.session import Session
from tests.models.small_detector import detector_bundle, part


def noise(mean: float, deviation: float, size: tuple[int, ...] = (480, 640, 3)) -> UInt8Array:
    return np.clip(np.random.default_rng(0).normal(mean, deviation, size), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((480, 640, 3), np.uint8),
        np.full((480, 640), 255, np.uint8),
        noise(0, 1),
        noise(2, 4),
        noise(8, 10),
        noise(8, 10, (2048, 2448)),
        noise(128, 3),
        np.zeros((1, 1), np.uint8),
        np.zeros((8, 5000), np.uint8),
    ],
    ids=["black", "white", "noise", "gain", "high gain", "5 megapixels", "covered", "one pixel", "eight rows"],
)
def test_an_even_frame_shows_nothing(image: UInt8Array) -> None:
    assert "the frame shows nothing" in BUNDLES_OWN.frame_problem(image)
    assert Rules(min_contrast=0).frame_problem(image) == ""


@pytest.mark.parametrize("kind", ["steel", "pcb"])
def test_frames_of_parts_show_something(kind: str) -> None:
    frames = [render(kind, seed, size=(200, 200), defects=0).image for seed in range(8)]  # type: ignore[arg-type]
    assert [BUNDLES_OWN.frame_problem(np.asarray(frame)) for frame in frames] == [""] * 8


def test_contrast_in_one_colour_is_enough() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    image[:, 150:, 2] = 94
    assert BUNDLES_OWN.frame_problem(image) == ""


@pytest.mark.parametrize(("mean", "word"), [(20, "dark"), (60, ""), (200, ""), (230, "bright")])
def test_brightness_has_limits(mean: int, word: str) -> None:
    image = np.full((96, 128), mean - 5, np.uint8)
    image[:, 64:] = mean + 5
    problem = read_rules({"brightness": [40, 220]}).frame_problem(image)
    assert (
        (f"too {word}: mean grey value {mean}, expected 40 to 220; look at light" in problem) if word else problem == ""
    )


def test_limits_of_brightness_are_checked() -> None:
    for wrong in ([220, 40], [40], [-1, 40], [40, 300]):
        with pytest.raises(ConfigError, match=r"\$\.?.*brightness|the first must be the smaller"):
            read_rules({"brightness": wrong})


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(detector_bundle(tmp_path_factory.mktemp("frames") / "b"), Config(threads=1))


def inspect(session: Session, image: UInt8Array, *, cut_out: bool = False, **rules: object) -> Inspection:
    (found,) = Inspector(session, rules=read_rules(rules)).inspect_batch([Frame(image=image)], cut_out=cut_out)
    return found


def test_a_good_part_that_the_frame_can_not_show_is_unsure_with_the_reason(session: Session) -> None:
    even = np.full((48, 64), 128, np.uint8)
    found = inspect(session, even)
    assert (found.verdict, found.passed, found.detections) == ("unsure", False, ())
    values = "contrast 0.00 grey levels, expected 0.5 or more"
    assert found.fault == found.frame_problem == f"the frame shows nothing: {values}; look at light and lens"
    assert inspect(session, even, min_contrast=0).verdict == "good"


def test_a_defect_stays_a_defect(session: Session) -> None:
    found = inspect(session, part((2, 5)), brightness=[200, 250])
    assert (found.verdict, len(found.detections)) == ("bad", 1)
    assert "too dark" in found.fault


def test_a_frame_of_another_size_than_the_rules_are_for_does_not_pass(session: Session) -> None:
    assert inspect(session, part(), frame_size=[64, 48]).verdict == "good"
    found = inspect(session, part(), frame_size=[128, 96])
    assert (found.verdict, found.passed) == ("unsure", False)
    assert found.fault == "the frame is 64 x 48 pixels, the rules are for 128 x 96; look at the camera's settings"
    assert inspect(session, part((2, 5)), frame_size=[128, 96]).verdict == "bad"
    assert inspect(session, part(), cut_out=True, frame_size=[128, 96]).verdict == "good"
    with pytest.raises(ConfigError, match="frame_size"):
        read_rules({"frame_size": [0, 96]})


def test_a_calibration_brings_the_size_of_its_frames(session: Session) -> None:
    calibration = msgspec.to_builtins(scale_calibration(10.0, (128, 96)))
    rules = {"calibration": calibration, "min_size_mm": {"*": 0.1}}
    found = inspect(session, part(), **rules)
    assert (found.verdict, found.fault.partition(";")[0]) == (
        "unsure",
        "the frame is 64 x 48 pixels, the rules are for 128 x 96",
    )
    assert read_rules(rules | {"frame_size": [128, 96]})
    with pytest.raises(ConfigError, match="frame_size differs from the size that calibration was made for"):
        read_rules(rules | {"frame_size": [64, 48]})


def test_what_is_cut_out_of_a_frame_may_be_even(session: Session) -> None:
    assert inspect(session, np.full((48, 64), 128, np.uint8), cut_out=True, brightness=[0, 10]).verdict == "good"


def test_the_reason_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "even.png"), np.full((48, 64), 128, np.uint8))
    assert main(["inspect", str(tmp_path / "even.png"), "--model", str(detector_bundle(tmp_path / "b").path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("FAULT ") and "the frame shows nothing" in out
    assert "1 inspected, 1 rejected (1 fault among them)" in err
