"""Measurement of drawn parts of known size, under a camera of known geometry."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from lineside_models.metrology.calibration import Calibration, board_calibration, scale_calibration
from lineside_models.metrology.locator import Locator, find_part
from lineside_models.metrology.measurement import Measurement, measure
from lineside_models.metrology.rules import CountRule, DiameterRule, GapRule, LengthRule, PresenceRule
from lineside_models.verdict.rules import Rules, read_rules
from lineside_runtime.errors import ConfigError, MeasurementError
from tests.worlds.drawn_parts import Board, DrawnCamera, Plate

STRAIGHT = DrawnCamera()
TILTED = DrawnCamera(tilt=0.08, radial=0.03)

RULES = (
    LengthRule(name="width", line=((40, 360), (600, 360)), inside="dark", min=39.9, max=40.1),
    GapRule(name="slot", line=((300, 160), (570, 160)), inside="bright", min=3.9, max=4.1),
    DiameterRule(name="bore", centre=(200, 240), radius=60, search=25, inside="bright", min=9.9, max=10.1),
)
AREAS = (
    CountRule(
        name="studs", polygon=((350, 290), (530, 290), (530, 370), (350, 370)), inside="bright", level=125, min=2, max=2
    ),
    PresenceRule(
        name="slot open", polygon=((425, 120), (454, 120), (454, 200), (425, 200)), inside="bright", level=125, min=0.9
    ),
)


@pytest.fixture(scope="module")
def calibrations() -> dict[DrawnCamera, Calibration]:
    """By a picture of a chequerboard."""
    board = Board()
    return {
        camera: board_calibration(camera.picture(board.brightness), board.columns, board.rows, board.square)
        for camera in (STRAIGHT, TILTED)
    }


def by_name(found: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {one.name: one for one in found}


@pytest.mark.parametrize("camera", [STRAIGHT, TILTED], ids=["straight", "tilted, distorting"])
@pytest.mark.parametrize("seed", range(3))
def test_sizes_come_out_to_a_few_micrometres_whatever_the_perspective(
    camera: DrawnCamera, seed: int, calibrations: dict[DrawnCamera, Calibration]
) -> None:
    rng = np.random.default_rng(seed)
    plate = Plate(
        *(40 + rng.uniform(-0.05, 0.05), 24, 10 + rng.uniform(-0.05, 0.05), 4 + rng.uniform(-0.05, 0.05)),
        angle=rng.uniform(-1, 1),
        shift=tuple(rng.uniform(-0.3, 0.3, 2)),
    )
    found = by_name(measure(camera.picture(plate.brightness, seed), RULES, calibrations[camera]))
    assert found["width"].value == pytest.approx(plate.width, abs=0.012)
    assert found["slot"].value == pytest.approx(plate.slot, abs=0.008)
    assert found["bore"].value == pytest.approx(plate.bore, abs=0.008)
    assert all(one.in_tolerance and one.unit == "mm" for one in found.values())


def test_a_scale_alone_is_wrong_under_a_tilted_camera(calibrations: dict[DrawnCamera, Calibration]) -> None:
    """The perspective that the calibration takes out is really there."""
    frame = TILTED.picture(Plate().brightness)
    plain = by_name(measure(frame, RULES, scale_calibration(TILTED.px_per_mm, (TILTED.width, TILTED.height))))
    assert abs((plain["bore"].value or 0) - 10) > 0.1
    assert by_name(measure(frame, RULES, calibrations[TILTED]))["bore"].in_tolerance


def test_the_board_tells_the_lens_and_its_error(calibrations: dict[DrawnCamera, Calibration]) -> None:
    found = calibrations[TILTED]
    assert found.radial == pytest.approx(TILTED.radial, abs=0.003)
    assert found.error_mm < 0.01 and found.points == 48
    assert calibrations[STRAIGHT].px_per_mm == pytest.approx(STRAIGHT.px_per_mm, rel=2e-4)


def test_out_of_tolerance_is_told_with_the_value_also_of_presence_and_count() -> None:
    frame = STRAIGHT.picture(Plate(width=40.2, slot=3.8).brightness)
    found = by_name(measure(frame, RULES, scale_calibration(12.0, (640, 480))))
    assert [name for name, one in found.items() if not one.in_tolerance] == ["width", "slot"]
    assert "OUT OF [39.9, 40.1]" in found["width"].text and not found["width"].error
    x1, _, x2, _ = found["width"].line
    assert (x2 - x1) / 12 == pytest.approx(40.2, abs=0.02)
    there, gone = (
        [(one.value, one.unit, one.in_tolerance) for one in measure(STRAIGHT.picture(plate.brightness), AREAS)]
        for plate in (Plate(), Plate(stud=0.0, slot=0.0))
    )
    assert there == [(2.0, "", True), (1.0, "share", True)]
    assert gone == [(0.0, "", False), (0.0, "share", False)]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (np.full((480, 640), 190, np.uint8), "0 of 21 scans"),
        (STRAIGHT.picture(Plate(angle=35).brightness), "scans"),
    ],
    ids=["no part", "turned out of the rules"],
)
def test_an_edge_that_is_not_there_is_an_error_and_no_value(frame: np.ndarray, why: str) -> None:
    width, slot, bore = measure(frame, RULES, scale_calibration(12.0, (640, 480)))
    assert slot.value is None and not slot.in_tolerance and "[2012]" in slot.error and why in slot.error
    assert not any(one.in_tolerance for one in (width, bore) if one.error)


@pytest.mark.parametrize("inside", ["bright", "dark"])
def test_blur_does_not_make_a_circle_smaller(inside: Literal["bright", "dark"]) -> None:
    camera = DrawnCamera(width=200, height=200, px_per_mm=1.0, blur=2.5, noise=0.0)
    tones = (60.0, 190.0) if inside == "dark" else (190.0, 60.0)
    rule = DiameterRule(name="d", centre=(99.5, 99.5), radius=40, inside=inside, unit="px", min=1)
    (found,) = measure(camera.picture(lambda at: np.where(np.hypot(*at.T).T < 40, *tones)), (rule,))
    assert found.value == pytest.approx(80, abs=0.03)  # 79.84 without the correction


@pytest.mark.parametrize("slot", [0.5, 0.7, 1.0])
def test_narrow_gaps(slot: float) -> None:
    """From 6 pixels on; the two edges of a narrower gap blur into each other."""
    rule = GapRule(name="slot", line=((380, 160), (500, 160)), inside="bright", unit="px", min=1)
    (found,) = measure(STRAIGHT.picture(Plate(slot=slot).brightness), (rule,))
    assert found.value == pytest.approx(12 * slot, abs=0.25)


def test_dirt_on_a_part_of_the_edge_does_not_move_the_result() -> None:
    frame = STRAIGHT.picture(Plate().brightness)
    clean = measure(frame, RULES, scale_calibration(12.0, (640, 480)))
    dirty = frame.copy()
    dirty[355:360, 70:86] = 60  # beside the left edge, in a quarter of the band
    dirty[178:186, 195:215] = 60  # inside the bore's edge
    for before, after in zip(clean, measure(dirty, RULES, scale_calibration(12.0, (640, 480))), strict=True):
        assert before.value is not None and after.value == pytest.approx(before.value, abs=0.01)


@pytest.mark.parametrize(
    ("calibration", "rule", "why"),
    [
        (None, RULES[0], "not calibrated"),
        (scale_calibration(12.0, (1280, 960)), RULES[0], "another camera size"),
        (None, LengthRule(name="far", line=((10, 10), (700, 10)), unit="px", min=1), "outside"),
        (None, DiameterRule(name="far", centre=(20, 240), radius=20, unit="px", min=1), "outside"),
    ],
)
def test_rules_that_do_not_fit_the_camera_are_an_error(calibration: Calibration | None, rule: Any, why: str) -> None:
    with pytest.raises(MeasurementError, match=why):
        measure(np.zeros((480, 640), np.uint8), (rule,), calibration)


SMALL = DrawnCamera(px_per_mm=8.0)
SMALL_RULES = (
    LengthRule(name="width", line=((140, 300), (500, 300)), inside="dark", unit="px", min=0),
    DiameterRule(name="bore", centre=(239.5, 239.5), radius=40, inside="bright", unit="px", min=0),
    CountRule(
        name="studs", polygon=((350, 280), (450, 280), (450, 320), (350, 320)), inside="bright", level=125, min=2
    ),
)


def locator_of(frame: np.ndarray) -> Locator:
    found = find_part(frame, "dark", 125)
    return Locator(inside="dark", level=125, centre=found.centre, angle=found.angle, area=found.area)


@pytest.mark.parametrize(("angle", "shift"), [(0, (0, 0)), (25, (4, -3)), (-60, (-3, 5)), (85, (0, 2))])
def test_rules_follow_the_part(angle: float, shift: tuple[float, float]) -> None:
    locator = locator_of(SMALL.picture(Plate().brightness))
    frame = SMALL.picture(Plate(angle=angle, shift=shift).brightness, 1)
    width, bore, studs = measure(frame, SMALL_RULES, locator=locator)
    assert width.value == pytest.approx(320, abs=0.15) and bore.value == pytest.approx(80, abs=0.15)
    assert studs.value == 2
    if abs(angle) > 20:
        assert not all(one.in_tolerance for one in measure(frame, SMALL_RULES)), "without it they miss the part"


def test_a_part_that_is_not_found_and_a_rule_that_follows_it_out_of_the_frame_are_no_value() -> None:
    locator = locator_of(SMALL.picture(Plate().brightness))
    wide = (LengthRule(name="wide", line=((20, 300), (620, 300)), inside="dark", unit="px", min=0),)
    for plate, why, rules in (
        (Plate(width=0), "no part is in the frame", SMALL_RULES),
        (Plate(shift=(25, 0)), "cuts the part off", SMALL_RULES),
        (Plate(width=12, height=8, bore=0, slot=0), "not the part", SMALL_RULES),
        (Plate(shift=(15, 0)), "outside the frame", wide),
    ):
        found = measure(SMALL.picture(plate.brightness), rules, locator=locator)
        assert len(found) == len(rules) and all(one.value is None and why in one.error for one in found)


@pytest.mark.parametrize("begin", [10.0, 10.4, 10.6])
def test_the_pixels_of_an_area_are_the_same_number_wherever_it_lies(begin: float) -> None:
    frame = np.full((100, 100), 255, np.uint8)
    frame[round(begin) + 5 :] = 0
    end = begin + 10
    square = ((begin, begin), (end, begin), (end, end), (begin, end))
    rule = PresenceRule(name="lower half", polygon=square, inside="dark", level=128, min=0.5)
    assert measure(frame, [rule])[0].value == pytest.approx(6 / 11)


def test_an_area_narrower_than_a_pixel_has_one() -> None:
    rule = PresenceRule(name="sliver", polygon=((10.6, 10), (10.6, 20), (10.8, 30)), inside="dark", level=128, min=0.5)
    assert measure(np.zeros((100, 100), np.uint8), [rule])[0].value == 1


def test_a_part_is_found_in_a_strip_that_is_shrunk_to_a_line() -> None:
    strip = np.zeros((5, 20000), np.uint8)
    strip[1:3, 5000:9000] = 255
    with pytest.raises(MeasurementError):  # one row of pixels has no ground around the part
        find_part(strip, "bright", 100)


def test_a_place_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        read_rules({"locate": {"inside": "dark", "level": 5, "centre": [float("nan"), 1], "area": 4}})


def test_rules_are_read_from_plain_values_and_refused_with_their_path() -> None:
    rule = {"type": "length", "name": "w", "line": [[0, 0], [50, 0]], "min": 1.0}
    assert isinstance(read_rules({"measure": [rule], "px_per_mm": 2.0}).measure[0], LengthRule)
    for change, why in (
        ({"max": 0.5}, "min not above max"),
        ({"min": None}, "needs min, max or both"),
        ({"type": "lenght"}, "did you mean `length`"),
        ({"line": [[0, 0], [1, 1]]}, "at least 5 pixels"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_rules({"measure": [rule | change]})
    with pytest.raises(ConfigError, match="two rules in measure have the name w"):
        read_rules({"measure": [rule, rule]})


def test_min_size_mm_follows_the_calibration_and_no_board_is_an_error() -> None:
    calibration = scale_calibration(4.0, (640, 480))
    assert Rules(calibration=calibration, min_size_mm={"*": 1.0}).scale == pytest.approx(4.0)
    with pytest.raises(ValueError, match="say the same"):
        Rules(calibration=calibration, px_per_mm=4.0)
    with pytest.raises(MeasurementError, match="no chequerboard"):
        board_calibration(np.full((480, 640), 128, np.uint8), 8, 6, 5.0)
