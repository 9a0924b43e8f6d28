"""Timing two or more things fairly on a shared, noisy machine."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.smoke import scaled
from lineside_runtime.timing import interleave, time_calls

WARM_UP = scaled(10, smoke=1)


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = WARM_UP,
    block: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, list[float]]:
    """Times every call once a round, in turn, so that a slow moment hits all of them.

    Args:
        calls: Name to what is timed.
        rounds: How often each is timed.
        warm_up: Calls of each that are not counted.
        block: Calls of each in a row, for what takes microseconds and is slowed down by what ran before it.
        clock: In nanoseconds; ``time.thread_time_ns`` for what runs in this thread alone on a busy machine.

    Returns:
        Milliseconds by name, ``block`` a round.
    """
    for call in calls.values():
        time_calls(call, (), untimed=warm_up)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for times_ms in itertools.islice(interleave(calls, calls_a_turn=block, untimed=0, clock=clock), rounds):
        for name, some in times_ms.items():
            found[name] += some
    return found


def median_ratio(of: list[float], to: list[float]) -> float:
    """Returns the median of the ratios of a round: what stays true when the machine's speed drifts."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def spread(times: list[float]) -> dict[str, float]:
    """Returns median, 5th and 95th percentile in milliseconds."""
    cuts = statistics.quantiles(times, n=20)
    return {"p5": round(cuts[0], 4), "p50": round(statistics.median(times), 4), "p95": round(cuts[-1], 4)}
