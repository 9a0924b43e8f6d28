"""The ladder: when a step is taken and taken back, for any course of heat and lateness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_agent.health.degradation_policy import DegradationLimits, DegradationPolicy, Step, Strain

BARS = DegradationLimits(hot_c=75.0, cool_c=67.0, late_share=0.1, hold_s=10.0, relief_s=60.0)
ALL: tuple[Step, ...] = ("images", "variant", "rate")


def climb(ladder: DegradationPolicy, strain: Strain, *times_s: float, possible: tuple[Step, ...] = ALL) -> list[int]:
    found = []
    for now_s in times_s:
        ladder.look(strain, possible, now_s)
        found.append(len(ladder.steps))
    return found


def test_each_further_step_needs_strain_without_a_break() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    hot = Strain(temperature_c=76.0)
    assert climb(ladder, hot, 0.0, 9.9, 10.0, 19.9, 20.0, 30.0, 99.0) == [0, 0, 1, 1, 2, 3, 3]
    assert ladder.steps == ALL
    assert ladder.why == "76 °C, hot from 75 °C on"


def test_a_step_is_taken_back_after_relief_without_a_break_one_at_a_time() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    climb(ladder, Strain(temperature_c=80.0), 0.0, 10.0, 20.0)
    assert climb(ladder, Strain(temperature_c=60.0), 30.0, 89.9, 90.0, 149.9, 150.0) == [2, 2, 1, 1, 0]
    assert ladder.why == ""


def test_between_the_bars_nothing_changes_and_every_wait_begins_anew() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    climb(ladder, Strain(temperature_c=80.0), 0.0, 10.0)
    warm, cool = Strain(temperature_c=70.0), Strain(temperature_c=60.0)
    assert climb(ladder, warm, 20.0, 1000.0) == [1, 1]
    assert climb(ladder, cool, 1010.0, 1060.0) == [1, 1]
    assert climb(ladder, warm, 1065.0) == [1]
    assert climb(ladder, cool, 1070.0, 1129.0, 1130.0) == [1, 1, 0]


def test_what_a_board_says_of_now_counts_and_not_what_once_was() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    assert climb(ladder, Strain(throttling=("throttled since it was started",)), 0.0, 99.0) == [0, 0]
    assert climb(ladder, Strain(throttling=("throttled now",)), 100.0, 110.0) == [0, 1]
    assert ladder.why == "throttled now"


def test_late_parts_count_and_a_line_without_parts_is_not_late() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    assert climb(ladder, Strain(late_share=0.1), 0.0, 10.0) == [0, 1]
    assert climb(ladder, Strain(late_share=0.07), 20.0, 200.0) == [1, 1]
    assert climb(ladder, Strain(late_share=None), 210.0, 270.0) == [1, 0]


def test_what_cannot_be_given_up_is_no_step_and_goes_when_it_cannot_any_more() -> None:
    ladder = DegradationPolicy(ALL, BARS)
    hot = Strain(temperature_c=80.0)
    assert climb(ladder, hot, 0.0, 10.0, 20.0, 30.0, possible=("images", "variant")) == [0, 1, 2, 2]
    ladder.look(hot, ("images",), 31.0)  # another bundle, without a faster variant
    assert ladder.steps == ("images",)


@pytest.mark.parametrize("order", [(), ("variant",)])
def test_only_what_the_configuration_gives_up(order: tuple[Step, ...]) -> None:
    ladder = DegradationPolicy(order, BARS)
    climb(ladder, Strain(temperature_c=99.0), *map(float, range(0, 200, 10)))
    assert ladder.steps == order


_strains = st.builds(
    Strain,
    temperature_c=st.none() | st.floats(0, 120),
    throttling=st.sampled_from([(), ("throttled now",), ("throttled since it was started",)]),
    late_share=st.none() | st.floats(0, 1),
)


@given(st.lists(st.tuples(_strains, st.floats(0.1, 30)), max_size=60))
def test_no_step_comes_sooner_than_its_wait_and_never_two_at_once(course: list[tuple[Strain, float]]) -> None:
    ladder, now_s, changed_s = DegradationPolicy(ALL, BARS), 0.0, 0.0
    for strain, after_s in course:
        now_s += after_s
        before = len(ladder.steps)
        changed = ladder.look(strain, ALL, now_s)
        step = len(ladder.steps) - before
        assert changed == (step != 0) and abs(step) <= 1
        if step:
            assert now_s - changed_s >= min(BARS.hold_s, BARS.relief_s) - 1e-6
            changed_s = now_s
