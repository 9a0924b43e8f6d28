"""Measure the ways of serving a bundle in turn on this machine, and choose the best.

Invariants:

- A way is chosen in place of the configured one only if it was measured to be faster by more than `SAME`, and by more
  than `SURE_ERRORS` standard errors. What a busy machine makes of equal ways is no reason to change.
- Ways are compared by the ratios of their times in the same rounds, so that a slow moment of the machine hits all, and
  by the mean of the middle half of these ratios, so that a slow moment within a round decides nothing.
- A turn begins with frames that are not timed, and the order of the turns is drawn anew for each round: what the way
  before leaves behind (caches, threads that still wait for work) would otherwise always hit the same way.
- A GPU or NPU that crashed in its trial is used by no way, not even as a fallback.
- Turns are short, so that the two of a pair lie near together. Ways that take over 1.6 times as long as the fastest one
  are measured no longer after three rounds, and those that are slower by more than the noise after four. Where the
  pilot shows that there is no time for all ways, the slowest ones are left out.
- At a rate, once only ways are left that run one call after the other, their frames come back to back, and what each
  frame waits is computed from the times of the calls: such a way is faster at any rate if its calls are shorter.
- No way is loaded after half of the time that was given, and no turn begun that is not expected to end in time, but
  for one way that is always measured. What is under way when the time is up is finished. A way that could be measured
  in fewer than `ROUNDS_MIN` rounds is chosen in place of the configured one only if it was the faster one in all of
  them, and there were `ROUNDS_SHORT`.
- Of ways that are equally fast, or can't be told apart, the simplest is taken: as configured, then one device, then
  replicas, then stages.
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
from lineside_runtime.bundle import Bundle
from lineside_runtime.config import QUEUE_MAX, Config
from lineside_runtime.errors import ConfigError, LinesideError, NoDeviceError
from lineside_runtime.planning.alternatives import alternatives
from lineside_runtime.planning.arrivals import (
    ServedRound,
    as_fast_as_possible,
    at_rate,
    one_at_a_time,
    queued,
    warm_up,
)
from lineside_runtime.planning.crash_trial import NO_TIME, try_accelerators
from lineside_runtime.planning.selection import (
    FRAMES_AT_RATE_MIN,
    ROUNDS_MAX,
    ROUNDS_MIN,
    SLOWEST_ROUND_S,
    TimedWay,
    choose,
    frames_of_round,
    left_after,
    pace,
    promising,
    ratio,
)
from lineside_runtime.serving.candidates import engine_of
from lineside_runtime.serving.plan_file import core_count, machine_name
from lineside_runtime.serving.serving_plan import (
    MeasuredAlternative,
    Objective,
    PlacementPlan,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from lineside_runtime.wording import counted

WARM_CALLS = 3
"""Untimed calls of a way that was just loaded, for each call at once."""

PILOT_FRAMES = 8
"""Frames by which the pilot tells how long one takes, unless they take longer than a turn."""

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
        limit_s: Seconds above 0, after which nothing further is loaded or measured; a call under way is finished.
        compute_share: As for `Session`.
        on_progress: Takes a line of text now and then.

    Raises:
        ConfigError: ``limit_s`` is not a time above 0.
        LinesideError: Nothing here runs the bundle.
    """
    config, objective = config or Config(), objective or Objective()
    if not 0 < limit_s < math.inf:
        raise ConfigError("limit_s", expected="seconds above 0", actual=limit_s)
    if not feeds:
        feeds, inputs = [noise(bundle.manifest, 1)], "noise"
    before, began_s = conditions(), monotonic()
    tried = try_accelerators(bundle, config, compute_share, feeds[0], began_s + LOADING_SHARE * limit_s)
    ways = alternatives(bundle.manifest, config, compute_share, refused=tried.refused, crashed=tried.crashed)
    trials = [_Trial(way=way, error=tried.reason_against(way)) for way in ways]
    with contextlib.ExitStack() as stack:
        on_progress(f"loading {len(trials)} ways of serving {bundle.manifest.identity}")
        for trial in _in_time(trials, began_s + LOADING_SHARE * limit_s):
            _load(trial, bundle, config, compute_share, feeds, stack)
        _measure([trial for trial in trials if not trial.error], feeds, objective, began_s + limit_s, on_progress)
    able = [trial for trial in trials if not trial.error]
    if not able:
        raise NoDeviceError(f"nothing here runs {bundle.manifest.identity}", actual=trials[0].error)
    chosen, best = choose(able)
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


@dataclasses.dataclass(slots=True, eq=False)
class _Trial(TimedWay):
    """A way of serving under measurement.

    Attributes:
        latencies_ms: Of all timed frames.
    """

    session: Session | None = None
    used: str = ""
    error: str = ""
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
            over_best=round(ratio(self, best), 4),
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
        warm_up(session, feeds, WARM_CALLS, workers=way.calls_at_once)
        trial.used = session.used_device
        one_worker = max(way.workers, config.submit_workers) == 1
        trial.serial = one_worker and sum(one.share > 0 for one in session.shares) == 1
        if way.kind == "device" and trial.used != way.devices[0]:
            trial.error = f"{way.devices[0]} did not answer, {trial.used} did"
        trial.session = session
    except LinesideError as error:
        trial.error = str(error)


def _measure(trials: list[_Trial], feeds: Sequence[Feed], objective: Objective, until_s: float, report: Report) -> None:
    """Times all ways in turn, round by round, and those that are clearly slower no longer than needed.

    Args:
        until_s: Time at which it ends; a way that has no complete round then has `NO_TIME` as its error.
    """
    began_s, told = monotonic(), 0
    running = _piloted(trials, feeds, objective, until_s)
    for number in range(ROUNDS_MAX if running else 0):
        if not _round(running, feeds, objective, number, until_s):
            break
        running = [trial for trial in running if not trial.error]
        share = max((number + 1) / ROUNDS_MAX, (monotonic() - began_s) / max(until_s - began_s, 1e-9))
        if int(4 * share) > told:
            told = int(4 * share)
            report(f"measured {min(share, 1):.0%}, {len(running)} of {len(trials)} ways left")
        if not running:
            break
        running = left_after(running, number + 1)
        if len(running) < 2 and number + 1 >= ROUNDS_MIN:
            break
    for trial in trials:
        if not trial.scores_ms and not trial.error:
            trial.error = NO_TIME


def _piloted(trials: Sequence[_Trial], feeds: Sequence[Feed], objective: Objective, until_s: float) -> list[_Trial]:
    """Returns the ways that there is time to measure, by about how long a frame takes."""
    piloted = list[_Trial]()
    for trial in trials:
        if piloted and monotonic() >= until_s:
            break
        try:
            trial.frame_ms = _pilot_ms(trial, feeds, objective)
            piloted.append(trial)
        except LinesideError as error:
            trial.error = str(error)
    return promising(piloted, objective, until_s - monotonic()) if piloted else []


def _round(running: Sequence[_Trial], feeds: Sequence[Feed], objective: Objective, number: int, until_s: float) -> bool:
    """Gives each way its turn; false if there is no time for it.

    An unfinished round counts only if it is the first one, which begins with the configured way.
    """
    given = pace(running, number, objective)
    frames = frames_of_round(running, number, given, until_s - monotonic())
    if number and monotonic() + sum(trial.turn_ms(frames, given) for trial in running) / 1e3 > until_s:
        return False
    order = random.Random(number).sample(running, len(running)) if number else running
    for trial in order:
        if any(one.scores_ms for one in running) and monotonic() + trial.turn_ms(frames, given) / 1e3 > until_s:
            for one in running if number else ():
                one.scores_ms.pop(number, None)
            return False
        try:
            served = _serve(trial, feeds, frames, given, number, untimed=trial.turn_calls)
        except LinesideError as error:
            trial.error = str(error)
            continue
        if objective.rate_hz is not None and given.rate_hz is None:
            alike = max(frames, FRAMES_AT_RATE_MIN)
            served = queued(served.latencies_ms, alike, objective.rate_hz, seed=number)
        trial.scores_ms[number] = served.frame_ms if objective.kind == "throughput" else served.mean_ms
        if objective.rate_hz is None:  # at a rate, the pilot knows better what a frame takes
            trial.frame_ms = statistics.median(trial.scores_ms.values())
        trial.latencies_ms += served.latencies_ms
        trial.elapsed_s += served.elapsed_s
    return True


def _pilot_ms(trial: _Trial, feeds: Sequence[Feed], objective: Objective) -> float:
    """Returns about how long a frame takes: of as many at once as there are in a turn."""
    at_once = trial.way.calls_at_once if objective.kind == "throughput" else 1
    alike = objective if at_once > 1 else Objective()
    first_ms = _serve(trial, feeds, at_once, alike, 0).frame_ms
    if first_ms * PILOT_FRAMES > SLOWEST_ROUND_S * 1e3:
        return first_ms
    return _serve(trial, feeds, PILOT_FRAMES, alike, 0).frame_ms


def _serve(
    trial: _Trial, feeds: Sequence[Feed], frames: int, objective: Objective, seed: int, untimed: int = 0
) -> ServedRound:
    """Gives a way its turn.

    Args:
        untimed: Calls before it that are not timed, for each call at once.
    """
    session, workers = trial.session, trial.way.calls_at_once
    if session is None:
        raise NoDeviceError(trial.error)
    if objective.kind == "throughput":
        depth = 2 * max(core_count(), workers)
        return as_fast_as_possible(session, feeds, frames, depth=depth, untimed=untimed * workers, workers=workers)
    if untimed:
        warm_up(session, feeds, untimed, workers=workers)
    if objective.rate_hz is None:
        return one_at_a_time(session, feeds, frames)
    return at_rate(session, feeds, frames, objective.rate_hz, seed=seed)


def _reason(chosen: MeasuredAlternative, measured: Sequence[MeasuredAlternative], objective: Objective) -> str:
    """Returns one line with the choice, and the times of the others."""
    throughput = objective.kind == "throughput"
    figure = f"{chosen.per_s:.0f} frames/s" if throughput else f"{chosen.ms:.2f} ms"
    others = [one for one in measured if one is not chosen and not one.error]
    name = f"{chosen.plan} ({chosen.used})" if chosen.plan.kind == "configured" else str(chosen.plan)
    said = f"{objective}: {name}: {figure}"
    if not others:
        late = any(NO_TIME in one.error for one in measured)
        return f"{said}; {'there was no time to measure others' if late else 'nothing else serves it here'}"
    near = min(others, key=lambda one: one.over_best)
    times = near.over_best / chosen.over_best
    said += f"; next {near.plan}: {times:.2f} times the time{', but not surely' * (times < 1)}"
    configured = measured[0]
    if configured not in (chosen, near) and not configured.error:
        said += f"; as configured ({configured.used}): {configured.over_best / chosen.over_best:.2f}"
    if chosen.rounds < ROUNDS_MIN:
        said += f"; there was time for {counted(chosen.rounds, 'round')} only"
    return said
