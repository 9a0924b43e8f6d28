from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.metrics import DetectionCounts, average_precision, box_iou, evaluate, match, wilson
from lineside_models.postprocess import Candidates
from lineside_runtime.errors import BadInputFormatError
from tests.models.coco_judge import ap50

NAMES = ("dent", "hole", "stain", "crack")


@dataclasses.dataclass
class _Truth:
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def _truth(*rows: tuple[int, float, float, float, float]) -> _Truth:
    return _Truth(
        np.array([row[1:] for row in rows], np.float32).reshape(-1, 4), np.array([row[0] for row in rows], np.int64)
    )


def _found(*rows: tuple[int, float, float, float, float, float]) -> Candidates:
    return Candidates(
        np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[0] for row in rows], np.int64),
    )


def _coco_ap50(truths: list[_Truth], found: list[Candidates]) -> dict[int, float]:
    return ap50(truths, found, len(NAMES))


def _random_case(seed: int, images: int, spread: float) -> tuple[list[_Truth], list[Candidates]]:
    """Boxes on a coarse grid and scores of few values, so that ties and exact overlaps happen."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        count = int(rng.integers(0, 7))
        corners = rng.integers(0, 12, (count, 2)) * 4
        boxes = np.concatenate([corners, corners + rng.integers(1, 8, (count, 2)) * 4], axis=1).astype(np.float32)
        labels = rng.integers(0, 3, count)
        truths.append(_Truth(boxes, labels))
        copies = np.repeat(np.arange(count), rng.integers(0, 4, count))
        moved = boxes[copies] + np.round(rng.normal(0, spread, (len(copies), 4)))
        extra_corners = rng.integers(0, 50, (int(rng.integers(0, 5)), 2))
        extra = np.concatenate([extra_corners, extra_corners + 10], axis=1)
        all_boxes = np.concatenate([moved, extra]).astype(np.float32)
        all_boxes[:, 2:] = np.maximum(all_boxes[:, 2:], all_boxes[:, :2] + 1)
        all_labels = np.concatenate([labels[copies], rng.integers(0, 4, len(extra))]).astype(np.int64)
        found.append(Candidates(all_boxes, (rng.integers(1, 9, len(all_boxes)) / 8).astype(np.float32), all_labels))
    return truths, found


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 12), spread=st.sampled_from([0.0, 1.0, 3.0, 8.0]))
def test_average_precision_is_that_of_pycocotools(seed: int, images: int, spread: float) -> None:
    truths, found = _random_case(seed, images, spread)
    if not any(len(each.labels) for each in found) or not any(len(truth.labels) for truth in truths):
        return
    ours = evaluate(truths, found, labels=NAMES, thresholds=0.5)
    theirs = _coco_ap50(truths, found)
    for label, name in enumerate(NAMES):
        ap = ours.classes[name].ap50
        assert (ap is None) == (label not in theirs)
        if ap is not None:
            assert ap == pytest.approx(theirs[label], abs=1e-3)
    assert ours.map50 == pytest.approx(np.mean(list(theirs.values())), abs=1e-3)


def test_more_than_a_hundred_detections_of_a_type_are_cut_as_coco_cuts_them() -> None:
    truths = [_truth((0, 0, 0, 10, 10), (0, 50, 50, 60, 60))]
    false = [(0, 0.9 - i / 1000, 100.0 + i, 100.0, 130.0 + i, 120.0) for i in range(120)]
    found = [_found(*false, (0, 0.95, 0, 0, 10, 10), (0, 0.1, 50, 50, 60, 60))]
    ours = evaluate(truths, found, labels=NAMES, thresholds=0.5).classes["dent"].ap50
    assert ours == pytest.approx(_coco_ap50(truths, found)[0], abs=1e-3)
    assert ours == pytest.approx(51 / 101, abs=1e-3)


def test_equal_overlaps_and_exact_halves_are_decided_as_coco_decides_them() -> None:
    truths = [_truth((0, 0, 0, 10, 10), (0, 0, 10, 10, 20), (1, 0, 0, 20, 10))]
    found = [_found((0, 0.9, 0, 5, 10, 15), (0, 0.8, 0, 0, 10, 20), (1, 0.7, 0, 0, 10, 10))]
    ours = evaluate(truths, found, labels=NAMES, thresholds=0.5)
    theirs = _coco_ap50(truths, found)
    assert ours.classes["dent"].ap50 == pytest.approx(theirs[0], abs=1e-3)
    assert ours.classes["hole"].ap50 == pytest.approx(theirs[1], abs=1e-3) == pytest.approx(1.0)


def test_a_perfect_detector_scores_one_and_a_blind_one_nothing() -> None:
    truths = [_truth((0, 0, 0, 10, 10), (1, 5, 5, 30, 30)), _truth()]
    perfect = [_found((0, 0.9, 0, 0, 10, 10), (1, 0.8, 5, 5, 30, 30)), _found()]
    good = evaluate(truths, perfect, labels=NAMES, thresholds=0.5)
    blind = evaluate(truths, [_found(), _found()], labels=NAMES, thresholds=0.5)
    assert (good.map50, good.boxes.f1, good.image_types.f1, good.parts.f1, good.macro_f1_boxes) == (1, 1, 1, 1, 1)
    assert (blind.map50, blind.boxes.f1, blind.image_types.f1, blind.parts.f1) == (0, 0, 0, 0)
    assert (good.images, good.clean) == (2, 1)
    assert good.classes["stain"].ap50 is None
    assert good.classes["stain"].truths == 0


def test_thresholds_decide_counts_but_not_map() -> None:
    truths = [_truth((0, 0, 0, 10, 10)), _truth((1, 0, 0, 10, 10)), _truth()]
    found = [
        _found((0, 0.6, 0, 0, 10, 10), (1, 0.4, 0, 0, 10, 10)),
        _found((1, 0.9, 50, 50, 60, 60)),
        _found((2, 0.7, 0, 0, 5, 5)),
    ]
    low = evaluate(truths, found, labels=NAMES, thresholds=0.3)
    high = evaluate(truths, found, labels=NAMES, thresholds=[0.65, 0.5, 0.8, 0.5])
    assert low.map50 == high.map50
    assert low.boxes == DetectionCounts(tp=1, fp=3, fn=1)
    assert high.boxes == DetectionCounts(tp=0, fp=1, fn=2)
    # By image: the wrong place is the right type.
    assert low.image_types == DetectionCounts(tp=2, fp=2, fn=0)
    assert high.image_types == DetectionCounts(tp=1, fp=0, fn=1)
    assert low.parts == DetectionCounts(tp=2, fp=1, fn=0)
    assert high.parts == DetectionCounts(tp=1, fp=0, fn=1)


def test_a_second_box_on_the_same_defect_is_a_false_one_and_rates_of_nothing_are_faultless() -> None:
    found = [_found((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 0, 10, 10))]
    doubled = evaluate([_truth((0, 0, 0, 10, 10))], found, labels=NAMES, thresholds=0.5)
    assert doubled.boxes == DetectionCounts(1, 1, 0)
    empty, counts = DetectionCounts(0, 0, 0), DetectionCounts(tp=3, fp=1, fn=2)
    assert (empty.precision, empty.recall, empty.f1) == (1, 1, 1)
    assert [counts.precision, counts.recall, counts.f1] == pytest.approx([0.75, 0.6, 2 / 3])


def test_the_dictionary_holds_plain_numbers() -> None:
    result = evaluate([_truth((0, 0, 0, 9, 9))], [_found()], labels=NAMES, thresholds=0.5).as_dict()
    assert result["map50"] == 0.0
    assert result["classes"]["hole"]["ap50"] is None
    assert result["classes"]["dent"]["boxes"]["fn"] == 1
    assert all(isinstance(result[key], float) for key in ("map50", "f1", "f1_macro", "f1_boxes", "f1_good_or_bad"))


@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 20)] * 4), min_size=1, max_size=6),
)
def test_overlap_is_symmetric_and_one_with_itself(boxes: list[tuple[int, int, int, int]]) -> None:
    array = np.array([(x, y, x + w + 1, y + h + 1) for x, y, w, h in boxes], np.float32)
    overlap = box_iou(array, array)
    np.testing.assert_allclose(overlap, overlap.T)
    np.testing.assert_allclose(np.diag(overlap), 1)
    assert ((overlap >= 0) & (overlap <= 1)).all()


def test_boxes_without_area_overlap_nothing_and_lists_of_different_length_are_refused() -> None:
    flat = np.array([[5, 5, 5, 5]], np.float32)
    assert box_iou(flat, flat)[0, 0] == 0
    assert not match(flat, flat)[0]
    with pytest.raises(BadInputFormatError, match="1 images"):
        evaluate([_truth()], [], labels=NAMES, thresholds=0.5)
    with pytest.raises(BadInputFormatError, match="1 or 4 numbers"):
        evaluate([_truth()], [_found()], labels=NAMES, thresholds=[0.5, 0.5])
    # Right, wrong, right of two truths: precision 1 up to recall 0.5, then 2/3.
    ap = average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilsons_interval_is_what_scipy_says(confidence: float) -> None:
    for hits, trials in ((0, 15), (1, 15), (7, 15), (15, 15), (3, 1015), (1, 1)):
        theirs = scipy.stats.binomtest(hits, trials).proportion_ci(confidence, method="wilson")
        assert wilson(hits, trials, confidence=confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert wilson(0, 0) == (0.0, 1.0)
    for hits, trials, sure in ((2, 1, 0.95), (-1, 3, 0.95), (1, 2, 1.0)):
        with pytest.raises(BadInputFormatError):
            wilson(hits, trials, confidence=sure)
