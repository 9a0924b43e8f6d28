"""Heads of RF-DETR, D-FINE, RT-DETR, NanoDet, PicoDet and RTMDet, against boxes written into them by the inverse of the
published formulas; `tests/system/test_detector_exports.py` compares with the projects' own post-processing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.postprocess import Candidates, decode
from lineside_models.postprocess.decoders.box_scores import answers
from lineside_models.preprocess import Letterbox
from lineside_runtime.bundle import Postprocess
from lineside_runtime.errors import BadInputFormatError

SIDE, CLASSES, BINS = 64, 3, 8
WHOLE = Letterbox(1.0, 1.0, SIDE, SIDE)
BOX = (10.0, 12.0, 30.0, 44.0)
STRIDES = (8, 16, 32, 64)
Array = npt.NDArray[Any]


def only_box(outputs: dict[str, Array], name: str, letterbox: Letterbox = WHOLE, **params: Any) -> Candidates:
    (found,) = decode(outputs, Postprocess(name=name, params=params), [letterbox])
    assert len(found) == 1
    return found


def check(found: Candidates, box: tuple[float, ...] = BOX, label: int = 1, score: float = 0.75) -> None:
    np.testing.assert_allclose(found.boxes, [box], atol=1e-3)
    np.testing.assert_allclose(found.scores, [score], rtol=1e-5)
    assert found.labels.tolist() == [label]


def queries(box: tuple[float, ...] = BOX, *, columns: int = CLASSES, column: int = 1) -> tuple[Array, Array]:
    """Returns logits ``(1, 5, columns)`` and boxes in shares, of which one is there."""
    logits, boxes = np.full((1, 5, columns), -20, np.float32), np.zeros((1, 5, 4), np.float32)
    logits[0, 3, column] = np.log(0.75 / 0.25)
    x1, y1, x2, y2 = np.array(box) / SIDE
    boxes[0, 3] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    return logits, boxes


@settings(deadline=None, max_examples=50)
@given(x=st.floats(0, 40), y=st.floats(0, 40), width=st.floats(2, 20), height=st.floats(2, 20))
def test_a_query_is_a_box_in_shares_of_the_input(x: float, y: float, width: float, height: float) -> None:
    logits, boxes = queries((x, y, x + width, y + height))
    found = only_box({"l": logits, "b": boxes}, "detr", scores="l", boxes="b")
    check(found, (x, y, x + width, y + height))


def test_boxes_and_scores_of_queries_may_be_joined_in_one_output() -> None:
    logits, boxes = queries()
    scores = 1 / (1 + np.exp(-logits))
    joined = {"rows": np.concatenate([boxes, scores], axis=2)}
    check(only_box(joined, "detr", activation="none"))
    apart = answers({"l": logits, "b": boxes}, {"scores": "l", "boxes": "b"})
    for one, other in zip(answers(joined, {"activation": "none"}), apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_queries_that_overlap_are_all_kept_and_count_for_every_class() -> None:
    logits, boxes = queries()
    logits[0, 2], boxes[0, 2] = logits[0, 3], boxes[0, 3]
    logits[0, 2, 0] = 0.0
    (found,) = decode(
        {"l": logits, "b": boxes}, Postprocess(name="detr", params={"scores": "l", "boxes": "b"}), [WHOLE]
    )
    assert found.labels.tolist() == [1, 1, 0]


def test_the_columns_of_no_object_and_of_no_label_are_left_out_and_softmax_is_over_them_too() -> None:
    logits, boxes = queries(columns=CLASSES + 1, column=CLASSES)
    how = Postprocess(name="detr", params={"scores": "l", "boxes": "b", "background": True})
    assert len(decode({"l": logits, "b": boxes}, how, [WHOLE])[0]) == 0
    logits, boxes = queries(columns=CLASSES + 1, column=2)
    check(only_box({"l": logits, "b": boxes}, "detr", scores="l", boxes="b", first_class=1))
    logits[0] = (0, 0, 0, 9.0)
    logits[0, 3] = np.log([0.05, 0.75, 0.05, 0.15])
    more: dict[str, Any] = {"background": True, "activation": "softmax", "score_min": 0.1}
    check(only_box({"l": logits, "b": boxes}, "detr", scores="l", boxes="b", **more))


def cell_of(box: tuple[float, ...], stride: int, offset: float) -> tuple[int, Array]:
    """Returns the cell of a level that the middle of a box lies in, and its distances to the sides in strides."""
    side = SIDE // stride
    column, row = int((box[0] + box[2]) / 2 // stride), int((box[1] + box[3]) / 2 // stride)
    x, y = (column + offset) * stride, (row + offset) * stride
    return row * side + column, np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / stride


def distribution(far: Array) -> Array:
    """Returns logits ``(32,)`` whose expectations are the distances: the two bins around each share it."""
    shares = np.full((4, BINS), 1e-9)
    for side, distance in enumerate(far):
        low = min(int(distance), BINS - 2)
        shares[side, low : low + 2] = low + 1 - distance, distance - low
    return np.log(np.maximum(shares, 1e-9)).ravel()


def levels(stride: int, offset: float) -> tuple[list[Array], list[Array]]:
    """Returns scores and distributions of four levels, with one box at one of them."""
    scores = [np.zeros((1, (SIDE // each) ** 2, CLASSES), np.float32) for each in STRIDES]
    sides = [np.zeros((1, (SIDE // each) ** 2, 4 * BINS), np.float32) for each in STRIDES]
    cell, far = cell_of(BOX, stride, offset)
    scores[STRIDES.index(stride)][0, cell, 1] = 0.75
    sides[STRIDES.index(stride)][0, cell] = distribution(far)
    return scores, sides


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_nanodet_joins_scores_and_distributions_of_all_cells_and_picodet_gives_each_level_on_its_own(
    stride: int,
) -> None:
    if stride < 32:  # where the box lies in one cell at an offset of 0
        scores, sides = levels(stride, 0.0)
        rows = np.concatenate([np.concatenate(pair, axis=2) for pair in zip(scores, sides, strict=True)], axis=1)
        check(only_box({"output": rows}, "distances", strides=STRIDES, reg_bins=BINS))
    scores, sides = levels(stride, 0.5)
    outputs = {f"s{index}": level for index, level in enumerate(scores)}
    outputs |= {f"b{index}": level for index, level in enumerate(sides)}
    named: dict[str, Any] = {kind: [f"{kind[0]}{index}" for index in range(4)] for kind in ("scores", "boxes")}
    check(only_box(outputs, "distances", strides=STRIDES, reg_bins=BINS, offset=0.5, **named))


@pytest.mark.parametrize("in_strides", [False, True])
def test_rtmdet_gives_maps_of_logits_and_distances(in_strides: bool) -> None:
    logits, sides = np.full((1, CLASSES, 8, 8), -20, np.float32), np.zeros((1, 4, 8, 8), np.float32)
    cell, far = cell_of(BOX, 8, 0.0)
    logits[0, 1, cell // 8, cell % 8] = np.log(0.75 / 0.25)
    sides[0, :, cell // 8, cell % 8] = far * (1 if in_strides else 8)
    found = only_box(
        {"s": logits, "b": sides},
        "distances",
        strides=[8],
        activation="sigmoid",
        in_strides=in_strides,
        scores=["s"],
        boxes=["b"],
    )
    check(found)


@pytest.mark.parametrize("turned", [False, True])
def test_decoded_boxes_with_scores_are_suppressed_type_by_type(turned: bool) -> None:
    boxes, scores = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6, CLASSES), np.float32)
    boxes[0, :3] = BOX
    scores[0, :3] = [[0, 0.75, 0], [0, 0.7, 0], [0.6, 0, 0]]
    params = {"scores": "s", "boxes": "b"}
    outputs = {"b": boxes, "s": scores.transpose(0, 2, 1) if turned else scores}
    (found,) = decode(outputs, Postprocess(name="box_scores", params=params), [WHOLE])
    assert found.labels.tolist() == [1, 0]
    joined = np.concatenate([boxes, scores], axis=2)
    (same,) = decode({"o": joined}, Postprocess(name="box_scores"), [WHOLE])
    np.testing.assert_array_equal(same.boxes, found.boxes)


def test_mmdeploys_boxes_hold_their_score_and_paddles_rows_label_score_and_box_of_one_frame() -> None:
    outputs = {"dets": np.array([[[*BOX, 0.75], [0, 0, 0, 0, 0]]], np.float32), "labels": np.array([[1, 0]])}
    check(only_box(outputs, "detections", boxes="dets"))
    rows = np.array([[1, 0.75, *BOX], [-1, 0, 0, 0, 0, 0]], np.float32)
    check(only_box({"rows": rows, "count": np.array([1])}, "detections", rows="rows"))
    with pytest.raises(BadInputFormatError, match="batch"):
        decode({"rows": rows}, Postprocess(name="detections", params={"rows": "rows"}), [WHOLE, WHOLE])


def test_queries_of_a_stretched_frame_go_back_to_it() -> None:
    logits, boxes = queries()
    stretched = Letterbox(SIDE / 128, SIDE / 32, 128, 32)
    check(only_box({"l": logits, "b": boxes}, "detr", stretched, scores="l", boxes="b"), (20, 6, 60, 22))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("detr", {"scores": "a", "boxes": "b"}),
        ("box_scores", {"scores": "a", "boxes": "b"}),
        ("distances", {"scores": ["a"], "boxes": ["b"]}),
    ],
)
def test_outputs_that_do_not_fit_each_other_are_refused(name: str, params: dict[str, Any]) -> None:
    outputs = {"a": np.zeros((1, 8, CLASSES), np.float32), "b": np.zeros((1, 9, 4), np.float32)}
    with pytest.raises(BadInputFormatError) as caught:
        decode(outputs, Postprocess(name=name, params=params), [WHOLE])
    assert caught.value.action
