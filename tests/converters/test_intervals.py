from __future__ import annotations

import numpy as np
import pytest
import scipy

from lineside_converters.evaluation.part_verdicts import PartStrengths, rate
from lineside_converters.gates.statistics import interval_of_f1, interval_of_map50, interval_of_ratio
from lineside_models.metrics import evaluate, wilson
from lineside_models.postprocess import Candidates
from lineside_models.simulator import render
from lineside_runtime.errors import BadInputFormatError


def test_the_interval_of_an_f1_is_about_scipys_and_none_without_images() -> None:
    random = np.random.default_rng(3)
    counts = random.integers(0, 3, (80, 3))

    def f1(right: np.ndarray, false: np.ndarray, missed: np.ndarray, axis: int = -1) -> np.ndarray:
        return 2 * right.sum(axis) / (2 * right.sum(axis) + false.sum(axis) + missed.sum(axis))

    theirs = scipy.stats.bootstrap(
        tuple(counts.T), f1, paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=random
    ).confidence_interval
    assert interval_of_f1(counts) == pytest.approx((theirs.low, theirs.high), abs=0.015)
    with pytest.raises(BadInputFormatError):
        interval_of_f1(np.zeros((0, 3)))
    with pytest.raises(BadInputFormatError):
        interval_of_map50([render("steel", 1)], [], types=12)


def test_the_interval_of_map_holds_the_map_and_is_narrower_with_more_images() -> None:
    random = np.random.default_rng(5)
    truths, found = [], []
    for seed in range(60):
        frame = render("steel", seed, defects=2)
        keep = random.random(len(frame.labels)) < 0.7
        truths.append(frame)
        scores = random.random(int(keep.sum())).astype(np.float32)
        found.append(Candidates(frame.boxes[keep], scores, frame.labels[keep]))
    widths = []
    for count in (20, 60):
        low, high = interval_of_map50(truths[:count], found[:count], types=12, resamples=200)
        labels = [str(number) for number in range(12)]
        assert low <= evaluate(truths[:count], found[:count], labels=labels, thresholds=0.5).map50 <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_intervals_by_part_are_those_of_parts_drawn_whole() -> None:
    random = np.random.default_rng(9)
    parts = np.repeat(np.arange(30), 6)
    right = np.repeat(random.integers(0, 2, 30), 6)
    counts = np.stack([right, 1 - right, 1 - right], axis=1)

    def share(of: np.ndarray, axis: int = -1) -> np.ndarray:
        return of.mean(axis)

    theirs = scipy.stats.bootstrap(
        (right[::6],), share, method="percentile", n_resamples=4000, rng=random
    ).confidence_interval
    by_part = interval_of_ratio(right, np.ones(180), parts=parts)
    assert by_part == pytest.approx((theirs.low, theirs.high), abs=0.035)
    assert interval_of_f1(counts, parts=parts) == pytest.approx(by_part, abs=0.02)  # as many wrong ones as missed ones
    by_frame = interval_of_ratio(right, np.ones(180))
    assert by_part[0] < by_frame[0] < by_frame[1] < by_part[1]
    assert interval_of_ratio(right, np.ones(180), parts=np.arange(180)) == by_frame
    assert interval_of_ratio(right, np.ones(180), parts=np.zeros(180)) == by_frame  # one part says nothing of others


def test_rejected_frames_of_few_boards_have_a_wider_interval() -> None:
    strengths = np.repeat([2.0, 0.5, 0.5, 0.5], 20)
    boards = rate("boards", PartStrengths(strengths, [f"{number // 20}" for number in range(80)]), 1.0)
    frames = rate("frames", PartStrengths(strengths, [f"{number}" for number in range(80)]), 1.0)
    assert (boards.rejected, boards.parts) == (frames.rejected, frames.parts) == (20, 80)
    assert (frames.interval.low, frames.interval.high) == wilson(20, 80)
    assert (frames.interval.method, boards.interval.method) == ("wilson", "bootstrap")
    assert boards.interval.low < frames.interval.low < frames.interval.high < boards.interval.high
