"""Paired comparisons of a candidate with the deployed bundle, and what is offered of them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from lineside_converters.evolution.latency_comparison import LatencyComparison, compared_times
from lineside_converters.evolution.report import judge_candidate
from lineside_converters.evolution.verdict_comparison import VerdictComparison, compared, compared_error


def errors(both: int, mended: int, new: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = [True] * (both + mended) + [False] * (new + neither)
    after = [True] * both + [False] * mended + [True] * new + [False] * neither
    return np.array(before, bool), np.array(after, bool)


def test_the_interval_is_that_of_the_papers_example() -> None:
    before, after = errors(36, 12, 2, 0)  # Newcombe 1998, table II: 0.2000, 0.0569 to 0.3404
    found = compared_error(after, before, np.arange(50)).difference
    assert [found.value, found.low, found.high] == pytest.approx([0.2, 0.0569, 0.3404], abs=1e-4)


def test_few_changes_are_not_shown_and_frames_of_one_part_count_as_one() -> None:
    before, after = errors(0, 4, 0, 46)
    assert compared_error(before, after, np.arange(50)).difference.high > 0  # 4 against 0: by chance in 1 of 16
    before, after = errors(0, 12, 0, 38)
    apart = compared_error(before, after, np.arange(50))
    together = compared_error(before, after, np.arange(50) // 12)  # all twelve are frames of one part
    assert apart.difference.high < 0 <= together.difference.high
    assert (apart.mended, apart.new, apart.before, apart.after) == (12, 0, 12, 0)
    nothing = compared_error(*errors(0, 0, 0, 0), np.arange(0)).difference
    assert (nothing.low, nothing.high) == (-1.0, 1.0)


def verdicts(bad: int, mended: int, *, good: int = 40, rejected: int = 0) -> VerdictComparison:
    """Of so many bad frames the deployed bundle misses the first ones, the candidate none; it rejects good ones."""
    truth = np.array([True] * bad + [False] * good)
    before = np.array(["good"] * mended + ["bad"] * (bad - mended) + ["good"] * good)
    after = np.array(["bad"] * bad + ["bad"] * rejected + ["unsure"] * (good - rejected))
    names = [str(number) for number in range(len(truth))]
    return compared(truth, before, after, parts=names, sources=["a"] * bad + ["b"] * good)


def test_unsure_parts_are_neither_escapes_nor_false_rejects_and_the_error_is_the_mean_of_both_rates() -> None:
    found = verdicts(20, 10, rejected=4)
    assert found.false_rejects is not None
    assert (found.escapes.before, found.escapes.after) == (10, 0)
    assert (found.false_rejects.before, found.false_rejects.after) == (0, 4)
    assert found.error.value == pytest.approx((-0.5 + 0.1) / 2)
    assert found.error.low < found.error.value < found.error.high
    assert [(each.source, each.bad, each.good, each.false_rejects) for each in found.sources] == [
        ("a", 20, 0, (0, 0)),
        ("b", 0, 40, (0, 4)),
    ]
    alone = verdicts(20, 10, good=0)
    assert alone.false_rejects is None and alone.error == alone.escapes.difference


def times(ratio: float, spread: float = 0.01) -> LatencyComparison:
    rng = np.random.default_rng(0)
    before = 10 + rng.normal(0, 0.1, (3, 20))
    return compared_times(before, before * ratio * (1 + rng.normal(0, spread, (3, 20))), where="here", what="verdict")


def test_a_ratio_of_times_has_an_interval_of_its_rounds() -> None:
    found = times(0.8)
    assert found.low < 0.8 < found.high and found.high - found.low < 0.02
    assert found.after_ms / found.before_ms == pytest.approx(0.8, abs=0.02)


def test_only_a_better_candidate_is_offered() -> None:
    same, better = verdicts(40, 0), verdicts(40, 20)

    def offered(found: VerdictComparison, latency: LatencyComparison, max_drop: float = 0.02) -> tuple[bool, str]:
        return judge_candidate(found, latency, max_drop=max_drop)

    assert offered(better, times(1.0))[0]
    assert "it is slower" in offered(better, times(1.5))[1]
    assert offered(same, times(0.8))[0]
    assert not offered(same, times(0.99))[0]
    assert "neither" in offered(same, times(1.0, spread=0.3))[1]
    worse = verdicts(40, 0, rejected=3)
    assert not offered(worse, times(0.8))[0] and offered(worse, times(0.8), max_drop=0.05)[0]
    assert not offered(verdicts(40, 0, rejected=20), times(0.5), max_drop=1.0)[0]
    more = msgspec.structs.replace(better, escapes=compared_error(*errors(0, 0, 20, 20), np.arange(40)))
    assert "more bad parts pass" in offered(more, times(0.5), max_drop=1.0)[1]
