"""Decide which ways of serving are timed further, how many frames they are given, and which of them is chosen.

It holds no session and reads no clock: the planner times the ways, and asks here after each round.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import TypeVar

from lineside_runtime.benchmark.summary_statistics import interquartile_mean
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, Objective, ServingPlan

SAME = 0.01
"""Ways whose times are this near are equally fast."""

ROUNDS_SHORT, ROUNDS_MIN, ROUNDS_MAX = 4, 7, 60
HOPELESS = {3: 1.6, ROUNDS_MIN: 1.3}
"""Number of rounds to how many times the best one's time: a way that takes more after them is measured no longer. The
configured way, with which the others are compared, is measured to the end."""

PILOT_ROUNDS, CLEAR_ERRORS = 4, 3.0
"""Rounds before a way is dropped for being slower by more than the noise, and the standard errors that this means."""

SURE_ERRORS = 1.5
"""Standard errors by which a way has to be faster to be taken in place of a simpler one."""

ROUND_S, SLOWEST_ROUND_S = 0.1, 0.3
"""Time of a round of the fastest way, and most time of the slowest one's."""

FRAMES_MIN, FRAMES_AT_RATE_MIN, FRAMES_MAX = 3, 8, 100
"""Frames of a turn. Short turns lie near together, so that the speed of the machine is the same for a pair of them; at
a rate, frames have to wait for one another as they do on a line."""
FRAMES_LEAST = 2
"""Frames of a turn, or of each call at once, where the time given is too short for `ROUNDS_MIN` rounds."""

TURN_CALLS, TURN_WARM_S = 2, 0.03
"""Most untimed calls of a turn, for each call at once, and the time after which no second one is needed."""

BUSY = 0.5
"""Share of the time in which a device computes, from which on most frames come while another one is computed."""

FILLED = 0.9
"""Share of the time left that the rounds to come are to take, so that a slow moment does not cost the last one."""


@dataclasses.dataclass(slots=True, eq=False)
class TimedWay:
    """A way of serving, and what was measured of it.

    Attributes:
        serial: Whether it runs one call after the other.
        frame_ms: About what a frame takes; 0 before the pilot.
        scores_ms: By the number of the round.
    """

    way: ServingPlan = AS_CONFIGURED
    serial: bool = False
    frame_ms: float = 0.0
    scores_ms: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def turn_calls(self) -> int:
        """Untimed calls at the beginning of a turn, for each call at once."""
        call_ms = self.frame_ms * self.way.calls_at_once
        return min(TURN_CALLS, max(1, math.ceil(TURN_WARM_S * 1e3 / call_ms))) if call_ms else TURN_CALLS

    def turn_ms(self, frames: int, objective: Objective) -> float:
        """Returns about how long a turn takes."""
        calls = self.way.calls_at_once
        untimed = self.turn_calls * calls + (calls - 1 if objective.kind == "throughput" else 0)
        return untimed * self.frame_ms + frames * self._apart_ms(objective)

    def _apart_ms(self, objective: Objective) -> float:
        return max(self.frame_ms, 1e3 / objective.rate_hz if objective.rate_hz is not None else 0.0)


Way = TypeVar("Way", bound=TimedWay)


def promising(ways: Sequence[Way], objective: Objective, left_s: float) -> list[Way]:
    """Returns the ways that the time left suffices for: the configured one, and the fastest of the pilot.

    Args:
        ways: The configured one first.
        left_s: Time for `ROUNDS_MIN` rounds.
    """
    others = sorted(ways[1:], key=lambda one: one.frame_ms)
    kept, frames = [ways[0]], _frames_least(ways, objective)
    for one in others:
        if ROUNDS_MIN * _round_ms([*kept, one], frames, objective) > left_s * 1e3 and len(kept) > 1:
            break
        kept.append(one)
    return [one for one in ways if one in kept]


def pace(running: Sequence[TimedWay], number: int, objective: Objective) -> Objective:
    """Returns the objective by which the frames of round ``number`` are given.

    At a rate, ways that run one call after the other get theirs one at a time, and what each frame would have waited is
    computed: shorter turns near together tell ways apart that differ by less. The first rounds are at the rate, and all
    are where most frames find an idle device: its first call after a pause may take longer.
    """
    rate_hz = objective.rate_hz
    if rate_hz is None or number < PILOT_ROUNDS:
        return objective
    busy = all(one.serial and rate_hz * one.frame_ms >= BUSY * 1e3 for one in running)
    return Objective() if busy else objective


def frames_of_round(running: Sequence[TimedWay], number: int, objective: Objective, left_s: float) -> int:
    """Returns how many frames each way is given in round ``number``: more of them where fewer ways are left."""
    times = [one.frame_ms for one in running]
    least = FRAMES_MIN if objective.rate_hz is None else FRAMES_AT_RATE_MIN
    fitting = max(least, int(min(ROUND_S * 1e3 / min(times), SLOWEST_ROUND_S * 1e3 / max(times))))
    rounds = max(ROUNDS_MIN - number, int(left_s * 1e3 / _round_ms(running, fitting, objective)), 1)
    no_frame_ms = _round_ms(running, 0, objective)
    affordable = (left_s * FILLED * 1e3 / rounds - no_frame_ms) / (_round_ms(running, 1, objective) - no_frame_ms)
    frames = int(min(FRAMES_MAX, max(_frames_least(running, objective), min(affordable, 2 * fitting))))
    return frames - frames % _in_step(running, objective)


def left_after(running: Sequence[Way], rounds: int) -> list[Way]:
    """Returns the ways that are timed further after so many rounds: the first one, and those that may be the fastest.

    Args:
        running: The configured one first, unless it can't serve.
    """
    best = fastest(running)
    limit = min((times for after, times in HOPELESS.items() if rounds >= after), default=math.inf)
    noise = statistics.median_low([_spread(one, best) for one in running if one is not best] or [0.0])
    return [
        one
        for number, one in enumerate(running)
        if number == 0 or one is best or (ratio(one, best) <= limit and not _clearly_slower(one, best, noise))
    ]


def choose(able: Sequence[Way]) -> tuple[Way, Way]:
    """Returns the way to serve, and the fastest one, of the first and those that are surely faster than it.

    A simpler kind than that of the fastest way is taken if it is as fast, or not surely slower.
    """
    eligible = [one for one in able if one is able[0] or _surely_faster(one, able[0])]
    best = fastest(eligible)
    near = [one for one in eligible if ratio(one, best) <= 1 + SAME or not _surely_faster(best, one)]
    alike = [one for one in near if one.way.kind == near[0].way.kind]
    fastest_alike = fastest(alike)
    return next(one for one in alike if ratio(one, fastest_alike) <= 1 + SAME), best


def fastest(ways: Sequence[Way]) -> Way:
    """Returns the fastest of those that were measured to the end: no other takes less time in most of the rounds.

    Ratios to a third way don't tell it. A way whose frames pile up takes very different times from round to round.
    """
    most = max(len(one.scores_ms) for one in ways)
    whole = [one for one in ways if len(one.scores_ms) == most]
    return min(whole, key=lambda one: max(ratio(one, other) for other in whole))


def ratio(one: TimedWay, other: TimedWay) -> float:
    """Returns how many times the other's time one takes in a round: the interquartile mean over their common rounds."""
    return math.exp(interquartile_mean(_log_ratios(one, other))[0])


def _surely_faster(one: TimedWay, other: TimedWay) -> bool:
    """Whether it is faster by more than `SURE_ERRORS` standard errors; with few rounds, in all of them."""
    log_ratios = _log_ratios(one, other)
    if len(log_ratios) < ROUNDS_MIN:
        return len(log_ratios) >= ROUNDS_SHORT and max(log_ratios) < 0
    mean, error = interquartile_mean(log_ratios)
    return mean + SURE_ERRORS * error < 0


def _clearly_slower(one: TimedWay, best: TimedWay, noise: float) -> bool:
    """Whether it is slower by more than `CLEAR_ERRORS` standard errors, of its own noise or that of all ways.

    The interquartile mean of so few rounds would have a standard error that is small by chance.
    """
    log_ratios = _log_ratios(one, best)
    if len(log_ratios) < PILOT_ROUNDS:
        return False
    error = max(_spread(one, best), noise) / math.sqrt(len(log_ratios))
    return statistics.fmean(log_ratios) > math.log1p(SAME) + CLEAR_ERRORS * error


def _spread(one: TimedWay, best: TimedWay) -> float:
    """Returns the standard deviation of the logarithm of a round's ratio."""
    log_ratios = _log_ratios(one, best)
    return statistics.stdev(log_ratios) if len(log_ratios) > 1 else math.inf


def _log_ratios(one: TimedWay, other: TimedWay) -> list[float]:
    common = one.scores_ms.keys() & other.scores_ms.keys()
    return [math.log(one.scores_ms[number] / other.scores_ms[number]) for number in common]


def _round_ms(ways: Sequence[TimedWay], frames: int, objective: Objective) -> float:
    return sum(one.turn_ms(frames, objective) for one in ways)


def _frames_least(ways: Sequence[TimedWay], objective: Objective) -> int:
    return FRAMES_LEAST * _in_step(ways, objective)


def _in_step(ways: Sequence[TimedWay], objective: Objective) -> int:
    """Returns what the frames of a round are a multiple of: else a way with calls at once waits for the last one."""
    return math.lcm(*(one.way.calls_at_once for one in ways)) if objective.kind == "throughput" else 1
