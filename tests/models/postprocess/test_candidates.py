from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.postprocess import Candidates, decode, read_params, select, thresholds_of
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import BadInputFormatError, ConfigError
from tests.models import slow_dfl

BINS = 16
CLASSES = 3
SIDE = 224
WHOLE = Letterbox(1.0, 1.0, SIDE, SIDE)
NAMES = ("dent", "hole", "stain")


def _how(**params: Any) -> Postprocess:
    return Postprocess(name="dfl_anchor_free", params=params)


def _maps(frames: int = 1, side: int = SIDE) -> dict[str, npt.NDArray[np.float32]]:
    """Outputs that show nothing."""
    maps = {}
    for stride in (8, 16, 32):
        cells = side // stride
        maps[f"cls_{stride}"] = np.full((frames, CLASSES, cells, cells), -12, np.float32)
        maps[f"box_{stride}"] = np.zeros((frames, 4 * BINS, cells, cells), np.float32)
    return maps


def _put(
    maps: dict[str, npt.NDArray[np.float32]],
    *,
    box: tuple[float, float, float, float],
    label: int,
    logit: float,
    stride: int = 8,
    frame: int = 0,
) -> None:
    """Writes a box into the cell of its centre, each distance shared between its two neighbouring bins."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    column, row = int(x // stride), int(y // stride)
    centre = ((column + 0.5) * stride, (row + 0.5) * stride)
    distances = (centre[0] - box[0], centre[1] - box[1], box[2] - centre[0], box[3] - centre[1])
    maps[f"cls_{stride}"][frame, label, row, column] = logit
    for side, pixels in enumerate(distances):
        low, share = divmod(pixels / stride, 1)
        bins = np.full(BINS, -60.0)
        bins[int(low)] = np.log(max(1 - share, 1e-20))
        bins[int(low) + 1] = np.log(max(share, 1e-20))
        maps[f"box_{stride}"][frame, side * BINS : (side + 1) * BINS, row, column] = bins


def test_nothing_is_found_where_nothing_is_or_in_the_padding() -> None:
    maps = _maps()
    (found,) = decode(maps, _how(), [WHOLE])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert select(found, _how(), NAMES) == ()
    _put(maps, box=(40, 180, 100, 220), label=0, logit=3.0)
    assert len(decode(maps, _how(), [Letterbox(1.0, 1.0, 224, 150)])[0]) == 0


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_box_is_read_from_its_cell(stride: int) -> None:
    maps = _maps()
    box = (61.0, 70.5, 112.0, 133.25)
    _put(maps, box=box, label=1, logit=2.0, stride=stride)
    (found,) = decode(maps, _how(), [WHOLE])
    np.testing.assert_allclose(found.boxes, [box], atol=1e-3)
    np.testing.assert_array_equal(found.labels, [1])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2))], rtol=1e-6)


def test_boxes_are_mapped_back_to_the_frame_and_cut_at_its_edge() -> None:
    maps = _maps()
    _put(maps, box=(40, 40, 120, 100), label=0, logit=3.0)
    _put(maps, box=(180, 180, 222, 222), label=2, logit=2.0)
    (found,) = decode(maps, _how(), [Letterbox(2.0, 0.5, 100, 400)])
    np.testing.assert_allclose(found.boxes, [[20, 80, 60, 200], [90, 360, 100, 400]], atol=1e-3)


def test_overlapping_boxes_of_one_type_are_one_defect_but_types_stay_apart() -> None:
    maps = _maps()
    _put(maps, box=(40, 40, 120, 100), label=0, logit=1.0)
    _put(maps, box=(44, 44, 124, 104), label=0, logit=3.0, stride=16)
    _put(maps, box=(42, 42, 122, 102), label=1, logit=2.0, stride=32)
    (found,) = decode(maps, _how(), [WHOLE])
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.boxes[0], [44, 44, 124, 104], atol=1e-3)
    (loose,) = decode(maps, _how(nms_iou=0.95), [WHOLE])
    assert len(loose) == 3


def test_a_kept_box_is_voted_by_its_neighbours_of_one_type() -> None:
    maps = _maps()
    _put(maps, box=(44, 44, 124, 104), label=0, logit=3.0, stride=16)
    _put(maps, box=(40, 40, 120, 100), label=0, logit=1.0)
    _put(maps, box=(30, 30, 110, 90), label=1, logit=1.0, stride=32)
    (found,) = decode(maps, _how(vote_iou=0.5), [WHOLE])
    sure, less = 1 / (1 + np.exp(-3.0)), 1 / (1 + np.exp(-1.0))
    shift = 4 * less / (sure + less)
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.boxes[0], np.array([44, 44, 124, 104]) - shift, atol=1e-2)
    np.testing.assert_allclose(found.boxes[1], [30, 30, 110, 90], atol=1e-2)


def test_boxes_without_area_are_no_numbers_to_divide_by() -> None:
    maps = _maps()
    maps["cls_8"][0, 0, 5, 5] = 2.0
    maps["box_8"][0, :, 5, 5] = np.tile([60.0] + [0.0] * (BINS - 1), 4)
    (found,) = decode(maps, _how(vote_iou=0.5), [WHOLE])
    assert np.isfinite(found.boxes).all()


def test_frames_of_a_batch_are_decoded_apart_also_in_half_precision() -> None:
    maps = _maps(frames=2)
    _put(maps, box=(40, 40, 120, 100), label=0, logit=1.0, frame=1)
    for kind in (np.float32, np.float16):
        first, second = decode({name: values.astype(kind) for name, values in maps.items()}, _how(), [WHOLE, WHOLE])
        assert (len(first), len(second)) == (0, 1)
        np.testing.assert_allclose(second.boxes, [[40, 40, 120, 100]], atol=0.2)


def test_the_raw_score_decides_what_is_looked_at_and_the_calibration_what_is_said_and_in_which_order() -> None:
    maps = _maps()
    _put(maps, box=(40, 40, 120, 100), label=0, logit=-1.0)
    _put(maps, box=(130, 130, 180, 180), label=1, logit=0.5)
    how = _how(score_min=0.3, calibration=[[2.0, 0.0], [1.0, 1.5], [1.0, 0.0]])
    (found,) = decode(maps, how, [WHOLE])
    np.testing.assert_array_equal(found.labels, [1])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2))], rtol=1e-6)
    _put(maps, box=(40, 40, 120, 100), label=0, logit=1.0)
    (found,) = decode(maps, _how(calibration=[[1.0, -3.0], [1.0, 3.0], [1.0, 0.0]]), [WHOLE])
    np.testing.assert_array_equal(found.labels, [1, 0])


def test_a_noisy_frame_is_bounded() -> None:
    maps = _maps()
    rng = np.random.default_rng(0)
    for name, values in maps.items():
        maps[name] = rng.normal(0, 3, values.shape).astype(np.float32)
    (found,) = decode(maps, _how(max_detections=40), [WHOLE])
    assert len(found) == 40
    assert (np.diff(found.scores) <= 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.001, 0.05), iou=st.sampled_from([0.3, 0.6, 0.8]))
def test_it_agrees_with_the_plain_reading(seed: int, share: float, iou: float) -> None:
    rng = np.random.default_rng(seed)
    maps = _maps(side=96)
    for name, values in maps.items():
        if name.startswith("cls"):
            values[rng.random(values.shape) < share] += rng.normal(12, 2)
            values += rng.normal(0, 0.5, values.shape).astype(np.float32)
        else:
            values += rng.normal(0, 2, values.shape).astype(np.float32)
    params = {"score_min": 0.05, "nms_iou": iou, "max_detections": 1000}
    plain = {"strides": (8, 16, 32), "reg_bins": BINS, "vote_iou": 1, "calibration": [(1, 0)] * CLASSES}
    expected = slow_dfl.decode(maps, plain | params, 10_000, 10_000)
    (found,) = decode(maps, _how(**params), [Letterbox(1.0, 1.0, 10_000, 10_000)])
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, np.array([box for *_, box in expected]).reshape(-1, 4), atol=2e-3)


def test_select_takes_the_manifest_s_thresholds_or_one_for_all() -> None:
    found = Candidates(
        boxes=np.array([[0, 0, 5, 5], [1, 2, 3, 4], [5, 5, 9, 9]], np.float32),
        scores=np.array([0.9, 0.6, 0.3], np.float32),
        labels=np.array([0, 1, 2]),
    )
    own = select(found, _how(thresholds=[0.95, 0.5, 0.2]), NAMES)
    assert [each.type for each in own] == ["hole", "stain"]
    assert own[0].box == (1.0, 2.0, 3.0, 4.0)
    assert own[0].score == pytest.approx(0.6)
    assert [each.type for each in select(found, _how(thresholds=[0.95, 0.5, 0.2]), NAMES, threshold=0.85)] == ["dent"]
    assert [each.type for each in select(found, _how(), NAMES)] == ["dent", "hole"]
    assert len(select(found, _how(), NAMES, threshold=0.0)) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("stride", [8]), ("strides", []), ("strides", [0]), ("reg_bins", 1), ("nms_iou", 0), ("score_min", 1.5),
     ("score_min", "low"), ("calibration", [[1.0]]), ("calibration", [[-1.0, 0.0]]), ("max_detections", 0)],
)  # fmt: skip
def test_bad_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"postprocess\.params"):
        read_params({name: value})


def test_unknown_decoders_and_misshapen_outputs_say_what_was_expected() -> None:
    maps = _maps()
    del maps["box_16"]
    with pytest.raises(BadInputFormatError, match="cls_16 and box_16"):
        decode(maps, _how(), [WHOLE])
    with pytest.raises(BadInputFormatError, match=r"32, 28, 28"):
        decode(_maps(), _how(reg_bins=8), [WHOLE])
    with pytest.raises(BadInputFormatError):
        decode(_maps(frames=2), _how(), [WHOLE])
    with pytest.raises(ConfigError, match="3 pairs"):
        decode(_maps(), _how(calibration=[[1.0, 0.0]]), [WHOLE])
    with pytest.raises(ConfigError, match="3 numbers"):
        thresholds_of(_how(thresholds=[0.5]), 3)
    with pytest.raises(ConfigError, match="dfl_anchor_free"):
        decode(_maps(), Postprocess(name="yolo"), [WHOLE])
