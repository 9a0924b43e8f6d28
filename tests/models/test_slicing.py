from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.metrics import box_iou
from lineside_models.postprocess import Candidates
from lineside_models.simulator import render
from lineside_models.slicing import SAME, FrameSlice, _gather, _views, merge_slices, slice_frame
from lineside_models.vision import ImageInspector
from lineside_runtime.bundle import Slicing

Box = tuple[float, float, float, float]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(33, 3000),
    st.integers(33, 3000),
    st.integers(32, 900),
    st.floats(0, 0.75),
)
def test_pieces_cover_the_frame_and_overlap_as_asked(height: int, width: int, side: int, overlap: float) -> None:
    slicing = Slicing(side_px=side, overlap=overlap, whole=False)
    cut = slice_frame((height, width), slicing)
    if max(height, width) <= side:
        assert cut == (FrameSlice(0, 0, width, height),)
        return
    assert all(piece.x2 - piece.x1 == min(side, width) and piece.y2 - piece.y1 == min(side, height) for piece in cut)
    for low, high, length in (
        ({piece.x1 for piece in cut}, {piece.x2 for piece in cut}, width),
        ({piece.y1 for piece in cut}, {piece.y2 for piece in cut}, height),
    ):
        starts, ends = sorted(low), sorted(high)
        assert (starts[0], ends[-1]) == (0, length)
        shared = [end - start for start, end in zip(starts[1:], ends, strict=False)]
        assert all(one >= int(overlap * side) - 1 for one in shared)


def test_the_whole_frame_is_a_piece_of_its_own_where_asked() -> None:
    assert slice_frame((500, 900), Slicing(side_px=400))[-1] == FrameSlice(0, 0, 900, 500)
    assert (
        slice_frame((300, 400), Slicing(side_px=400)) == slice_frame((300, 400), None) == (FrameSlice(0, 0, 400, 300),)
    )


def _seen_in(boxes: list[Box], size: tuple[int, int], slicing: Slicing) -> list[tuple[FrameSlice, Candidates]]:
    """What a perfect detector sees in each piece: each box cut off at the piece's edges, slivers left out."""
    found = []
    for number, piece in enumerate(slice_frame(size, slicing)):
        seen = []
        for x1, y1, x2, y2 in boxes:
            cut = (max(x1, piece.x1), max(y1, piece.y1), min(x2, piece.x2), min(y2, piece.y2))
            if cut[2] - cut[0] > 6 and cut[3] - cut[1] > 6:
                seen.append((cut[0] - piece.x1, cut[1] - piece.y1, cut[2] - piece.x1, cut[3] - piece.y1))
        array = np.array(seen, np.float32).reshape(-1, 4)
        scores = np.full(len(seen), 0.9 - 0.01 * number, np.float32)
        found.append((piece, Candidates(array, scores, np.zeros(len(seen), np.int64))))
    return found


SEAMS = Slicing(side_px=200, overlap=0.2, whole=False)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(150, 50, 240, 90)],  # across one seam
        [(20, 60, 460, 80)],  # longer than two pieces
        [(150, 150, 250, 250)],  # across a corner of four pieces
        [(165, 50, 195, 80)],  # inside the overlap: seen whole twice
        [(10, 10, 60, 60)],  # seen once
        [(150, 40, 240, 80), (150, 90, 240, 130)],  # neighbours stay two
    ],
)
def test_a_defect_across_seams_comes_back_as_one_and_whole(boxes: list[Box]) -> None:
    whole = merge_slices(_seen_in(boxes, (520, 520), SEAMS), (520, 520))
    assert sorted(whole.boxes.tolist()) == sorted(list(box) for box in boxes)


def test_types_are_never_merged() -> None:
    (left, first), (right, second), *rest = _seen_in([(150, 50, 240, 90)], (520, 520), SEAMS)
    other = Candidates(second.boxes, second.scores, second.labels + 1)
    whole = merge_slices([(left, first), (right, other), *rest], (520, 520))
    assert sorted(whole.labels.tolist()) == [0, 1]


def test_the_best_view_that_no_edge_cut_is_kept() -> None:
    """The whole frame's box is looser than the piece's own: the surer one wins."""
    frame, piece = FrameSlice(0, 0, 520, 520), FrameSlice(0, 0, 200, 200)
    loose = Candidates(np.array([[40, 40, 95, 95]], np.float32), np.array([0.5], np.float32), np.array([0]))
    tight = Candidates(np.array([[50, 50, 90, 90]], np.float32), np.array([0.8], np.float32), np.array([0]))
    whole = merge_slices([(piece, tight), (frame, loose)], (520, 520))
    assert whole.boxes.tolist() == [[50, 50, 90, 90]]
    assert whole.scores.tolist() == [pytest.approx(0.8)]


def test_a_defect_keeps_its_length_where_a_piece_is_surer_of_a_part_of_it() -> None:
    piece, frame = FrameSlice(0, 0, 200, 200), FrameSlice(0, 0, 900, 200)
    long = Candidates(np.array([[40, 80, 840, 120]], np.float32), np.array([0.6], np.float32), np.array([0]))
    part = Candidates(np.array([[90, 85, 120, 115]], np.float32), np.array([0.9], np.float32), np.array([0]))
    whole = merge_slices([(piece, part), (frame, long)], (200, 900))
    np.testing.assert_array_equal(whole.boxes, long.boxes)
    np.testing.assert_array_equal(whole.scores, part.scores)


def test_outlines_move_with_their_piece_and_end_where_boxes_were_joined() -> None:
    pair = [(FrameSlice(0, 0, 200, 200), (150, 50, 200, 90)), (FrameSlice(160, 0, 360, 200), (0, 50, 80, 90))]
    alone = (FrameSlice(320, 0, 520, 200), (100, 20, 140, 60))
    found = []
    for piece, box in [*pair, alone]:
        corners = np.array([[box[0], box[1]], [box[2], box[3]]], np.float32)
        found.append(
            (piece, Candidates(np.array([box], np.float32), np.array([0.9], np.float32), np.array([0]), (corners,)))
        )
    whole = merge_slices(found, (200, 520))
    by_box = dict(zip(map(tuple, whole.boxes.tolist()), whole.outlines, strict=True))
    assert by_box[(150, 50, 240, 90)].shape == (0, 2)
    assert by_box[(420, 20, 460, 60)].tolist() == [[420, 20], [460, 60]]


def test_views_are_those_of_all_pairs() -> None:
    """The sweep, against every pair looked at by itself."""
    random = np.random.default_rng(4)
    found = []
    for piece in slice_frame((500, 700), Slicing(side_px=250, overlap=0.3)):
        low = random.uniform(0, 180, (12, 2))
        boxes = np.concatenate([low, low + random.uniform(5, 120, (12, 2))], axis=1)
        limit = np.array([piece.x2 - piece.x1, piece.y2 - piece.y1] * 2)
        scores = np.sort(random.random(12).astype(np.float32))[::-1]
        found.append((piece, Candidates(np.minimum(boxes, limit).astype(np.float32), scores, np.zeros(12, np.int64))))
    seen = _gather(found, (500, 700))
    views = _views(seen.boxes, seen.pieces, seen.numbers)
    for one, two in itertools.combinations(range(len(seen.boxes)), 2):
        shared = _cut(seen.pieces[one], seen.pieces[two])
        first, second = _cut(seen.boxes[one], shared), _cut(seen.boxes[two], shared)
        smaller = min(_area(first), _area(second))
        same = smaller > 0 and _area(_cut(first, second)) >= SAME * smaller and seen.numbers[one] != seen.numbers[two]
        assert (two in views[one]) == (one in views[two]) == same


def _cut(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[2:], two[2:])
    return np.concatenate((low, high))


def _area(box: np.ndarray) -> float:
    sides = box[2:] - box[:2]
    return float(sides.clip(0, None).prod())


def test_a_large_board_whose_defects_the_whole_frame_hides_is_judged_in_pieces() -> None:
    frame = render("pcb", 5, size=(768, 1280), defects=8)

    def found(slicing: object) -> tuple[int, int]:
        with ImageInspector(confidence_threshold=None, rules={"slicing": slicing}) as inspector:
            (verdict,) = inspector.predict(frame.image)
        boxes = np.array([one.box for one in verdict.detections], np.float32).reshape(-1, 4)
        types = np.array([one.type for one in verdict.detections])
        among = box_iou(boxes, boxes) * (types[:, None] == types[None]) * (1 - np.eye(len(boxes)))
        assert among.max(initial=0) < 0.3, "one defect came back twice"
        return int((box_iou(frame.boxes, boxes) >= 0.5).any(axis=1).sum()), len(boxes)

    assert found("off")[0] <= 1
    right, boxes = found({"side_px": 480, "overlap": 0.25, "whole": False})
    assert right >= 7
    assert boxes <= 10
