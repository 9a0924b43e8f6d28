"""Ask the running contestants for their warm-up, the interleaved rounds and the profile."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from lineside_runtime.benchmark.measurement.contestants import ContestantEntry
from lineside_runtime.benchmark.measurement.process import Process
from lineside_runtime.benchmark.measurement.protocol import Profiled, ProfileTask, Turn, TurnTimed, WarmUp, WarmUpResult
from lineside_runtime.progress import TextListener
from lineside_runtime.timing import turns

TURN_S = 0.02
"""Length of a turn: long enough that its first, untimed call weighs little for a fast model."""

ROUNDS_MIN, ROUNDS_MAX = 20, 100
BUDGET_S = 10.0
"""Where the number of rounds isn't given, as many as fit into this time a contestant, within the limits above."""

PROFILE_RUNS = 50
_PROGRESS_EVERY_S = 2.0


def warm(
    entries: Sequence[ContestantEntry], processes: Sequence[Process], progress: TextListener
) -> list[WarmUpResult]:
    """Warms every contestant until it is stable, or reports that it is not."""
    found = []
    for entry, process in zip(entries, processes, strict=True):
        warmed = process.ask(WarmUp(), WarmUpResult)
        state = "stable" if warmed.stable else "NOT stable, gave up"
        progress(f"{entry.name}: warm after {warmed.calls} calls, {warmed.call_ms:.3f} ms a call, {state}")
        found.append(warmed)
    return found


def calls_in_a_turn(warmed: WarmUpResult, streams: int) -> int:
    """Returns how many calls last `TURN_S` with so many callers; at least one each."""
    return streams * max(1, math.ceil(TURN_S * 1e3 / warmed.call_ms))


def rounds_in_budget(warmed: Sequence[WarmUpResult]) -> int:
    """Returns the number of rounds that fits into `BUDGET_S` for the slowest contestant."""
    slowest_s = max(max(TURN_S, one.call_ms / 1e3) + one.call_ms / 1e3 for one in warmed)
    return max(ROUNDS_MIN, min(ROUNDS_MAX, int(BUDGET_S / slowest_s)))


def run_rounds(
    processes: Sequence[Process], tasks: Sequence[Turn], rounds: int, progress: TextListener
) -> list[list[TurnTimed]]:
    """Times every contestant once in each round; each round begins with another one.

    Returns:
        The turns of each contestant, in the order of the rounds.
    """
    found: list[list[TurnTimed]] = [[] for _ in processes]
    reported_s = time.monotonic()
    for number in range(rounds):
        for who in turns(range(len(processes)), number):
            found[who].append(processes[who].ask(tasks[who], TurnTimed))
        if time.monotonic() - reported_s > _PROGRESS_EVERY_S or number + 1 == rounds:
            reported_s = time.monotonic()
            progress(f"round {number + 1} of {rounds}")
    return found


def profile(
    entries: Sequence[ContestantEntry], processes: Sequence[Process], progress: TextListener
) -> list[Profiled | None]:
    """Asks for the profile of every contestant's engine."""
    found: list[Profiled | None] = []
    for entry, process in zip(entries, processes, strict=True):
        progress(f"{entry.name}: operators ...")
        found.append(process.ask(ProfileTask(runs=PROFILE_RUNS), Profiled))
    return found
