"""Intervals of figures and of drops, beside those of scipy and of the long way."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy

from lineside_converters.evaluation.part_verdicts import PartStrengths, rate
from lineside_converters.gates.statistics import (
    drop_of_map50,
    drop_of_mean,
    interval_of_f1,
    interval_of_map50,
    interval_of_ratio,
)
from lineside_models.metrics import evaluate, wilson
from lineside_models.postprocess import Candidates
from lineside_models.simulator import render
from lineside_runtime.errors import BadInputFormatError


def _right(rng: np.random.Generator, frames: int, share: float) -> npt.NDArray[np.float64]:
    return (rng.random(frames) < share).astype(np.float64)


@pytest.mark.parametrize("frames", [30, 400])
def test_interval_of_top1_is_scipys_paired_one(frames: int) -> None:
    rng = np.random.default_rng(frames)
    before = _right(rng, frames, 0.8)
    after = np.where(rng.random(frames) < 0.1, 1 - before, before)
    found = drop_of_mean(before, after, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (before, after),
        lambda a, b, axis=-1: a.mean(axis) - b.mean(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.drop == pytest.approx(before.mean() - after.mean())
    # A mean of 0, 1 and -1 moves in steps of one frame; the interval's ends may land one step apart.
    assert found.low == pytest.approx(theirs.low, abs=1.01 / frames)
    assert found.high == pytest.approx(theirs.high, abs=1.01 / frames)


def test_interval_of_a_cosine_is_the_normal_one_where_frames_are_many() -> None:
    rng = np.random.default_rng(3)
    cosine = np.clip(rng.normal(0.97, 0.02, 2000), -1, 1)
    found = drop_of_mean(np.ones(2000), cosine, resamples=4000)
    half = 1.96 * cosine.std() / math.sqrt(2000)
    assert found.low == pytest.approx(1 - cosine.mean() - half, abs=half * 0.1)
    assert found.high == pytest.approx(1 - cosine.mean() + half, abs=half * 0.1)


def test_pairing_makes_the_interval_narrower_than_judging_apart() -> None:
    rng = np.random.default_rng(4)
    before = _right(rng, 500, 0.7)
    after = before.copy()
    after[:5] = 1 - after[:5]
    paired = drop_of_mean(before, after)
    shuffled = drop_of_mean(before, rng.permutation(after))
    assert paired.high - paired.low < 0.3 * (shuffled.high - shuffled.low)


def test_interval_holds_the_true_drop_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        before = _right(rng, 300, 0.8)
        after = before * (rng.random(300) < 0.95)  # every twentieth right answer is lost: a true drop of 0.04
        found = drop_of_mean(before, after, resamples=300, seed=seed)
        held += found.low <= 0.04 <= found.high
    assert 180 <= held <= 200


def test_the_same_seed_gives_the_same_interval_and_a_model_that_agrees_with_itself_drops_by_nothing() -> None:
    rng = np.random.default_rng(6)
    before, after = rng.random(100), rng.random(100)
    assert drop_of_mean(before, after) == drop_of_mean(before, after)
    assert drop_of_mean(before, after) != drop_of_mean(before, after, seed=21)
    truths, looks, _ = (list(each) for each in zip(*[_scene(rng, blur=4.0) for _ in range(10)], strict=True))
    found = drop_of_map50(truths, looks, looks, types=3, resamples=20)
    assert (found.drop, found.low, found.high, found.frames) == (0, 0, 0, 10)


def test_what_gives_no_interval_is_refused() -> None:
    wrong: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
        ([], [], {}),
        ([1.0, 0.0], [1.0], {}),
        ([1.0, float("nan")], [1.0, 1.0], {}),
        ([[1.0]], [[1.0]], {}),
        ([1.0], [1.0], {"resamples": 0}),
    )
    for before, after, options in wrong:
        with pytest.raises(BadInputFormatError):
            drop_of_mean(before, after, **options)
    with pytest.raises(BadInputFormatError):
        drop_of_map50([], [], [], types=1)


@dataclasses.dataclass
class _Truth:
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def _scene(rng: np.random.Generator, *, blur: float) -> tuple[_Truth, Candidates, Candidates]:
    """One image with a few boxes, and what a good and a somewhat worse model find in it."""
    count = int(rng.integers(0, 5))
    corner = rng.uniform(0, 80, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 30, (count, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, 3, count)
    return _Truth(boxes, labels), _look(rng, boxes, labels, 2.0), _look(rng, boxes, labels, blur)


def _look(rng: np.random.Generator, boxes: npt.NDArray[Any], labels: npt.NDArray[Any], blur: float) -> Candidates:
    moved = boxes + rng.normal(0, blur, boxes.shape)
    stray = rng.uniform(0, 80, (2, 2))
    all_boxes = np.concatenate([moved, np.concatenate([stray, stray + 20], axis=1)]).astype(np.float32)
    return Candidates(
        all_boxes, rng.random(len(all_boxes)).astype(np.float32), np.concatenate([labels, rng.integers(0, 3, 2)])
    )


def test_interval_of_map_is_that_of_judging_every_resample_the_long_way() -> None:
    rng = np.random.default_rng(7)
    scenes = [_scene(rng, blur=4.0) for _ in range(40)]
    truths, before, after = (list(each) for each in zip(*scenes, strict=True))
    found = drop_of_map50(truths, before, after, types=3, resamples=60, seed=9)

    def map50(model: list[Candidates], chosen: npt.NDArray[np.int64]) -> float:
        names = ("dent", "hole", "stain")
        shown = [model[index] for index in chosen]
        return evaluate([truths[index] for index in chosen], shown, labels=names, thresholds=0.5).map50

    draws = np.random.default_rng(9)
    chosen = [draws.integers(40, size=40) for _ in range(60)]
    drops = [map50(before, each) - map50(after, each) for each in chosen]
    assert found.before == pytest.approx(map50(before, np.arange(40)))
    assert found.after == pytest.approx(map50(after, np.arange(40)))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drops, (0.025, 0.975))))
    assert found.low <= found.drop <= found.high


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
