"""Which ways are timed on and which one is chosen, by drawn times as a shared machine gives them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from lineside_runtime.planning import Objective, ServingPlan
from lineside_runtime.planning.selection import (
    FRAMES_LEAST,
    ROUNDS_MAX,
    TimedWay,
    choose,
    fastest,
    frames_of_round,
    left_after,
    promising,
    ratio,
)

MANY, ONE_AT_A_TIME = Objective(kind="throughput"), Objective()

RESNET50 = ((1, 44.2), (1, 41.6), (2, 39.7), (2, 40.3), (2, 40.7), (2, 45.5), (2, 46.7))
"""Calls at once and milliseconds a frame, the configured way first: ResNet-50 on two cores, as `placement` timed it."""

NOISE = 0.12
"""Standard deviation of a single frame's time, as a share."""

RACES = 60


class Race(NamedTuple):
    """What came of drawn rounds.

    Attributes:
        over_best: Time of the chosen way in that of the fastest one.
        left_s: Time that was not used.
        rounds: Of each way.
    """

    over_best: float
    left_s: float
    rounds: list[int]


def timed(*times: tuple[int, float]) -> list[TimedWay]:
    ways = [
        ServingPlan(kind="device", devices=(str(number),), workers=calls) for number, (calls, _) in enumerate(times)
    ]
    return [TimedWay(way, ms) for way, (_, ms) in zip(ways, times, strict=True)]


def race(times: Sequence[tuple[int, float]], left_s: float, seed: int) -> Race:
    """Draws the times of turns, as the planner would measure them until the time is up."""
    chance, all_ways = random.Random(seed), timed(*times)
    running, true_ms = promising(all_ways, MANY, left_s), {one: one.frame_ms for one in all_ways}
    for number in range(ROUNDS_MAX):
        frames = frames_of_round(running, number, MANY, left_s)
        if sum(one.turn_ms(frames, MANY) for one in running) > left_s * 1e3:
            break
        slow = 1.3 if chance.random() < 0.1 else 1.0  # a neighbour takes the machine for a whole round
        for one in running:
            spike = 1.5 if chance.random() < 0.03 else 1.0
            one.scores_ms[number] = true_ms[one] * slow * spike * math.exp(chance.gauss(0, NOISE / frames**0.5))
            left_s -= (one.turn_calls * one.way.calls_at_once + frames) * one.scores_ms[number] / 1e3
            one.frame_ms = statistics.median(one.scores_ms.values())
        running = left_after(running, number + 1)
    chosen, _ = choose([one for one in all_ways if one.scores_ms])
    return Race(true_ms[chosen] / min(true_ms.values()), left_s, [len(one.scores_ms) for one in all_ways])


def test_ways_of_a_slow_network_that_differ_by_ten_percent_are_told_apart_in_fifteen_seconds() -> None:
    races = [race(RESNET50, 15.0, seed) for seed in range(RACES)]
    within = sum(one.over_best <= 1.02 for one in races) / RACES
    assert within >= 0.75  # rounds of four frames for all ways: 0.53
    assert statistics.fmean(one.over_best for one in races) < 1.02
    assert min(one.left_s for one in races) > -1.0  # of a round that a neighbour makes 1.3 times as long


def test_after_the_pilot_the_time_is_for_the_ways_that_may_be_the_fastest() -> None:
    one = race([(1, 41.0), (1, 44.0), (2, 80.0), (2, 81.0), (2, 82.0)], 15.0, seed=1)
    assert max(one.rounds[2:]) <= 5
    assert min(one.rounds[:2]) > 10
    equal = race([(1, 41.0), (1, 41.5), (1, 41.2)], 15.0, seed=1)
    assert min(equal.rounds) == max(equal.rounds)


def test_ways_that_cannot_be_told_apart_leave_the_configured_one() -> None:
    races = [race([(1, 40.0), *[(2, 40.0)] * 4], 15.0, seed) for seed in range(RACES)]
    assert all(one.over_best == 1.0 for one in races)
    configured, other = timed((1, 40.0), (1, 40.0))
    configured.scores_ms |= dict(enumerate([40.0, 44.0, 41.0, 43.0, 40.0, 42.0, 41.0, 40.0]))
    other.scores_ms |= dict(enumerate([38.0, 45.0, 42.0, 40.0, 41.0, 40.0, 42.0, 39.0]))
    assert choose([configured, other])[0] is configured


def test_one_device_is_preferred_to_replicas_that_are_not_surely_faster() -> None:
    configured, device, replicas = timed((1, 60.0), (1, 40.0), (1, 39.0))
    replicas.way = ServingPlan(kind="replicas", devices=("a", "b"))
    configured.scores_ms |= dict(enumerate([60.0] * 8))
    device.scores_ms |= dict(enumerate([40.0, 41.0, 39.0, 40.0, 42.0, 40.0, 41.0, 40.0]))
    replicas.scores_ms |= dict(enumerate([39.0, 40.0, 42.0, 39.0, 41.0, 43.0, 40.0, 41.0]))
    assert fastest([configured, device, replicas]) is replicas
    assert choose([configured, device, replicas])[0] is device
    replicas.scores_ms |= dict(enumerate([35.0] * 8))
    assert choose([configured, device, replicas])[0] is replicas


def test_a_way_that_one_slow_moment_hit_stays() -> None:
    best, hit, slower = timed((1, 40.0), (1, 40.0), (1, 50.0))
    best.scores_ms |= dict(enumerate([40.0, 41.0, 40.5]))
    hit.scores_ms |= dict(enumerate([40.5, 80.0, 40.0]))
    slower.scores_ms |= dict(enumerate([50.0, 51.5, 50.4]))
    assert left_after([best, hit, slower], 3) == [best, hit]
    assert left_after([slower, hit, best], 3) == [slower, hit, best]  # the first one is what the others have to beat


def test_a_network_so_slow_that_not_all_ways_can_be_measured_is_given_the_most_promising_ones() -> None:
    ways = timed((1, 900.0), (2, 950.0), (1, 400.0), (2, 700.0), (1, 3000.0))
    left = promising(ways, ONE_AT_A_TIME, 30.0)
    assert left == [ways[0], ways[2]]
    assert frames_of_round(left, 0, ONE_AT_A_TIME, 30.0) >= FRAMES_LEAST
    assert promising(ways, ONE_AT_A_TIME, 600.0) == ways


def test_fast_networks_have_rounds_as_long_as_before_and_two_untimed_calls() -> None:
    ways = timed((1, 4.0), (2, 3.0), (1, 5.0))
    assert [one.turn_calls for one in ways] == [2, 2, 2]
    assert 25 <= frames_of_round(ways, 0, ONE_AT_A_TIME, 15.0) <= 66
    assert [one.turn_calls for one in timed((1, 42.0), (2, 40.0))] == [1, 1]


def test_two_ways_are_compared_with_each_other_and_not_with_a_third_whose_frames_pile_up() -> None:
    configured, one, other = timed((1, 10.0), (1, 5.0), (1, 5.0))
    for way, times in ((configured, [10.0, 10.0, 100.0]), (one, [5.0, 9.0, 9.0]), (other, [4.9, 8.0, 60.0])):
        way.scores_ms |= dict(enumerate(times))
    assert ratio(one, configured) < ratio(other, configured)
    assert ratio(other, one) < 1 and fastest([configured, one, other]) is other
