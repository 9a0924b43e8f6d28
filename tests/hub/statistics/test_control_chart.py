"""The p-chart against a published example, and each run rule at the point where it must signal."""

from __future__ import annotations

import math

import pytest

from lineside_hub.statistics.control_chart import Subgroup, p_chart, run_signals
from lineside_runtime.errors import BadInputFormatError

NIST = (12, 15, 8, 10, 4, 7, 16, 9, 14, 10, 5, 6, 17, 12, 22, 8, 10, 5, 13, 11, 20, 18, 24, 15, 9, 12, 7, 13, 9, 6)
"""Defective chips of 50 on each of 30 wafers: NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.3.2."""


def subgroups(rejected: tuple[int, ...], inspected: int) -> list[Subgroup]:
    return [Subgroup(at_ns=number, inspected=inspected, rejected=count) for number, count in enumerate(rejected)]


def test_limits_and_points_beyond_them_are_those_of_the_handbook() -> None:
    chart = p_chart(subgroups(NIST, 50))
    (limits,) = {(point.lower, point.upper) for point in chart.points}
    assert chart.center == pytest.approx(0.2313, abs=5e-5)
    assert limits == pytest.approx((0.0524, 0.4102), abs=5e-5)
    assert [number for number, point in enumerate(chart.points, 1) if 1 in point.signals] == [15, 23]


def test_limits_follow_the_size_of_a_subgroup_and_the_base_sets_them() -> None:
    first, *_, last = p_chart(
        [*subgroups((10,) * 9, 100), Subgroup(at_ns=9, inspected=400, rejected=80)], base=9
    ).points
    assert (first.upper, last.upper) == pytest.approx((0.1 + 3 * 0.03, 0.1 + 3 * 0.015))
    assert 1 in last.signals


def test_laneys_limits_are_as_wide_as_the_subgroups_differ() -> None:
    """30,000 parts an hour whose true share wanders between 2 and 3 %: the binomial limits call every hour abnormal."""
    shares = [0.025 + 0.005 * math.sin(2.4 * number) for number in range(40)]
    wandering = [Subgroup(at_ns=0, inspected=30_000, rejected=round(share * 30_000)) for share in shares]
    plain, laney = p_chart(wandering), p_chart(wandering, laney=True)
    assert sum(1 in point.signals for point in plain.points) > 20
    assert not any(1 in point.signals for point in laney.points)
    ranges = [abs(after.z - before.z) for before, after in zip(plain.points, plain.points[1:], strict=False)]
    assert laney.spread == pytest.approx(sum(ranges) / 39 / 1.128)


FIRST_SIGNAL = {
    1: ([0, 3.1], 1),
    2: ([0.1] * 9, 8),
    3: ([-0.2, -0.1, 0.1, 0.2, 0.3, 0.4], 5),
    4: ([0.1, -0.1] * 7, 13),
    5: ([2.1, 0.0, 2.2], 2),
    6: ([1.1, 1.2, 0.0, 1.1, 1.3], 4),
    7: ([0.5, -0.4, 0.3] * 5, 14),
    8: ([1.5, -1.6] * 4, 7),
}


@pytest.mark.parametrize("rule", FIRST_SIGNAL)
def test_each_rule_signals_at_the_point_that_completes_it(rule: int) -> None:
    scores, at = FIRST_SIGNAL[rule]
    for side in (1, -1):
        found = run_signals([side * score for score in scores])
        assert [number for number, signals in enumerate(found) if rule in signals] == [at]


def test_western_electric_takes_eight_points_on_one_side() -> None:
    assert run_signals([0.5, 0.4] * 4, "western-electric")[-1] == (2,)
    assert run_signals([0.5, 0.4] * 4, "nelson")[-1] == ()


def test_counts_that_make_no_sense_are_refused() -> None:
    for bad in ([], [Subgroup(at_ns=0, inspected=0, rejected=0)], [Subgroup(at_ns=0, inspected=5, rejected=6)]):
        with pytest.raises(BadInputFormatError, match="control chart"):
            p_chart(bad)


@pytest.mark.parametrize("rejected", [0, 1000])
@pytest.mark.parametrize("laney", [False, True])
def test_line_whose_parts_are_all_the_same_has_no_signal(rejected: int, laney: bool) -> None:
    hours = [Subgroup(at_ns=hour, inspected=1000, rejected=rejected) for hour in range(40)]
    chart = p_chart(hours, laney=laney)
    assert {point.signals for point in chart.points} == {()}
    assert {(point.lower, point.upper) for point in chart.points} == {(rejected / 1000, rejected / 1000)}
