"""Canvases: wherever the pixels go, the boxes go with them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lineside_converters.training.data.augmentation import (
    MIN_SIDE_PX,
    TrainingPicture,
    clip,
    flip,
    mosaic,
    place,
    relight,
)

SIZE = 64


def white_box(x1: int = 20, y1: int = 12, x2: int = 44, y2: int = 30) -> TrainingPicture:
    """A black picture with one white rectangle that its box describes."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[y1:y2, x1:x2] = 255
    return TrainingPicture(image, np.array([[x1, y1, x2, y2]], np.float32), np.array([3]))


def white_extent(image: NDArray[np.uint8]) -> list[int]:
    rows, columns = np.nonzero(image > 127)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@given(x=st.integers(-15, 15), y=st.integers(-10, 30))
def test_a_shift_moves_pixels_and_box_alike(x: int, y: int) -> None:
    moved = place(white_box(), scale=1.0, x=x, y=y, size=SIZE, kept_share=0.0)
    assert moved.boxes[0].tolist() == white_extent(moved.image)
    assert moved.labels.tolist() == [3]


@given(scale=st.floats(0.6, 1.4))
def test_a_change_of_scale_moves_pixels_and_box_alike(scale: float) -> None:
    scaled = place(white_box(), scale=scale, x=0, y=0, size=96, kept_share=0.0)
    assert np.abs(scaled.boxes[0] - white_extent(scaled.image)).max() <= 1


def test_scaling_to_the_canvas_is_what_the_bundles_preprocessing_does() -> None:
    from lineside_converters.training.detection.bundle_facts import PREPROCESS
    from lineside_models.networks.detector import MEAN, STD
    from lineside_models.preprocess import prepare

    image = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    tensor, _ = prepare(image, PREPROCESS)
    empty = TrainingPicture(image, np.empty((0, 4), np.float32), np.empty(0, np.int64))
    canvas = place(empty, scale=1.12, x=0, y=0, size=224, kept_share=0.5)
    difference = np.abs(tensor[0, 0] * STD + MEAN - canvas.image)[1:-1, 1:-1]
    # warpAffine rounds its coordinates to 1/32 of a pixel; on white noise that is a few grey values.
    assert difference.mean() < 3


@pytest.mark.parametrize("turn", [True, False])
def test_mirrors_move_pixels_and_boxes_alike_and_without_turn_none_is_turned(turn: bool) -> None:
    flipped = [flip(white_box(), np.random.default_rng(seed), turn=turn) for seed in range(12)]
    assert all(each.boxes[0].tolist() == white_extent(each.image) for each in flipped)
    assert all(each.image.flags["C_CONTIGUOUS"] for each in flipped)
    wide = {each.boxes[0, 2] for each in flipped}
    assert (wide == {44.0}) != turn  # its mirror image ends there too


def test_slivers_are_dropped_and_the_rest_is_cut() -> None:
    boxes = np.array([[0, 0, 20, 20], [50, 0, 70, 20], [62, 0, 82, 20], [30, 30, 33, 60]], np.float32)
    cut = clip(TrainingPicture(np.zeros((SIZE, SIZE), np.uint8), boxes, np.arange(4)), (0, 0, 64, 64), kept_share=0.5)
    assert cut.labels.tolist() == [0, 1]
    assert cut.boxes[1].tolist() == [50, 0, 64, 20]
    assert (cut.boxes[:, 2:] - cut.boxes[:, :2]).min() >= MIN_SIDE_PX


def test_outside_the_picture_lies_its_mean_grey() -> None:
    picture = TrainingPicture(np.full((32, 32), 90, np.uint8), np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert (place(picture, scale=1.0, x=20, y=20, size=SIZE, kept_share=0.5).image == 90).all()


def test_a_mosaic_shows_of_each_part_what_its_boxes_say() -> None:
    parts = [white_box(), white_box(2, 2, 62, 62), white_box(), white_box(30, 30, 60, 60)]
    whole = mosaic(parts, np.random.default_rng(1), kept_share=0.0)
    assert whole.image.shape == (SIZE, SIZE)
    covered = np.zeros_like(whole.image, bool)
    for x1, y1, x2, y2 in whole.boxes.astype(int):
        assert (whole.image[y1:y2, x1:x2] == 255).all()
        covered[y1:y2, x1:x2] = True
    assert (whole.image[~covered] == 255).mean() < 0.02


def test_relighting_changes_grey_values_and_neither_shape_nor_type() -> None:
    image = white_box().image
    changed = [relight(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(c.shape == image.shape and c.dtype == np.uint8 for c in changed)
    assert any((c != image).any() for c in changed)
    assert all(c[12:30, 20:44].mean() > c[40:].mean() + 100 for c in changed)
