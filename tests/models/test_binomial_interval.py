from __future__ import annotations

import pytest
import scipy

from lineside_models.metrics import wilson
from lineside_runtime.errors import BadInputFormatError


@pytest.mark.parametrize(("hits", "trials"), [(0, 15), (1, 15), (7, 15), (15, 15), (3, 1015), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilsons_interval_is_what_scipy_says(hits: int, trials: int, confidence: float) -> None:
    theirs = scipy.stats.binomtest(hits, trials).proportion_ci(confidence, method="wilson")
    assert wilson(hits, trials, confidence=confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "trials", "confidence"), [(2, 1, 0.95), (-1, 3, 0.95), (1, 2, 1.0)])
def test_numbers_out_of_range_are_refused(hits: int, trials: int, confidence: float) -> None:
    with pytest.raises(BadInputFormatError):
        wilson(hits, trials, confidence=confidence)
