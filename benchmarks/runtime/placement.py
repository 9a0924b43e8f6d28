"""Every way of serving a bundle, and what ``Config()`` takes after ``lineside plan``, for three arrival patterns.

Three networks, each also cut in two stages where it is best on this machine: the shipped detector, EfficientNet-Lite0
INT8 and ResNet-50 float. For each arrival pattern the planner measures and keeps a plan, as `lineside plan` does. Then
all ways are measured once more in turn, and the finalists once more by themselves: the two fastest ways, the way of the
plan and the configured one. (A dozen ways take two seconds a round, in which the speed of a shared machine changes by
more than the ways differ.) The best way is the fastest of the finalists.

- The finalists are measured in blocks. Each block opens its own sessions, since a session may be slow for reasons of
  its own, such as its place in memory. The ratio of two ways is the geometric mean of those of the blocks, and its 95 %
  interval that of Student's t for so many blocks: it holds what sessions and minutes differ by, too.
- A block's ratio is the interquartile mean of those of its rounds, so that a disturbed turn doesn't decide. The order
  of the turns is drawn for each round. A turn begins with frames that are not timed: else a way would pay for what the
  way before leaves behind (caches, threads that still wait for work).
- The session of the plan's way is one of ``Config()``, which follows the kept plan. The control is a second session of
  the plan's way in each block: ``same_way_twice``.
- A finalist that is surely slower than the plan's way is measured no longer. Blocks end when it is clear for each other
  one whether the plan's way is within `BAR` of it, or after the most of `BLOCKS`.
- As the best way is taken from the same blocks, chance makes the plan look slower than it is, not faster.
- A device that fails while a way is measured, such that another one answers for it, is a problem of the run.

Arrival patterns:

- ``one``: a frame comes when the one before is answered; mean latency.
- ``rate``: frames come at random times (Poisson, the same for all ways), `LOAD` of what ``Config()`` without a plan can
  answer; mean latency from when a frame is due.
- ``all``: there is always a next frame; time a frame.

``config_over_best`` compares ``Config()`` with the best way, ``configured_over_best`` ``Config()`` without a plan, and
``next_over_config`` the fastest other finalist with ``Config()``. ``block_ratios`` are those of each finalist to
``Config()``. ``within_bar`` holds `BAR` against ``config_over_best``: ``reached``; ``missed`` if its whole interval is
above; else ``undecided``.

Baseline: the best of all ways.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from benchmarks.inputs import networks
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import median_ratio, spread
from lineside_converters.split.bundle import sample_feeds, split_bundle
from lineside_converters.split.timing import StagePlace
from lineside_models import zoo
from lineside_runtime.benchmark.summary_statistics import interquartile_mean
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.planning import Objective, PlacementPlan, ServingPlan, plan_placement
from lineside_runtime.planning.arrivals import ServedRound, as_fast_as_possible, at_rate, one_at_a_time, warm_up
from lineside_runtime.planning.planner import LIMIT_S
from lineside_runtime.serving.plan_file import plan_file, save_plan
from lineside_runtime.serving.serving_plan import AS_CONFIGURED
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

LOAD = 0.8
"""Arrivals as a share of what ``Config()`` without a plan can answer, one frame at a time."""

BAR = 1.02
"""Most that the time of ``Config()`` may be, in that of the best way."""

PLAN_S, ROUND_S, ROUNDS = scaled((LIMIT_S, 0.15, 9), smoke=(0.2, 0.01, 2))
BLOCK_S, BLOCKS = scaled((8.0, (4, 8)), smoke=(0.01, (2, 2)))
"""Seconds of a block's rounds, and the least and most blocks."""

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)
"""97.5 % quantiles of Student's t, from 2 values on."""

FINALISTS = 2
"""Fastest ways that are measured once more, beside that of the plan and the configured one."""

AGAIN = "the plan's way again"
"""Name of the control."""

FRAMES_MIN, FRAMES_AT_RATE_MIN, FRAMES_MAX, WARM_CALLS = scaled((4, 8, 60, 10), smoke=(2, 2, 2, 1))
UNTIMED, UNTIMED_S = scaled((3, 0.03), smoke=(1, 0.0))
"""Most untimed calls of a turn, for each call at once, and the time after which no further one is needed."""

CONFIG = Config(submit_queue=100_000)
"""Follows the same plan as ``Config()``, and takes all frames that come meanwhile."""

PATTERNS = ("one", "rate", "all")

Feed = Mapping[str, Array]


def run() -> dict[str, Any]:
    """Measures the networks in each arrival pattern."""
    found: dict[str, Any] = {"baseline": "the best of all ways, measured in the same rounds", "networks": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder  # the plans are this benchmark's own
        for name, whole in _networks():
            print(f"  {name} ...", file=sys.stderr, flush=True)
            places = [StagePlace("ort"), StagePlace("openvino")]
            cut = split_bundle(whole, Path(folder) / name, places, must_gain=False, on_progress=_report)
            found["networks"][name] = _network(cut.bundle)
    rows = [one for each in found["networks"].values() for one in each["patterns"].values()]
    return found | {
        "bar": {"config_over_best": BAR},
        "config_over_best_worst": max(one["config_over_best"] for one in rows),
        "problems": [failure for one in rows for failure in one.pop("failures")],
    }


def _networks() -> Iterator[tuple[str, Bundle]]:
    if SMOKE:
        yield "small", networks.bundle(networks.small())
        return
    yield "surface_12", open_bundle(zoo.path("surface-12"))
    yield "lite0", networks.bundle(networks.lite0_int8())
    yield "resnet50", networks.bundle(networks.resnet50_float())


def _report(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


def _network(bundle: Bundle) -> dict[str, Any]:
    feeds = sample_feeds(bundle)
    with Session(bundle, plan=AS_CONFIGURED) as session:
        one_at_a_time(session, feeds, WARM_CALLS)
        idle_ms = statistics.median(one_at_a_time(session, feeds, FRAMES_MIN * 6).latencies_ms)
    rate_hz = round(LOAD * 1e3 / idle_ms, 1)
    objectives = {"one": Objective(), "rate": Objective(rate_hz=rate_hz), "all": Objective(kind="throughput")}
    patterns = {}
    for name, objective in objectives.items():
        _report(f"plan for {objective} ...")
        plan = plan_placement(bundle, objective=objective, feeds=feeds, limit_s=PLAN_S)
        save_plan(plan, plan_file(bundle, Config()))
        _report(plan.why)
        patterns[name] = _pattern(_load(bundle, feeds, objective, idle_ms), plan)
    return {"idle_ms": round(idle_ms, 3), "rate_hz": rate_hz, "patterns": patterns}


class _Load(NamedTuple):
    """What each way is given in its turn.

    Attributes:
        untimed: Calls before it that are not timed, for each call at once.
    """

    bundle: Bundle
    feeds: Sequence[Feed]
    objective: Objective
    frames: int
    untimed: int

    def opened(self, ways: Mapping[str, ServingPlan | None], stack: ExitStack) -> dict[str, Session]:
        """Opens and warms up a session of each way."""
        sessions = {name: stack.enter_context(Session(self.bundle, CONFIG, plan=way)) for name, way in ways.items()}
        for session in sessions.values():
            warm_up(session, self.feeds, WARM_CALLS, workers=session.plan.calls_at_once)
        return sessions

    def rounds(self, sessions: Mapping[str, Session], numbers: Iterable[int]) -> dict[str, list[ServedRound]]:
        """Gives each way its turn in each round, in drawn order."""
        served: dict[str, list[ServedRound]] = {name: [] for name in sessions}
        for number in numbers:
            for name in random.Random(number).sample([*sessions], len(sessions)):
                served[name].append(self._turn(sessions[name], number))
        return served

    def scores(self, rounds: Sequence[ServedRound]) -> list[float]:
        """Returns the milliseconds that count for the objective, one a round."""
        return [one.frame_ms if self.objective.kind == "throughput" else one.mean_ms for one in rounds]

    def _turn(self, session: Session, seed: int) -> ServedRound:
        workers, frames = session.plan.calls_at_once, self.frames
        if self.objective.kind == "throughput":
            depth, untimed = 2 * _cores(), self.untimed * workers
            return as_fast_as_possible(session, self.feeds, frames, depth=depth, untimed=untimed, workers=workers)
        warm_up(session, self.feeds, self.untimed, workers=workers)
        if self.objective.rate_hz is None:
            return one_at_a_time(session, self.feeds, frames)
        return at_rate(session, self.feeds, frames, self.objective.rate_hz, seed=seed)


def _load(bundle: Bundle, feeds: Sequence[Feed], objective: Objective, idle_ms: float) -> _Load:
    least = FRAMES_MIN if objective.rate_hz is None else FRAMES_AT_RATE_MIN
    frames = int(min(FRAMES_MAX, max(least, ROUND_S * 1e3 / idle_ms)))
    if objective.kind == "throughput":
        frames = _cores() * math.ceil(frames / _cores())  # else a way with calls at once waits for the last one
    return _Load(bundle, feeds, objective, frames, min(UNTIMED, max(1, math.ceil(UNTIMED_S * 1e3 / idle_ms))))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _pattern(load: _Load, plan: PlacementPlan) -> dict[str, Any]:
    """Measures every way that can serve, then the finalists; the session of the plan's way is one of ``Config()``."""
    chosen, plain = str(plan.chosen), str(AS_CONFIGURED)
    ways = {str(one.plan): None if one.plan == plan.chosen else one.plan for one in plan.measured if not one.error}
    failures: list[str] = []
    with ExitStack() as stack:
        sessions = load.opened(ways, stack)
        if sessions[chosen].plan != plan.chosen:
            raise RuntimeError("Config() doesn't follow its plan")
        served = load.rounds(sessions, range(ROUNDS))
        failures += _failures(sessions)
    scores = {name: load.scores(rounds) for name, rounds in served.items()}
    fastest = sorted(ways, key=lambda name: median_ratio(scores[name], scores[chosen]))
    finalists = {name: ways[name] for name in (*fastest[:FINALISTS], chosen, plain)}
    blocks = _finals(load, finalists | {AGAIN: plan.chosen}, chosen, failures)
    ratios = {name: student_interval(blocks[name]) for name in finalists}
    ordered = sorted(finalists, key=lambda name: ratios[name].ratio)
    best, following = ordered[0], next((name for name in ordered if name != chosen), chosen)
    compared = {
        "config_over_best": _compared(blocks[chosen], blocks[best]),
        "configured_over_best": _compared(blocks[plain], blocks[best]),
        "next_over_config": ratios[following],
        "same_way_twice": student_interval(blocks[AGAIN]),
    }
    told = ", ".join(f"{key} {one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})" for key, one in compared.items())
    _report(f"  best: {best}; {len(blocks[chosen])} blocks: {told}")
    return {
        "objective": str(plan.objective),
        "frames_a_turn": load.frames,
        "chosen": chosen,
        "why": plan.why,
        "best": best,
        "blocks": len(blocks[chosen]),
        "next": following,
        **{key: round(one.ratio, 4) for key, one in compared.items()},
        "within_bar": _within_bar(compared["config_over_best"]),
        "failures": failures,
        "intervals": {key: [round(one.low, 4), round(one.high, 4)] for key, one in compared.items()},
        "block_ratios": {name: [round(math.exp(each), 4) for each in logs] for name, logs in blocks.items()},
        "ways": {name: _row(served[name], scores[name], scores[best]) for name in ways},
    }


def _failures(sessions: Mapping[str, Session]) -> list[str]:
    return [
        f"{name}: {one.device} failed during {one.during}" for name, each in sessions.items() for one in each.fallbacks
    ]


class Interval(NamedTuple):
    """A ratio and its 95 % interval."""

    ratio: float
    low: float
    high: float


def student_interval(logs: Sequence[float]) -> Interval:
    """Returns the interval of Student's t from logarithms of a block each."""
    mean, count = statistics.fmean(logs), len(logs)
    half = STUDENT[count - 2] * statistics.stdev(logs) / math.sqrt(count)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _compared(of: Sequence[float], to: Sequence[float]) -> Interval:
    """Compares two ways in the blocks that both were in."""
    return student_interval([a - b for a, b in zip(of, to, strict=False)])


def _within_bar(config: Interval) -> str:
    if config.ratio <= BAR:
        return "reached"
    return "missed" if config.low > BAR else "undecided"


def _finals(
    load: _Load, finalists: Mapping[str, ServingPlan | None], chosen: str, failures: list[str]
) -> dict[str, list[float]]:
    """Measures block after block, until it is clear for each finalist whether the plan's way is within the bar of it.

    Args:
        failures: Takes those of devices.

    Returns:
        By the name of the way, logarithms of its ratio to the plan's way, one for each block that it was in.
    """
    blocks: dict[str, list[float]] = {name: [] for name in finalists}
    left = [*finalists]
    for number in range(BLOCKS[1]):
        with ExitStack() as stack:
            drawn = random.Random(number).sample(left, len(left))
            sessions = load.opened({name: finalists[name] for name in drawn}, stack)
            served = load.rounds(sessions, _for_seconds(BLOCK_S, number * 10_000))
            failures += _failures(sessions)
        to = load.scores(served[chosen])
        for name in left:
            logs = [math.log(a / b) for a, b in zip(load.scores(served[name]), to, strict=True)]
            blocks[name].append(interquartile_mean(logs)[0])
        if number + 1 < BLOCKS[0]:
            continue
        left = [name for name in left if name in (chosen, AGAIN) or student_interval(blocks[name]).low <= 1]
        if all(is_clear(student_interval(blocks[name])) for name in left if name not in (chosen, AGAIN)):
            break
    return blocks


def is_clear(other: Interval) -> bool:
    """Whether all of the ratio of another way to that of the plan says the same of the bar."""
    return other.low >= 1 / BAR or other.high < 1 / BAR


def _for_seconds(limit_s: float, first: int) -> Iterator[int]:
    """Yields the numbers of rounds, from ``first`` on, while there is time."""
    began_s = monotonic()
    for number in itertools.count(first):
        yield number
        if monotonic() - began_s >= limit_s:
            return


def _row(rounds: Sequence[ServedRound], scores: list[float], best: list[float]) -> dict[str, Any]:
    return {
        "ms": round(statistics.median(scores), 4),
        "latency_ms": spread([each for one in rounds for each in one.latencies_ms]),
        "per_s": round(1e3 / statistics.median(one.frame_ms for one in rounds), 1),
        "over_best": round(median_ratio(scores, best), 4),
    }
