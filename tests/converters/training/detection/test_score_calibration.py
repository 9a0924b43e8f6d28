"""Calibrated scores mean what they say, and thresholds separate images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the train extra is not installed")

from lineside_converters.training.detection.bundle_facts import postprocess
from lineside_converters.training.detection.score_calibration import (
    CalibrationFinds,
    apply_map,
    apply_maps,
    calibrate,
    choose_thresholds,
    fit_map,
    logit,
    raw_score,
)
from lineside_models.postprocess import read_params


def drawn(count: int, a: float, b: float, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores whose true probability of being right is sigmoid(a × logit + b)."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.01, 0.95, count)
    return scores, rng.random(count) < apply_map(scores, (a, b))


def finds_of(
    scores: NDArray[np.float64], labels: NDArray[np.int64], right: NDArray[np.bool_], *, classes: int = 2
) -> CalibrationFinds:
    present = np.zeros((len(scores), classes), bool)
    present[np.arange(len(scores)), labels] = right
    return CalibrationFinds(
        scores,
        labels,
        right,
        np.arange(len(scores)),
        present,
        present.sum(axis=0),
    )


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (2.5, 1.0), (0.7, -0.8)])
def test_the_map_that_made_the_data_is_found_again(a: float, b: float) -> None:
    found = fit_map(*drawn(20_000, a, b))
    assert found == pytest.approx((a, b), abs=0.1)


def test_calibrated_scores_are_right_as_often_as_they_say() -> None:
    scores, right = drawn(20_000, 2.0, 1.5, seed=1)
    sure = apply_map(scores, fit_map(scores, right))
    for low in (0.2, 0.5, 0.8):
        among = (sure >= low) & (sure < low + 0.1)
        assert right[among].mean() == pytest.approx(low + 0.05, abs=0.05)


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=1, max_size=40))
def test_a_higher_raw_score_is_never_a_lower_probability(rows: list[tuple[float, bool]]) -> None:
    a, b = fit_map(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))
    assert a > 0 and np.isfinite([a, b]).all()
    raised = apply_map(np.linspace(0.01, 0.99, 20), (a, b))
    assert (np.diff(raised) >= 0).all()


def test_where_high_scores_are_the_wrong_ones_the_map_is_flat_and_right_on_average() -> None:
    scores = np.linspace(0.05, 0.95, 200)
    right = scores < 0.3
    a, b = fit_map(scores, right)
    assert a == pytest.approx(0.1)
    assert apply_map(scores, (a, b)).mean() == pytest.approx(right.mean(), abs=0.02)


def test_labels_with_few_finds_share_one_map_and_without_any_find_scores_stay_as_they_are() -> None:
    scores, right = drawn(400, 2.0, 1.0)
    labels = np.zeros(400, np.int64)
    labels[:4] = 1
    finds = finds_of(scores, labels, right, classes=3)
    maps = calibrate(finds.best, finds.present)
    assert maps[1] == maps[2] == fit_map(scores, right)
    assert maps[0] == fit_map(scores[4:], right[4:])
    empty = finds_of(np.empty(0), np.empty(0, np.int64), np.empty(0, bool))
    assert calibrate(empty.best, empty.present) == ((1.0, 0.0), (1.0, 0.0))
    assert apply_map(np.array([0.3]), (1.0, 0.0)) == pytest.approx(0.3)


def test_loose_boxes_of_a_defect_that_is_there_do_not_lower_its_score() -> None:
    """Crazing has no clear edges: half of its boxes overlap the true one too little, but the verdict is right."""
    rng = np.random.default_rng(5)
    shown = np.arange(400) % 2 == 0
    first = np.where(shown, rng.uniform(0.35, 0.6, 400), rng.uniform(0.02, 0.25, 400))
    finds = CalibrationFinds(
        np.concatenate([first, first / 3]),
        np.zeros(800, np.int64),
        np.concatenate([shown & (rng.random(400) < 0.5), np.zeros(400, bool)]),
        np.tile(np.arange(400), 2),
        shown[:, None],
        np.array([200]),
    )
    sure = apply_maps(finds.best, calibrate(finds.best, finds.present))[:, 0]
    assert (sure[shown] >= 0.9).mean() > 0.9
    assert not (sure[~shown] >= 0.9).any()


@given(st.floats(0.001, 0.999), st.floats(0.2, 5), st.floats(-3, 3))
def test_a_calibrated_score_leads_back_to_its_raw_one(score: float, a: float, b: float) -> None:
    calibrated = float(apply_map(np.array([score]), (a, b))[0])
    if 1e-3 < calibrated < 1 - 1e-3:
        assert raw_score(calibrated, (a, b)) == pytest.approx(score, abs=1e-6)


def test_the_threshold_lies_in_the_middle_of_the_gap_above_false_boxes_and_missed_images_count() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    finds = finds_of(scores, np.zeros(6, np.int64), scores > 0.5)
    assert choose_thresholds(finds, ((1.0, 0.0), (1.0, 0.0))) == pytest.approx((0.5, 0.5))
    shown, right = np.array([[True], [False], [True]]), np.array([True, False])  # the third is never found
    finds = CalibrationFinds(np.array([0.9, 0.4]), np.zeros(2, np.int64), right, np.arange(2), shown, np.array([2]))
    assert 0.4 < choose_thresholds(finds, ((1.0, 0.0),))[0] < 0.9
    # Every image shows the type, so the images alone would take any threshold down to nothing.
    images, scores = np.repeat(np.arange(10), 5), np.tile([0.8, 0.3, 0.25, 0.2, 0.15], 10)
    finds = CalibrationFinds(
        scores, np.zeros(50, np.int64), scores > 0.5, images, np.ones((10, 1), bool), np.array([10])
    )
    assert 0.3 < choose_thresholds(finds, ((1.0, 0.0),))[0] < 0.8


def test_the_threshold_is_the_best_of_all_on_noisy_images() -> None:
    scores, right = drawn(300, 2.0, 0.0, seed=3)
    finds = finds_of(scores, np.zeros(300, np.int64), right)
    chosen = choose_thresholds(finds, ((1.0, 0.0), (1.0, 0.0)))[0]

    def f1(bar: float) -> float:
        found = scores >= bar
        return float(2 * (found & right).sum() / (found.sum() + right.sum()))

    assert f1(chosen) == pytest.approx(max(f1(bar) for bar in np.linspace(0, 1, 2001)), abs=1e-9)


def test_the_bundles_postprocessing_takes_what_was_fitted_and_logits_are_bounded() -> None:
    params = read_params(postprocess(((2.0, 1.0),) * 12, (0.4,) * 12).params)
    assert params.calibration == ((2.0, 1.0),) * 12
    assert params.thresholds == (0.4,) * 12
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
