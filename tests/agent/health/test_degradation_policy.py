"""The policy: when a step is taken and taken back, for any course of heat and lateness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_agent.health.degradation_policy import DegradationLimits, DegradationPolicy, LoadSample, Step

BARS = DegradationLimits(hot_c=75.0, cool_c=67.0, late_share=0.1, hold_s=10.0, relief_s=60.0)
ALL: tuple[Step, ...] = ("images", "variant", "rate")


def climb(policy: DegradationPolicy, load: LoadSample, *times_s: float, possible: tuple[Step, ...] = ALL) -> list[int]:
    found = []
    for now_s in times_s:
        policy.check(load, possible, now_s)
        found.append(len(policy.steps))
    return found


def test_each_further_step_needs_strain_without_a_break() -> None:
    policy = DegradationPolicy(ALL, BARS)
    hot = LoadSample(temperature_c=76.0)
    assert climb(policy, hot, 0.0, 9.9, 10.0, 19.9, 20.0, 30.0, 99.0) == [0, 0, 1, 1, 2, 3, 3]
    assert policy.steps == ALL
    assert policy.why == "76 °C, hot from 75 °C on"


def test_a_step_is_taken_back_after_relief_without_a_break_one_at_a_time() -> None:
    policy = DegradationPolicy(ALL, BARS)
    climb(policy, LoadSample(temperature_c=80.0), 0.0, 10.0, 20.0)
    assert climb(policy, LoadSample(temperature_c=60.0), 30.0, 89.9, 90.0, 149.9, 150.0) == [2, 2, 1, 1, 0]
    assert policy.why == ""


def test_between_the_bars_nothing_changes_and_every_wait_begins_anew() -> None:
    policy = DegradationPolicy(ALL, BARS)
    climb(policy, LoadSample(temperature_c=80.0), 0.0, 10.0)
    warm, cool = LoadSample(temperature_c=70.0), LoadSample(temperature_c=60.0)
    assert climb(policy, warm, 20.0, 1000.0) == [1, 1]
    assert climb(policy, cool, 1010.0, 1060.0) == [1, 1]
    assert climb(policy, warm, 1065.0) == [1]
    assert climb(policy, cool, 1070.0, 1129.0, 1130.0) == [1, 1, 0]


def test_what_a_board_says_of_now_counts_and_not_what_once_was() -> None:
    policy = DegradationPolicy(ALL, BARS)
    assert climb(policy, LoadSample(throttling=("throttled since it was started",)), 0.0, 99.0) == [0, 0]
    assert climb(policy, LoadSample(throttling=("throttled now",)), 100.0, 110.0) == [0, 1]
    assert policy.why == "throttled now"


def test_late_parts_count_and_a_line_without_parts_is_not_late() -> None:
    policy = DegradationPolicy(ALL, BARS)
    assert climb(policy, LoadSample(late_share=0.1), 0.0, 10.0) == [0, 1]
    assert climb(policy, LoadSample(late_share=0.07), 20.0, 200.0) == [1, 1]
    assert climb(policy, LoadSample(late_share=None), 210.0, 270.0) == [1, 0]


def test_what_cannot_be_given_up_is_no_step_and_goes_when_it_cannot_any_more() -> None:
    policy = DegradationPolicy(ALL, BARS)
    hot = LoadSample(temperature_c=80.0)
    assert climb(policy, hot, 0.0, 10.0, 20.0, 30.0, possible=("images", "variant")) == [0, 1, 2, 2]
    policy.check(hot, ("images",), 31.0)  # another bundle, without a faster variant
    assert policy.steps == ("images",)


@pytest.mark.parametrize("order", [(), ("variant",)])
def test_only_what_the_configuration_gives_up(order: tuple[Step, ...]) -> None:
    policy = DegradationPolicy(order, BARS)
    climb(policy, LoadSample(temperature_c=99.0), *map(float, range(0, 200, 10)))
    assert policy.steps == order


_strains = st.builds(
    LoadSample,
    temperature_c=st.none() | st.floats(0, 120),
    throttling=st.sampled_from([(), ("throttled now",), ("throttled since it was started",)]),
    late_share=st.none() | st.floats(0, 1),
)


@given(st.lists(st.tuples(_strains, st.floats(0.1, 30)), max_size=60))
def test_no_step_comes_sooner_than_its_wait_and_never_two_at_once(course: list[tuple[LoadSample, float]]) -> None:
    policy, now_s, changed_s = DegradationPolicy(ALL, BARS), 0.0, 0.0
    for load, after_s in course:
        now_s += after_s
        before = len(policy.steps)
        changed = policy.check(load, ALL, now_s)
        step = len(policy.steps) - before
        assert changed == (step != 0) and abs(step) <= 1
        if step:
            assert now_s - changed_s >= min(BARS.hold_s, BARS.relief_s) - 1e-6
            changed_s = now_s
