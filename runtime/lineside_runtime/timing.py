"""Time calls fairly on a machine that does other work too.

Contestants have turns, round by round, so that a slow moment hits all of them; their times of one round are a pair. A
turn begins with calls that are not timed: after another contestant's turn the caches hold none of its weights, which a
line that runs one model never meets. Each round begins with another contestant.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")
Clock = Callable[[], int]


def time_calls(
    call: Callable[[], object], repeat: Iterable[object], *, untimed: int = 1, clock: Clock = time.perf_counter_ns
) -> list[float]:
    """Returns the milliseconds of each call.

    Args:
        repeat: One timed call for each item, such as ``range(5)``.
        untimed: Calls before them that are not timed.
        clock: In nanoseconds.
    """
    for _ in range(untimed):
        call()
    times_ms = []
    for _ in repeat:
        began_ns = clock()
        call()
        times_ms.append((clock() - began_ns) / 1e6)
    return times_ms


def turns(contestants: Sequence[K], number: int) -> list[K]:
    """Returns the contestants in the order of their turns in a round: each round begins with another one."""
    first = number % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def interleave(
    calls: Mapping[K, Callable[[], object]],
    *,
    calls_a_turn: int = 1,
    untimed: int = 1,
    clock: Clock = time.perf_counter_ns,
) -> Iterator[dict[K, list[float]]]:
    """Yields round after round, without end, the milliseconds of each contestant's calls.

    Args:
        calls: What is timed, by the contestant's name.
        calls_a_turn: Timed calls of a turn.
        untimed: Calls that begin a turn and are not timed.
        clock: In nanoseconds; ``time.thread_time_ns`` for what runs in this thread alone on a busy machine.
    """
    names = list(calls)
    for number in itertools.count():
        yield {
            name: time_calls(calls[name], range(calls_a_turn), untimed=untimed, clock=clock)
            for name in turns(names, number)
        }
