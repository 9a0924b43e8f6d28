"""Measure the ways of serving a bundle in turn on this machine, and choose the best.

Invariants:

- A way is chosen in place of the configured one only if it was measured to be faster by more than `SAME`, and surely:
  it was the faster one in three of four rounds, or the 95 % interval of the median ratio is below 1. What a busy
  machine makes of equal ways is no reason to change.
- Ways are compared by the median of their ratios in the same rounds, so that a slow moment of the machine hits all.
- A turn begins with frames that are not timed, and the order of the turns is drawn anew for each round: what the way
  before leaves behind (caches, threads that still wait for work) would otherwise always hit the same way.
- No way is loaded, and no turn begun, after the time that was given, but for one way that is always measured. What is
  under way then is finished. A way that could be measured in fewer than `ROUNDS_MIN` rounds is chosen in place of the
  configured one only if it was the faster one in all of them, and there were `ROUNDS_SHORT`.
- Of ways that are equally fast, the simplest is taken: as configured, then one device, then replicas, then stages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic

import msgspec
import numpy as np

from lineside_runtime.benchmark.machine import conditions, remarks
from lineside_runtime.benchmark.measurement.input_data import noise
from lineside_runtime.benchmark.summary_statistics import ratio as compared
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import QUEUE_MAX, Config
from lineside_runtime.errors import LinesideError, NoDeviceError
from lineside_runtime.planning.alternatives import alternatives
from lineside_runtime.planning.arrivals import ServedRound, as_fast_as_possible, at_rate, one_at_a_time, warm_up
from lineside_runtime.planning.crash_trial import NO_TIME, try_accelerators
from lineside_runtime.serving.candidates import engine_of
from lineside_runtime.serving.plan_file import core_count, machine_name
from lineside_runtime.serving.serving_plan import (
    AS_CONFIGURED,
    MeasuredAlternative,
    Objective,
    PlacementPlan,
    ServingPlan,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from lineside_runtime.wording import counted

SAME = 0.01
"""Ways whose times are this near are equally fast."""

ROUNDS_SHORT, ROUNDS_MIN, ROUNDS_MAX = 4, 7, 60
HOPELESS = {3: 2.0, ROUNDS_MIN: 1.3}
"""Number of rounds to how many times the best one's time: a way that takes more after them is measured no longer. The
configured way, with which the others are compared, is measured to the end."""

ROUND_S, SLOWEST_ROUND_S = 0.1, 0.3
"""Time of a round of the fastest way, and most time of the slowest one's."""

FRAMES_MIN, FRAMES_MAX = 8, 100
FRAMES_LEAST = 2
"""Frames of a round, or of each worker, where the time given is too short for `ROUNDS_MIN` rounds of `FRAMES_MIN`."""

WARM_CALLS, TURN_CALLS = 3, 2
"""Untimed calls of a worker: of a way that was just loaded, and of each turn."""

LIMIT_S = 30.0
LOADING_SHARE = 0.5
"""Share of the time after which no further way is loaded."""

Feed = Mapping[str, Array]
Report = Callable[[str], None]


def plan_placement(
    bundle: Bundle,
    config: Config | None = None,
    *,
    objective: Objective | None = None,
    feeds: Sequence[Feed] = (),
    inputs: str = "given by the caller",
    limit_s: float = LIMIT_S,
    compute_share: float = 1.0,
    on_progress: Report = lambda text: None,
) -> PlacementPlan:
    """Measures the ways of serving a bundle, and returns the best.

    It loads all ways at once: give it a process of its own where memory is short.

    Args:
        config: What is to be kept; keys that it leaves open are varied.
        objective: `Objective()` if ``None``.
        feeds: Real inputs, array by input name, given in turn; empty for noise in the shape of one frame.
        inputs: Where they came from, for the plan.
        limit_s: Seconds after which nothing further is loaded or measured; a call that is under way is finished.
        compute_share: As for `Session`.
        on_progress: Takes a line of text now and then.

    Raises:
        LinesideError: Nothing here runs the bundle.
    """
    config, objective = config or Config(), objective or Objective()
    if not feeds:
        feeds, inputs = [noise(bundle.manifest, 1)], "noise"
    before, began_s = conditions(), monotonic()
    tried = try_accelerators(bundle, config, compute_share, feeds[0], began_s + LOADING_SHARE * limit_s)
    ways = alternatives(bundle.manifest, config, compute_share)
    trials = [_Trial(way, error=tried.reason_against(way)) for way in ways]
    with contextlib.ExitStack() as stack:
        on_progress(f"loading {len(trials)} ways of serving {bundle.manifest.identity}")
        for trial in _in_time(trials, began_s + LOADING_SHARE * limit_s):
            _load(trial, bundle, config, compute_share, feeds, stack)
        able = [trial for trial in trials if not trial.error]
        if not able:
            raise NoDeviceError(f"nothing here runs {bundle.manifest.identity}", actual=trials[0].error)
        _measure(able, feeds, objective, began_s + limit_s, on_progress)
        able = [trial for trial in able if not trial.error]
    if not able:
        raise NoDeviceError(f"nothing here serves {bundle.manifest.identity}", actual=trials[0].error)
    chosen, best = _choose(able)
    measured = tuple(trial.result(best) for trial in trials)
    engines = {name.partition("/")[0] for name in (chosen.way.devices or tuple(chosen.used.split("+")))}
    return PlacementPlan(
        bundle=bundle.manifest.identity,
        digest=bundle.digest,
        machine=machine_name(),
        versions={engine: engine_of(engine, config).version for engine in sorted(engines)},
        objective=objective,
        chosen=chosen.way,
        why=_reason(measured[trials.index(chosen)], measured, objective),
        inputs=inputs,
        remarks=remarks(before, conditions(), monotonic() - began_s, core_count()),
        measured=measured,
    )


def _in_time(trials: Sequence[_Trial], until_s: float) -> Iterator[_Trial]:
    """Yields the ways that are to be loaded while there is time, and until one is; the others have `NO_TIME`."""
    for trial in (one for one in trials if not one.error):
        if monotonic() < until_s or not any(one.session is not None for one in trials):
            yield trial
        else:
            trial.error = NO_TIME


def _choose(able: Sequence[_Trial]) -> tuple[_Trial, _Trial]:
    """Returns the way to serve, and the fastest one, of the first and those that are surely faster than it."""
    eligible = [trial for trial in able if trial is able[0] or _surely_faster(trial, able[0])]
    best = _best(eligible)
    return next(trial for trial in eligible if _ratio(trial, best) <= 1 + SAME), best


@dataclasses.dataclass(slots=True, eq=False)
class _Trial:
    """A way of serving under measurement.

    Attributes:
        scores_ms: By the number of the round.
        latencies_ms: Of all timed frames.
    """

    way: ServingPlan
    session: Session | None = None
    used: str = ""
    error: str = ""
    scores_ms: dict[int, float] = dataclasses.field(default_factory=dict)
    latencies_ms: list[float] = dataclasses.field(default_factory=list)
    elapsed_s: float = 0.0

    def result(self, best: _Trial) -> MeasuredAlternative:
        if self.error:
            return MeasuredAlternative(plan=self.way, error=self.error)
        return MeasuredAlternative(
            plan=self.way,
            used=self.used,
            ms=round(statistics.median(self.scores_ms.values()), 4),
            p50_ms=round(statistics.median(self.latencies_ms), 4),
            p95_ms=round(float(np.percentile(self.latencies_ms, 95)), 4),
            per_s=round(len(self.latencies_ms) / self.elapsed_s, 2),
            over_best=round(_ratio(self, best), 4),
            rounds=len(self.scores_ms),
        )


def _load(
    trial: _Trial, bundle: Bundle, config: Config, share: float, feeds: Sequence[Feed], stack: contextlib.ExitStack
) -> None:
    """Loads and warms up one way."""
    way = trial.way
    roomy = msgspec.structs.replace(config, submit_queue=QUEUE_MAX, cache=None)
    try:
        session = stack.enter_context(Session(bundle, roomy, compute_share=share, plan=way))
        warm_up(session, feeds, WARM_CALLS, workers=way.workers)
        trial.used = session.used_device
        if way.kind == "device" and trial.used != way.devices[0]:
            trial.error = f"{way.devices[0]} did not answer, {trial.used} did"
        trial.session = session
    except LinesideError as error:
        trial.error = str(error)


def _measure(trials: list[_Trial], feeds: Sequence[Feed], objective: Objective, until_s: float, report: Report) -> None:
    """Times all ways in turn, round by round, and the hopeless ones no longer than needed.

    Args:
        until_s: Time at which it ends; a way that has no complete round then has `NO_TIME` as its error.
    """
    began_s, running, told = monotonic(), list(trials), 0
    frames = _frames_of_a_round(trials, feeds, objective, until_s)
    for number in range(ROUNDS_MAX):
        if not _round(running, feeds, objective, frames, number, until_s):
            break
        running = [trial for trial in running if not trial.error]
        share = max((number + 1) / ROUNDS_MAX, (monotonic() - began_s) / max(until_s - began_s, 1e-9))
        if int(4 * share) > told:
            told = int(4 * share)
            report(f"measured {min(share, 1):.0%}, {len(running)} of {len(trials)} ways left")
        if not running:
            break
        best = _best(running)
        limit = min((times for rounds, times in HOPELESS.items() if number + 1 >= rounds), default=math.inf)
        running = [trial for trial in running if trial is trials[0] or _ratio(trial, best) <= limit]
        if len(running) < 2 and number + 1 >= ROUNDS_MIN:
            break
    for trial in trials:
        if not trial.scores_ms and not trial.error:
            trial.error = NO_TIME


def _round(
    running: Sequence[_Trial], feeds: Sequence[Feed], objective: Objective, frames: int, number: int, until_s: float
) -> bool:
    """Gives each way its turn; false if the time was up before.

    An unfinished round counts only if it is the first one, which begins with the configured way.
    """
    order = random.Random(number).sample(running, len(running)) if number else running
    for trial in order:
        if monotonic() >= until_s and any(one.scores_ms for one in running):
            for one in running if number else ():
                one.scores_ms.pop(number, None)
            return False
        try:
            _warm_up(trial, feeds)
            served = _serve(trial, feeds, frames, objective, number)
        except LinesideError as error:
            trial.error = str(error)
            continue
        trial.scores_ms[number] = served.frame_ms if objective.kind == "throughput" else served.mean_ms
        trial.latencies_ms += served.latencies_ms
        trial.elapsed_s += served.elapsed_s
    return True


def _frames_of_a_round(trials: Sequence[_Trial], feeds: Sequence[Feed], objective: Objective, until_s: float) -> int:
    """Returns how many frames a way is given in its turn: fewer if the time left is too short for `ROUNDS_MIN`."""
    pilot_ms = [_pilot_ms(trial, feeds) for trial in trials if trial is trials[0] or monotonic() < until_s]
    fitting = min(ROUND_S * 1e3 / min(pilot_ms), SLOWEST_ROUND_S * 1e3 / max(pilot_ms))
    apart_ms = 1e3 / objective.rate_hz if objective.rate_hz is not None else 0.0
    frame_of_each_ms = sum(max(one, apart_ms) for one in pilot_ms)
    affordable = (until_s - monotonic()) * 1e3 / ROUNDS_MIN / frame_of_each_ms - TURN_CALLS
    least = (
        FRAMES_LEAST * max(trial.way.workers for trial in trials) if objective.kind == "throughput" else FRAMES_LEAST
    )
    return int(min(FRAMES_MAX, max(least, min(affordable, max(FRAMES_MIN, fitting)))))


def _pilot_ms(trial: _Trial, feeds: Sequence[Feed]) -> float:
    """Returns about how long a frame takes."""
    first_ms = _serve(trial, feeds, 1, Objective(), 0).frame_ms
    if first_ms * FRAMES_MIN > SLOWEST_ROUND_S * 1e3:
        return first_ms
    return _serve(trial, feeds, FRAMES_MIN, Objective(), 0).frame_ms


def _warm_up(trial: _Trial, feeds: Sequence[Feed]) -> None:
    if trial.session is not None:
        warm_up(trial.session, feeds, TURN_CALLS, workers=trial.way.workers)


def _serve(trial: _Trial, feeds: Sequence[Feed], frames: int, objective: Objective, seed: int) -> ServedRound:
    session = trial.session
    if session is None:
        raise NoDeviceError(trial.error)
    if objective.kind == "throughput":
        return as_fast_as_possible(session, feeds, frames, depth=2 * max(core_count(), trial.way.workers))
    if objective.rate_hz is None:
        return one_at_a_time(session, feeds, frames)
    return at_rate(session, feeds, frames, objective.rate_hz, seed=seed)


def _best(trials: Sequence[_Trial]) -> _Trial:
    """Returns the fastest of those that were measured to the end: no other takes less time in most of the rounds.

    Ratios to a third way don't tell it. A way whose frames pile up takes very different times from round to round.
    """
    most = max(len(trial.scores_ms) for trial in trials)
    whole = [trial for trial in trials if len(trial.scores_ms) == most]
    return min(whole, key=lambda trial: max(_ratio(trial, other) for other in whole))


def _surely_faster(one: _Trial, other: _Trial) -> bool:
    times = _common(one, other)
    if len(times[0]) < ROUNDS_MIN:
        return len(times[0]) >= ROUNDS_SHORT and bool(np.all(np.less(*times)))
    return bool(np.quantile(np.divide(*times), 0.75) < 1) or compared(*times).high < 1


def _ratio(one: _Trial, other: _Trial) -> float:
    return statistics.median(a / b for a, b in zip(*_common(one, other), strict=True))


def _common(one: _Trial, other: _Trial) -> tuple[list[float], list[float]]:
    """Returns the times of both in the rounds that both were in."""
    rounds = sorted(one.scores_ms.keys() & other.scores_ms.keys())
    return [one.scores_ms[number] for number in rounds], [other.scores_ms[number] for number in rounds]


def _reason(chosen: MeasuredAlternative, measured: Sequence[MeasuredAlternative], objective: Objective) -> str:
    """Returns one line with the choice, and the times of the others."""
    throughput = objective.kind == "throughput"
    figure = f"{chosen.per_s:.0f} frames/s" if throughput else f"{chosen.ms:.2f} ms"
    others = [one for one in measured if one is not chosen and not one.error]
    name = f"{chosen.plan} ({chosen.used})" if chosen.plan == AS_CONFIGURED else str(chosen.plan)
    said = f"{objective}: {name}: {figure}"
    if not others:
        late = any(NO_TIME in one.error for one in measured)
        return f"{said}; {'there was no time to measure others' if late else 'nothing else serves it here'}"
    near = min(others, key=lambda one: one.over_best)
    ratio = near.over_best / chosen.over_best
    said += f"; next {near.plan}: {ratio:.2f} times the time{', but not surely' * (ratio < 1)}"
    if chosen.plan != AS_CONFIGURED != near.plan and not measured[0].error:
        configured = measured[0]
        said += f"; as configured ({configured.used}): {configured.over_best / chosen.over_best:.2f}"
    if chosen.rounds < ROUNDS_MIN:
        said += f"; there was time for {counted(chosen.rounds, 'round')} only"
    return said
