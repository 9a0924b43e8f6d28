from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest

from lineside_models.frame import UInt8Array
from lineside_models.reference.network import OPENINGS, DifferenceNetwork, difference_model
from tests.models.reference.boards import SIDE


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
