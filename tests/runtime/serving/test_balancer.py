"""The balancer alone: numbers in, replicas out, and a small simulation of devices at work."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_runtime.serving.balancer import OUTLIER, PROBE_COST, START_CALLS, Balancer, ReplicaLoad, start_shares


def balancer(*shares: float) -> Balancer:
    return Balancer([ReplicaLoad(start_share=share) for share in shares])


def settled(*service_ms: float) -> Balancer:
    """A balancer past its start, with measured replicas and nothing waiting."""
    made = balancer(*[1 / len(service_ms)] * len(service_ms))
    for _ in range(START_CALLS):
        _, index = made.give()
        made.end(index)
    for load, time_ms in zip(made.loads, service_ms, strict=True):
        load.measure(time_ms)
        load.measure(time_ms)
    return made


def simulate(made: Balancer, service_ms: list[float], *, callers: int, until_ms: float) -> Counter[int]:
    """Runs ``callers`` that each give a call when their last is answered; devices serve one call at a time."""
    done: Counter[int] = Counter()
    free_at = [0.0] * len(service_ms)
    events: list[tuple[float, int, int]] = []

    def call(now: float, caller: int) -> None:
        _, index = made.give()
        free_at[index] = max(now, free_at[index]) + service_ms[index]
        heapq.heappush(events, (free_at[index], caller, index))

    for caller in range(callers):
        call(0.0, caller)
    while events[0][0] < until_ms:
        now, caller, index = heapq.heappop(events)
        made.end(index)
        made.loads[index].measure(service_ms[index])
        done[index] += 1
        call(now, caller)
    return done


@pytest.mark.parametrize(("ratio", "on_first"), [(0.6, 12), (0.5, 10), (0.25, 5), (0.9, 18)])
def test_the_first_calls_follow_the_start_shares_to_the_letter(ratio: float, on_first: int) -> None:
    made = balancer(ratio, 1 - ratio)
    chosen = [made.give()[1] for _ in range(START_CALLS)]
    assert Counter(chosen)[0] == on_first


def test_a_start_share_of_zero_is_used_only_if_the_others_are_out() -> None:
    made = balancer(0.0, 1.0)
    assert {made.give()[1] for _ in range(200)} == {1}
    assert made.give(out={1}) == (1, 0)


def test_a_lone_caller_is_given_the_fastest() -> None:
    made = settled(8.0, 2.0)
    for _ in range(50):
        assert made.give()[1] == 1
        made.end(1)


def test_a_call_goes_where_it_is_finished_first() -> None:
    made = settled(6.0, 2.0)
    assert [made.give()[1] for _ in range(5)] == [1, 1, 0, 1, 1]  # 2 and 4 ms, then 6 on both, and the first listed


def test_a_tie_goes_to_the_first() -> None:
    assert settled(3.0, 3.0).give()[1] == 0


def test_many_callers_use_all_devices_at_their_speeds() -> None:
    made = balancer(0.5, 0.5)
    done = simulate(made, [2.0, 6.0], callers=8, until_ms=6_000)
    assert sum(done.values()) == pytest.approx(6_000 / 2 + 6_000 / 6, rel=0.02)  # both are always at work
    assert made.loads[0].share == pytest.approx(0.75, abs=0.05)


def test_a_wrong_start_share_is_moved_to_where_the_devices_are_fast() -> None:
    made = balancer(0.1, 0.9)
    simulate(made, [1.0, 4.0], callers=6, until_ms=2_000)
    assert made.loads[0].share == pytest.approx(0.8, abs=0.06)


def test_shares_follow_a_device_that_becomes_slow_and_fast_again() -> None:
    made = balancer(0.5, 0.5)
    simulate(made, [2.0, 2.0], callers=1, until_ms=500)
    for load in made.loads:
        load.waiting = 0
    simulate(made, [20.0, 2.0], callers=1, until_ms=2_000)
    assert made.loads[0].share < 0.1
    for load in made.loads:
        load.waiting = 0
    simulate(made, [1.0, 2.0], callers=1, until_ms=60_000)
    assert made.loads[0].share > 0.9


def test_looking_again_at_a_slow_device_costs_at_most_its_part_of_the_time() -> None:
    made = settled(40.0, 2.0)
    done = simulate(made, [40.0, 2.0], callers=1, until_ms=100_000)
    assert 0 < done[0] * 40.0 <= 100_000 * PROBE_COST * 1.1


def test_one_hiccup_does_not_turn_a_device_down() -> None:
    load = ReplicaLoad()
    for _ in range(10):
        load.measure(2.0)
    load.measure(500.0)
    assert load.service_ms == pytest.approx(2.0 + 0.2 * (OUTLIER - 1) * 2.0)
    for _ in range(10):
        load.measure(500.0)
    assert load.service_ms > 100


def test_the_first_call_of_a_device_is_cold_and_does_not_count_for_long() -> None:
    load = ReplicaLoad()
    load.measure(900.0)
    assert load.service_ms == 900.0
    load.measure(2.0)
    assert load.service_ms == 2.0


def test_workers_serve_side_by_side() -> None:
    load = ReplicaLoad(workers=2, service_ms=4.0, waiting=1)
    assert load.finish_ms == 4.0
    load.waiting = 2
    assert load.finish_ms == 8.0


def test_what_is_out_gets_nothing_and_the_answer_says_who_was_wanted() -> None:
    made = settled(1.0, 5.0)
    assert made.give(out={0}) == (0, 1)
    assert made.give(out={0, 1}) == (0, 0)


@pytest.mark.parametrize(
    ("kinds", "shares"),
    [
        (["gpu", "cpu"], [0.6, 0.4]),
        (["gpu", "gpu", "cpu"], [0.3, 0.3, 0.4]),
        (["npu", "gpu", "cpu"], [0.2, 0.6, 0.2]),
        (["cpu", "cpu"], [0.5, 0.5]),
        (["gpu", "gpu"], [0.5, 0.5]),
    ],
)
def test_the_gpus_begin_with_gpu_ratio_and_the_others_with_the_rest(kinds: list[str], shares: list[float]) -> None:
    assert start_shares(kinds, 0.6) == pytest.approx(shares)


@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=4),
    st.lists(st.tuples(st.sampled_from(["give", "end", "move"]), st.integers(0, 3), st.floats(0.1, 50)), max_size=200),
)
def test_every_call_is_counted_somewhere_and_shares_add_up(
    shares: list[float], steps: list[tuple[str, int, float]]
) -> None:
    made = balancer(*(share / sum(shares) for share in shares))
    given_to: list[int] = []
    for what, at, time_ms in steps:
        if what == "give":
            given_to.append(made.give()[1])
        elif given_to and what == "end":
            index = given_to.pop(at % len(given_to))
            made.end(index)
            made.loads[index].measure(time_ms)
        elif given_to:
            place, taker = at % len(given_to), at % len(shares)
            made.end(given_to[place])
            made.take(taker)
            given_to[place] = taker
        assert [load.waiting for load in made.loads] == [given_to.count(i) for i in range(len(shares))]
        assert sum(load.share for load in made.loads) == pytest.approx(1)
