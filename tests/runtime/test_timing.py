"""The timer: who is called when, and what is counted."""

from __future__ import annotations

import itertools
from functools import partial

from lineside_runtime.timing import interleave, time_calls, turns


def test_calls_before_the_timed_ones_are_made_and_not_counted() -> None:
    ticks = itertools.count(0, 1_000_000)
    called: list[int] = []
    assert time_calls(lambda: called.append(1), range(2), untimed=3, clock=partial(next, ticks)) == [1.0, 1.0]
    assert len(called) == 5


def test_each_round_begins_with_another_contestant() -> None:
    assert [turns("abc", number) for number in range(3)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_contestants_have_a_turn_each_in_every_round() -> None:
    called: list[str] = []
    rounds = interleave({name: partial(called.append, name) for name in "ab"}, calls_a_turn=2, untimed=1)
    for times_ms in itertools.islice(rounds, 2):
        assert {name: len(some) for name, some in times_ms.items()} == {"a": 2, "b": 2}
    assert "".join(called) == "aaabbb" + "bbbaaa"
