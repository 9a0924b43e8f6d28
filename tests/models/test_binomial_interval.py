from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from lineside_models.metrics import share_interval, wilson
from lineside_runtime.errors import BadInputFormatError


@pytest.mark.parametrize(("hits", "trials"), [(0, 15), (1, 15), (7, 15), (15, 15), (3, 1015), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilsons_interval_is_what_scipy_says(hits: int, trials: int, confidence: float) -> None:
    theirs = binomtest(hits, trials).proportion_ci(confidence, method="wilson")
    assert wilson(hits, trials, confidence=confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "trials", "confidence"), [(2, 1, 0.95), (-1, 3, 0.95), (1, 2, 1.0)])
def test_numbers_out_of_range_are_refused(hits: int, trials: int, confidence: float) -> None:
    with pytest.raises(BadInputFormatError):
        wilson(hits, trials, confidence=confidence)


def test_the_interval_of_a_share_holds_it_although_frames_of_a_part_are_alike() -> None:
    """Parts of eight frames, whose shares of rejected frames differ widely."""
    random = np.random.default_rng(4)
    parts = np.repeat(np.arange(30), 8)
    held = {"parts": 0, "frames": 0}
    for _ in range(120):
        hits = random.random(len(parts)) < np.repeat(random.beta(0.3, 0.7, 30), 8)
        for name, (low, high) in {
            "parts": share_interval(hits, parts),
            "frames": wilson(int(hits.sum()), len(hits)),
        }.items():
            held[name] += low <= 0.3 <= high
    assert held["parts"] >= 0.88 * 120 > 0.8 * 120 > held["frames"]


def test_a_part_a_frame_or_no_hit_leave_wilsons_interval() -> None:
    hits = np.arange(20) < 3
    assert share_interval(hits, np.arange(20)) == wilson(3, 20)
    assert share_interval(np.zeros(20, np.bool_), np.repeat(np.arange(4), 5)) == wilson(0, 20)
    assert share_interval(np.zeros(0, np.bool_), []) == (0.0, 1.0)
