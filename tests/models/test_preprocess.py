from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.frame import Frame
from lineside_models.preprocess import Letterbox, prepare, prepare_batch
from lineside_runtime.bundle import Preprocess
from lineside_runtime.errors import BadInputFormatError, ConfigError

GREY = Preprocess(input="image", colour="grey", mean=(127.0,), std=(128.0,))


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "tensor"),
    [
        ((200, 200), (224, 224)),  # enlarged to min_side
        ((640, 640), (640, 640)),  # left alone
        ((300, 400), (320, 416)),  # padded to multiples of 32
        ((480, 1280), (256, 640)),  # reduced to max_side, 240 rows padded to 256
        ((1, 1000), (32, 640)),
    ],
)
def test_fit_keeps_the_aspect_and_pads(frame: tuple[int, int], tensor: tuple[int, int]) -> None:
    prepared, _ = prepare(_picture(*frame), GREY)
    assert prepared.shape == (1, 1, *tensor)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous


def test_grey_values_are_weighed_as_opencv_does_and_normalised() -> None:
    picture = _picture(640, 640)
    prepared, letterbox = prepare(picture, GREY)
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    np.testing.assert_array_equal(prepared[0, 0], (grey - 127) / 128)
    assert letterbox == Letterbox(1.0, 1.0, 640, 640)


def test_colours_keep_or_turn_their_order() -> None:
    picture = _picture(320, 320)
    means, stds = (10.0, 20.0, 30.0), (50.0, 60.0, 70.0)
    colours: tuple[tuple[Any, Any], ...] = (("bgr", picture), ("rgb", picture[..., ::-1]))
    for colour, turned in colours:
        prepared, _ = prepare(picture, Preprocess(input="x", colour=colour, mean=means, std=stds))
        expected = (turned.astype(np.float32) - means) / stds
        np.testing.assert_allclose(prepared[0], expected.transpose(2, 0, 1), rtol=1e-6)
        assert prepared.flags.c_contiguous


def test_a_grey_frame_serves_a_colour_model_and_the_other_way_with_or_without_its_own_axis() -> None:
    grey = _picture(320, 320)[..., 0]
    colour, _ = prepare(grey, Preprocess(input="x", colour="rgb"))
    np.testing.assert_array_equal(colour[0, 0], colour[0, 2])
    np.testing.assert_array_equal(prepare(grey, GREY)[0], prepare(np.dstack([grey] * 3), GREY)[0])
    np.testing.assert_array_equal(prepare(grey[:, :, None], GREY)[0], prepare(grey, GREY)[0])
    assert Frame(image=grey[:, :, None]).image.shape == (320, 320)
    with pytest.raises(BadInputFormatError):
        Frame(image=grey[:, :, None].repeat(2, axis=2))


def test_padding_lies_right_and_below_and_has_its_value() -> None:
    how = Preprocess(input="x", colour="grey", pad_value=114)
    prepared, _ = prepare(np.full((300, 400), 7, np.uint8), how)
    assert (prepared[0, 0, :300, :400] == 7).all()
    assert (prepared[0, 0, 300:] == 114).all()
    assert (prepared[0, 0, :, 400:] == 114).all()


@pytest.mark.parametrize(("resize", "scales"), [("fit", (0.64, 0.64)), ("stretch", (0.64, 3.2))])
def test_a_fixed_canvas_is_filled_without_bending_or_by_stretching(resize: Any, scales: tuple[float, float]) -> None:
    how = Preprocess(input="x", colour="grey", resize=resize, size=(320, 256))
    prepared, letterbox = prepare(_picture(100, 400), how)
    assert prepared.shape == (1, 1, 320, 256)
    assert (letterbox.scale_x, letterbox.scale_y) == pytest.approx(scales)


def test_strong_reduction_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((1920, 1920), np.uint8)
    stripes[:, ::6] = 255
    prepared, _ = prepare(stripes, Preprocess(input="x", colour="grey", max_side=320))
    assert abs(float(prepared.mean()) - 255 / 6) < 1
    assert prepared.std() < 2


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 900), width=st.integers(1, 900), min_side=st.integers(1, 300), more=st.integers(0, 600))
def test_boxes_come_back_to_where_they_were(height: int, width: int, min_side: int, more: int) -> None:
    how = Preprocess(input="x", colour="grey", min_side=min_side, max_side=min_side + more)
    prepared, letterbox = prepare(np.zeros((height, width), np.uint8), how)
    assert all(side % 32 == 0 for side in prepared.shape[2:])
    assert max(prepared.shape[2:]) < min_side + more + 32
    whole = np.array([[0, 0, width, height]], np.float32)
    scaled = whole * np.array([letterbox.scale_x, letterbox.scale_y] * 2, np.float32)
    assert (scaled[0, 2:] <= np.array(prepared.shape[:1:-1]) + 1e-3).all()
    np.testing.assert_allclose(letterbox.to_frame(scaled), whole, rtol=1e-5)
    np.testing.assert_array_equal(letterbox.to_frame(scaled * 3 - 50)[0, :2], [0, 0])


def test_a_batch_groups_equal_shapes_and_says_which_images_they_were() -> None:
    pictures = [_picture(200, 200, 1), _picture(640, 640, 2), _picture(200, 200, 3), _picture(210, 205, 4)]
    batches = prepare_batch(pictures, GREY)
    assert [batch.indices for batch in batches] == [(0, 2, 3), (1,)]
    assert [batch.tensor.shape for batch in batches] == [(3, 1, 224, 224), (1, 1, 640, 640)]
    np.testing.assert_array_equal(batches[0].tensor[1], prepare(pictures[2], GREY)[0][0])
    assert [(box.width, box.height) for box in batches[0].letterboxes] == [(200, 200), (200, 200), (205, 210)]


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5), np.float32), np.zeros((0, 5), np.uint8), "a.jpg"]
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(BadInputFormatError):
        prepare(image, GREY)


@pytest.mark.parametrize(
    "how",
    [{"mean": (1.0, 2.0, 3.0)}, {"colour": "rgb", "std": (1.0, 2.0)}, {"std": (0.0,)}, {"resize": "stretch"},
     {"min_side": 300, "max_side": 200}, {"multiple_of": 0}],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        prepare(_picture(64, 64), Preprocess(**{"input": "x", "colour": "grey"} | how))
