"""How the benchmark ``placement`` judges."""

from __future__ import annotations

import random

import pytest

from benchmarks.runtime.placement import BAR, BLOCKS, Interval, is_clear, student_interval

RUNS = 2000


@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_interval_holds_the_true_ratio_in_nineteen_of_twenty_runs(blocks: int) -> None:
    chance = random.Random(blocks)
    found = [student_interval([chance.gauss(0.0, 0.03) for _ in range(blocks)]) for _ in range(RUNS)]
    assert sum(one.low <= 1 <= one.high for one in found) / RUNS == pytest.approx(0.95, abs=0.015)


def test_it_is_clear_which_side_of_the_bar_the_plan_is_on() -> None:
    faster = 1 / BAR
    assert is_clear(Interval(1.0, 0.99, 1.01)) and is_clear(Interval(0.95, 0.93, 0.97))
    assert not is_clear(Interval(faster, 0.97, 0.99)) and not is_clear(Interval(1.0, 0.97, 1.03))
