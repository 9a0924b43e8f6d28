"""Heads that people bring, against boxes written into them by the inverse of the published formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.metrics import box_iou
from lineside_models.postprocess import DECODERS, decode, select
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import BadInputFormatError, ConfigError

SIDE = 64
NAMES = ("dent", "hole", "stain")
WHOLE = Letterbox(1.0, 1.0, SIDE, SIDE)
CELLS = 8 * 8 + 4 * 4 + 2 * 2
BOX = (10.0, 12.0, 30.0, 44.0)
Array = npt.NDArray[Any]


def how(name: str, **params: Any) -> Postprocess:
    return Postprocess(name=name, params=params)


def centred(box: tuple[float, ...]) -> tuple[float, ...]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def yolov5_output(box: tuple[float, ...] = BOX, *, row: int = 5, label: int = 1) -> Array:
    rows = np.zeros((1, 3 * CELLS, 5 + len(NAMES)), np.float32)
    rows[0, row, :4] = centred(box)
    rows[0, row, 4] = 0.8
    rows[0, row, 5 + label] = 0.5
    return rows


def yolov8_output(box: tuple[float, ...] = BOX, *, row: int = 5, label: int = 1, masks: int = 0) -> Array:
    columns = np.zeros((1, 4 + len(NAMES) + masks, CELLS), np.float32)
    columns[0, :4, row] = centred(box)
    columns[0, 4 + label, row] = 0.75
    return columns


def only_box(outputs: dict[str, Array], post: Postprocess, letterbox: Letterbox = WHOLE) -> Any:
    (found,) = decode(outputs, post, [letterbox])
    assert len(found) == 1
    return found


def test_yolov5_multiplies_objectness_and_class_and_yolov8_reads_one_column_a_cell() -> None:
    for output, name, score in ((yolov5_output(), "yolov5", 0.4), (yolov8_output(), "yolov8", 0.75)):
        found = only_box({"output0": output}, how(name))
        np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
        np.testing.assert_allclose(found.scores, [score], rtol=1e-6)
        assert found.labels.tolist() == [1]


def test_yolox_that_the_graph_has_decoded_is_taken_as_it_is_and_of_another_size_is_refused() -> None:
    rows = np.zeros((1, CELLS, 5 + len(NAMES)), np.float32)
    rows[0, 3, :6] = (*centred(BOX), 0.9, 1.0)
    np.testing.assert_allclose(only_box({"o": rows}, how("yolox", decoded=True)).boxes, [BOX], atol=1e-4)
    with pytest.raises(BadInputFormatError, match="strides"):
        decode({"o": np.zeros((1, CELLS + 1, 8), np.float32)}, how("yolox"), [WHOLE])


@pytest.mark.parametrize(("stride", "first"), [(8, 0), (16, 64), (32, 80)])
def test_yolox_adds_the_cell(stride: int, first: int) -> None:
    rows = np.zeros((1, CELLS, 5 + len(NAMES)), np.float32)
    x, y, width, height = centred(BOX)
    row, column = int(y // stride), int(x // stride)
    cell = first + row * (SIDE // stride) + column
    rows[0, cell, :4] = x / stride - column, y / stride - row, np.log(width / stride), np.log(height / stride)
    rows[0, cell, 4:6] = 0.9, 1.0
    found = only_box({"output": rows}, how("yolox"))
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-3)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)


def test_end_to_end_boxes_are_kept_even_where_they_overlap() -> None:
    rows = np.array([[[*BOX, 0.9, 2], [*BOX, 0.8, 2], [0, 0, 0, 0, 0, 0]]], np.float32)
    (found,) = decode({"o": rows}, how("yolo_end2end"), [WHOLE])
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.labels.tolist() == [2, 2]


def test_doubles_of_one_type_are_one_and_a_box_counts_for_its_best_class_unless_several_may_be_right() -> None:
    columns = yolov8_output()
    columns[0, :, 6] = columns[0, :, 5] * [1, 1, 1, 1, 1, 0.9, 1]
    assert len(decode({"o": columns}, how("yolov8"), [WHOLE])[0]) == 1
    columns[0, 4:, 6] = 0.6, 0, 0
    assert len(decode({"o": columns}, how("yolov8"), [WHOLE])[0]) == 2
    columns = yolov8_output()
    columns[0, 4, 5] = 0.5
    assert only_box({"o": columns}, how("yolov8")).labels.tolist() == [1]
    (found,) = decode({"o": columns}, how("yolov8", multi_label=True), [WHOLE])
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 5), (0, 5, 9)])  # a box's side, and a score of another cell
def test_an_output_that_holds_no_number_is_an_error_and_no_pass(broken: float, place: tuple[int, ...]) -> None:
    columns = yolov8_output()
    columns[place] = broken
    with pytest.raises(BadInputFormatError, match=r"output 'o' holds values that are no numbers.*1 of 588"):
        decode({"o": columns}, how("yolov8"), [WHOLE])


def test_boxes_go_back_to_the_frame_through_scale_and_padding() -> None:
    letterbox = Letterbox(0.5, 0.5, 100, 60, padded=(SIDE, SIDE))
    found = only_box({"o": yolov8_output((5, 10, 30, 29))}, how("yolov8"), letterbox)
    np.testing.assert_allclose(found.boxes, [(10, 20, 60, 58)], atol=1e-4)
    in_padding = yolov8_output((5, 40, 30, 60))
    assert len(decode({"o": in_padding}, how("yolov8"), [letterbox])[0]) == 0


@pytest.mark.parametrize("name", ["yolov5", "yolov8"])
def test_an_instance_has_the_outline_of_its_mask_inside_its_box(name: str) -> None:
    masks = 2
    prototypes = np.zeros((1, masks, 16, 16), np.float32)
    prototypes[0, 0] = -1
    prototypes[0, 0, 4:9, 3:6] = 1  # cells of four pixels: rows 16 to 36, columns 12 to 24
    prototypes[0, 0, 14:, 14:] = 1  # outside the box
    if name == "yolov8":
        output = yolov8_output(masks=masks)
        output[0, 4 + len(NAMES), 5] = 1
    else:
        output = np.concatenate([yolov5_output(), np.zeros((1, 3 * CELLS, masks), np.float32)], axis=2)
        output[0, 5, 5 + len(NAMES)] = 1
    post = how(name, thresholds=[0.3] * 3)
    found = only_box({"output0": output, "output1": prototypes}, post)
    (outline,) = found.outlines
    np.testing.assert_allclose(outline.min(axis=0), [12, 16], atol=1)
    np.testing.assert_allclose(outline.max(axis=0), [24, 36], atol=1)
    (detection,) = select(found, post, NAMES)
    assert len(detection.outline) == len(outline) >= 4


def test_a_mask_with_other_prototypes_is_refused() -> None:
    outputs = {"output0": yolov8_output(masks=1), "output1": np.zeros((1, 9, 16, 16), np.float32)}
    with pytest.raises(BadInputFormatError):
        decode(outputs, how("yolov8"), [WHOLE])


@settings(deadline=None, max_examples=50)
@given(
    x=st.floats(0, 40),
    y=st.floats(0, 40),
    width=st.floats(2, 20),
    height=st.floats(2, 20),
    row=st.integers(0, CELLS - 1),
    label=st.integers(0, 2),
)
def test_any_box_survives_the_way_through_yolov8(
    x: float, y: float, width: float, height: float, row: int, label: int
) -> None:
    box = (x, y, x + width, y + height)
    found = only_box({"o": yolov8_output(box, row=row, label=label)}, how("yolov8"))
    np.testing.assert_allclose(found.boxes, [box], atol=1e-3)
    assert found.labels.tolist() == [label]


def test_classification_covers_the_whole_frame() -> None:
    letterbox = Letterbox(0.5, 0.25, 100, 60, padded=(SIDE, SIDE))
    (found,) = decode({"logits": np.array([[0.0, 3.0, 1.0]], np.float32)}, how("classification"), [letterbox])
    expected = np.exp([0, 3, 1]) / np.exp([0, 3, 1]).sum()
    assert found.labels.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.scores, sorted(expected, reverse=True), rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [(0, 0, 100, 60)] * 3)


def test_a_good_class_is_no_defect_several_may_be_right_with_sigmoid_and_a_background_has_no_label() -> None:
    def classified(logits: list[float], **params: Any) -> tuple[list[int], list[str]]:
        post = how("classification", **params)
        (found,) = decode({"logits": np.array([logits], np.float32)}, post, [WHOLE])
        return found.labels.tolist(), [one.type for one in select(found, post, NAMES)]

    labels, defects = classified([0.0, 3.0, 1.0], good=[1])
    assert labels[0] == 1 and defects == []  # an evaluation wants to know that it was the likeliest
    assert classified([2.0, 2.0, -9.0], activation="sigmoid")[1] == ["dent", "hole"]
    assert classified([0.1, 0.2, 0.7, 0.0], activation="none", first_class=1)[0] == [1, 0]


def test_segmentation_gives_each_piece_its_box_and_outline() -> None:
    maps = np.zeros((1, 3, 16, 16), np.float32)
    maps[0, 0] = 5
    maps[0, 1, 2:5, 3:9] = 9
    maps[0, 2, 10:12, 1:3] = 8
    maps[0, 2, 14, 14] = 6
    (found,) = decode({"out": maps}, how("segmentation"), [WHOLE])
    assert sorted(zip(found.labels.tolist(), map(tuple, found.boxes.tolist()), strict=True)) == [
        (0, (12, 8, 36, 20)),
        (1, (4, 40, 12, 48)),
        (1, (56, 56, 60, 60)),
    ]
    assert len(found.outlines) == 3
    assert (np.diff(found.scores) <= 0).all()
    assert len(decode({"out": maps}, how("segmentation", area_min=2), [WHOLE])[0]) == 2


def test_no_background_is_none_as_toml_has_no_null() -> None:
    maps = np.zeros((1, 2, 16, 16), np.float32)
    maps[0, 1, :, 8:] = 1.0
    maps[0, 0, :, :8] = 1.0
    for background in (None, "none"):
        (found,) = decode({"maps": maps}, how("segmentation", background=background, activation="none"), [WHOLE])
        assert sorted(found.labels.tolist()) == [0, 1]
    with pytest.raises(ConfigError, match="background"):
        decode({"maps": maps}, how("segmentation", background="nothing"), [WHOLE])


def test_segmentation_with_sigmoid_lets_classes_overlap_and_a_frame_without_a_defect_has_none() -> None:
    maps = np.full((1, 2, 8, 8), -9, np.float32)
    maps[0, :, 2:4, 2:4] = 4
    post = how("segmentation", activation="sigmoid", background=None)
    (found,) = decode({"out": maps}, post, [WHOLE])
    assert sorted(found.labels.tolist()) == [0, 1]
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-4)), rtol=1e-5)
    maps = np.zeros((1, 3, 16, 16), np.float32)
    maps[0, 0] = 5
    (found,) = decode({"out": maps}, how("segmentation"), [WHOLE])
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_tensorflows_boxes_are_shares_with_y_first() -> None:
    outputs = {
        "detection_boxes": np.array([[[12 / 64, 10 / 64, 44 / 64, 30 / 64], [0, 0, 1, 1]]], np.float32),
        "detection_scores": np.array([[0.9, 0.001]], np.float32),
        "detection_classes": np.array([[3.0, 1.0]], np.float32),
        "num_detections": np.array([1.0], np.float32),
    }
    names = {"boxes": "detection_boxes", "scores": "detection_scores", "labels": "detection_classes"}
    found = only_box(outputs, how("detections", order="yxyx", shares=True, first_class=1, **names))
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-4)
    assert found.labels.tolist() == [2]


def test_openvinos_rows_are_told_apart_by_frame() -> None:
    rows = np.array([[[[0, 1, 0.9, 0, 0, 0.5, 0.5], [1, 2, 0.8, 0.5, 0.5, 1, 1], [-1, 0, 0, 0, 0, 0, 0]]]], np.float32)
    first, second = decode({"out": rows}, how("detections", shares=True, first_class=1), [WHOLE, WHOLE])
    assert first.labels.tolist() == [0]
    assert second.boxes.tolist() == [[32, 32, 64, 64]]


def test_a_calibration_moves_scores_and_keeps_their_order() -> None:
    columns = yolov8_output()
    plain = only_box({"o": columns}, how("yolov8"))
    moved = only_box({"o": columns}, how("yolov8", calibration=[[2.0, 1.0]] * 3))
    logit = np.log(plain.scores / (1 - plain.scores))
    np.testing.assert_allclose(moved.scores, 1 / (1 + np.exp(-(2 * logit + 1))), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"dfl_anchor_free"}))
def test_a_wrong_parameter_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="treshold"):
        decode({}, how(name, treshold=0.5), [WHOLE])


NEEDED = {"anomaly_maps": {"maps": ["o"], "calibration": [[1.0, 0.0]]}}
"""Parameters without which a decoder isn't."""


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"dfl_anchor_free", "ssd"}))
def test_outputs_of_no_such_head_are_refused(name: str) -> None:
    for shape in ((), (1,), (2, 3), (1, 3, 1), (1, 2, 3, 4, 5)):
        with pytest.raises(BadInputFormatError) as caught:
            decode({"o": np.zeros(shape, np.float32)}, how(name, **NEEDED.get(name, {})), [WHOLE])
        assert caught.value.expected is not None


def test_more_classes_than_labels_is_an_error() -> None:
    (found,) = decode({"o": yolov8_output(label=2)}, how("yolov8"), [WHOLE])
    with pytest.raises(ConfigError, match="more classes"):
        select(found, how("yolov8"), NAMES[:2])


def test_many_random_boxes_keep_no_doubles() -> None:
    rng = np.random.default_rng(0)
    columns = np.zeros((1, 7, CELLS), np.float32)
    columns[0, :2] = rng.uniform(10, 54, (2, CELLS))
    columns[0, 2:4] = rng.uniform(4, 20, (2, CELLS))
    columns[0, 4:] = rng.uniform(0, 1, (3, CELLS))
    (found,) = decode({"o": columns}, how("yolov8", nms_iou=0.5, max_detections=500, multi_label=True), [WHOLE])
    for label in range(3):
        mine = found.boxes[found.labels == label]
        overlaps = box_iou(mine, mine)
        np.fill_diagonal(overlaps, 0)
        assert len(mine) > 1
        assert overlaps.max() <= 0.6  # frame edges cut boxes after suppression
