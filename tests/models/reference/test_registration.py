"""Frames laid over their reference, and the map of what differs."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from lineside_models.frame import UInt8Array
from lineside_models.reference.composition import Tolerance, compose
from lineside_models.reference.network import OPENINGS, DifferenceNetwork, difference_model
from lineside_models.reference.reference_set import ReferenceSet
from lineside_models.reference.registration import ReferenceTemplate, RegistrationLimits
from lineside_runtime.errors import BadInputFormatError, ConfigError, RegistrationError
from tests.models.reference.boards import SIDE, board, motion, photo, with_defect


def corner_error(found: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> float:
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]], np.float64).T
    return float(np.abs(found @ corners - true @ corners).max())


@pytest.mark.parametrize(
    ("shift", "rotation_deg", "light"),
    [((0, 0), 0, 1), ((5, -5), 2, 0.9), ((-5, 5), -2, 1.1), ((4.4, 0.3), 0.7, 1.1), ((30, -20), 5, 0.9)],
)
def test_a_displaced_board_is_found_to_a_fraction_of_a_pixel(
    shift: tuple[float, float], rotation_deg: float, light: float
) -> None:
    true = motion(shift, rotation_deg)
    found = ReferenceTemplate(board(3)).register(photo(board(3), true, light=light))
    assert corner_error(found.matrix, true) < 0.3
    assert found.quality > 0.95
    assert found.rotation_deg == pytest.approx(-rotation_deg, abs=0.05)
    assert found.shift_px((SIDE, SIDE)) == pytest.approx(shift, abs=0.2)


def test_a_frame_that_cannot_be_registered_says_why() -> None:
    template = ReferenceTemplate(board(3), RegistrationLimits(shift=0.02, rotation_deg=3))
    noise = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE), np.uint8)
    cases = [
        (photo(board(4)), "does not show the reference"),
        (noise, "does not show the reference"),
        (np.full((SIDE, SIDE), 90, np.uint8), "shows nothing"),
        (photo(board(3))[:300], "another size"),
        (photo(board(3), motion((9, 0))), "shifted too far"),
        (photo(board(3), motion(rotation_deg=4)), "rotated too far"),
    ]
    for frame, reason in cases:
        with pytest.raises(RegistrationError, match=reason) as caught:
            template.register(frame)
        assert caught.value.code == 2021
    with pytest.raises(RegistrationError, match="reference shows nothing"):
        ReferenceTemplate(np.zeros((SIDE, SIDE), np.uint8))


def test_the_difference_shows_the_defect_and_little_else() -> None:
    template = ReferenceTemplate(board(3))
    frame = photo(with_defect(board(3)), motion((5, -4), 2), light=0.9)
    found = template.register(frame)
    composed = compose(frame, template, found)
    assert composed.shape == (SIDE, SIDE, 3)
    x, y = (found.matrix @ [156, 146, 1]).round().astype(int)
    difference = composed[..., 2]
    assert difference[y - 3 : y + 4, x - 3 : x + 4].min() > 100
    difference[y - 12 : y + 13, x - 12 : x + 13] = 0
    assert difference.mean() < 6
    dark, bright = (board(3).astype(int) + sign * 60 for sign in (-1, 1))
    tolerance = Tolerance(np.clip(dark, 0, 255).astype(np.uint8), np.clip(bright, 0, 255).astype(np.uint8))
    tolerated = compose(frame, template, found, tolerance)[..., 2]
    assert tolerated[y - 3 : y + 4, x - 3 : x + 4].min() > 60
    tolerated[y - 12 : y + 13, x - 12 : x + 13] = 0
    assert tolerated.mean() < difference.mean() / 4


def test_of_several_references_the_best_match_is_taken() -> None:
    references = ReferenceSet([board(3), board(4)])
    assert references.compose(photo(board(3), motion((3, 1), 1))).number == 0
    assert references.compose(photo(board(4), motion((3, 1), 1))).number == 1
    with pytest.raises(RegistrationError):
        references.compose(photo(board(5)))
    with pytest.raises(ConfigError, match="has none"):
        ReferenceSet([])
    with pytest.raises(BadInputFormatError):
        references.compose(np.zeros((SIDE, SIDE, 2), np.uint8))


def composed(difference: UInt8Array) -> UInt8Array:
    return np.dstack([np.full_like(difference, 90), np.full_like(difference, 60), difference])


def test_the_file_is_valid_onnx() -> None:
    onnx.checker.check_model(onnx.load_from_string(difference_model(grow_px=4)), full_check=True)


def test_the_map_is_what_opencv_computes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    difference = np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)
    core = cv2.erode(difference, np.ones((3, 3)))
    half = core.reshape(SIDE // 2, 2, SIDE // 2, 2).max((1, 3))
    opened = [half]
    for size in OPENINGS[1:]:
        early, late = ((size - 1) // 2,) * 2, (size // 2,) * 2
        eroded = cv2.erode(half, np.ones((size, size)), anchor=early)
        opened.append(cv2.dilate(eroded, np.ones((size, size)), anchor=late))
        assert (opened[-1] <= half).all()
    expected = cv2.dilate(np.mean(opened, axis=0), np.ones((5, 5)))
    with DifferenceNetwork(grow_px=4) as network:
        np.testing.assert_allclose(network.difference(composed(difference)), expected, atol=1e-3)


@pytest.mark.parametrize(("width", "height", "found"), [(2, 200, 0), (5, 5, 100), (12, 12, 200)])
def test_edges_that_moved_leave_nothing_and_larger_defects_more(width: int, height: int, found: float) -> None:
    difference = np.zeros((SIDE, SIDE), np.uint8)
    difference[100 : 100 + height, 80 : 80 + width] = 200
    with DifferenceNetwork(grow_px=0) as network:
        strongest = network.strongest(composed(difference))
    assert strongest == pytest.approx(found, abs=51)
    assert (strongest == 0) == (found == 0)
