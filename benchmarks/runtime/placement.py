"""Every way of serving a bundle, and what ``Config()`` takes after ``lineside plan``, for three arrival patterns.

Three networks, each also cut in two stages where it is best on this machine: the shipped detector, EfficientNet-Lite0
INT8 and ResNet-50 float. For each arrival pattern the planner measures and keeps a plan, as `lineside plan` does. Then
all ways are measured once more in turn, and the finalists once more by themselves: the two fastest ways, the way of the
plan and the configured one. (A dozen ways take two seconds a round, in which the speed of a shared machine changes by
more than the ways differ.) The best way is the fastest of these last rounds.

- The session of the plan's way is one of ``Config()``, which follows the kept plan. A way is measured once: where the
  plan is also the best way, or the configured one, both names mean one session.
- The control is a second session of the plan's way among the finalists: ``same_way_twice``, which is 1 but for what
  the machine and the place of a session in memory change.
- Each finalist has each place in a round, and follows each other one, equally often. A turn begins with frames that are
  not timed: else a way would pay for what the way before leaves behind (caches, threads that still wait for work).
- The last rounds end when the intervals of the ratios of all near ways are narrow enough, or after `FINAL_S`.
- As the best way is taken from the same rounds, chance makes the plan look slower than it is, not faster.
- A figure is a median of rounds, so that a disturbed turn doesn't decide. A device that fails while a way is measured,
  such that another one answers for it, is a problem of the run.

Arrival patterns:

- ``one``: a frame comes when the one before is answered; mean latency.
- ``rate``: frames come at random times (Poisson, the same for all ways), `LOAD` of what ``Config()`` without a plan can
  answer; mean latency from when a frame is due.
- ``all``: there is always a next frame; time a frame.

``config_over_best`` compares ``Config()`` with the best way, ``configured_over_best`` ``Config()`` without a plan, and
``next_over_config`` the fastest other finalist with ``Config()``: the median of the ratios of a round, and its 95 %
interval. ``within_bar`` holds `BAR` against ``config_over_best``: ``reached``; ``undecided`` if only the interval of
one of the two sessions of the plan's way reaches it; ``missed``.

Baseline: the best of all ways.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.inputs import networks
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import median_ratio, spread
from lineside_converters.split.bundle import sample_feeds, split_bundle
from lineside_converters.split.timing import StagePlace
from lineside_models import zoo
from lineside_runtime.benchmark.summary_statistics import Ratio, ratio
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.planning import Objective, PlacementPlan, plan_placement
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
FINAL_S = scaled((20.0, 60.0), smoke=(0.01, 0.01))
"""Least and about the most seconds of the last rounds."""

PRECISE, NEAR = 0.01, 1.1
"""Half the width of an interval that is narrow enough, and up to which ratio to ``Config()`` a way is near."""

FINALISTS = 2
"""Fastest ways that are measured once more, beside that of the plan and the configured one."""

AGAIN = "the plan's way again"
"""Name of the control."""

FRAMES_MIN, FRAMES_MAX, WARM_CALLS, TURN_CALLS = scaled((8, 60, 10, 3), smoke=(2, 2, 1, 1))
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
        idle_ms = statistics.median(one_at_a_time(session, feeds, FRAMES_MIN * 3).latencies_ms)
    rate_hz = round(LOAD * 1e3 / idle_ms, 1)
    objectives = {"one": Objective(), "rate": Objective(rate_hz=rate_hz), "all": Objective(kind="throughput")}
    frames = int(min(FRAMES_MAX, max(FRAMES_MIN, ROUND_S * 1e3 / idle_ms)))
    patterns = {}
    for name, objective in objectives.items():
        _report(f"plan for {objective} ...")
        plan = plan_placement(bundle, objective=objective, feeds=feeds, limit_s=PLAN_S)
        save_plan(plan, plan_file(bundle, Config()))
        _report(plan.why)
        patterns[name] = _pattern(bundle, plan, feeds, frames)
    return {"idle_ms": round(idle_ms, 3), "rate_hz": rate_hz, "frames_a_round": frames, "patterns": patterns}


def _pattern(bundle: Bundle, plan: PlacementPlan, feeds: Sequence[Feed], frames: int) -> dict[str, Any]:
    """Measures every way that can serve, then the finalists; the session of the plan's way is one of ``Config()``."""
    ways = {str(one.plan): one.plan for one in plan.measured if not one.error}
    chosen, plain = str(plan.chosen), str(AS_CONFIGURED)
    with ExitStack() as stack:
        config = Config(submit_queue=100_000)  # the same plan as that of Config()
        by_plan = {name: None if name == chosen else way for name, way in ways.items()} | {AGAIN: plan.chosen}
        sessions = {name: stack.enter_context(Session(bundle, config, plan=way)) for name, way in by_plan.items()}
        if sessions[chosen].plan != plan.chosen:
            raise RuntimeError("Config() doesn't follow its plan")
        workers = {name: way.calls_at_once for name, way in ways.items()} | {AGAIN: plan.chosen.calls_at_once}
        for name, session in sessions.items():
            warm_up(session, feeds, WARM_CALLS, workers=workers[name])
        trials = _Trials(sessions, workers, feeds, frames, plan.objective)
        for number in range(ROUNDS):
            trials.round(random.Random(number).sample([*ways], len(ways)))
        scores = trials.scores()
        fastest = sorted(ways, key=lambda name: median_ratio(scores[name], scores[chosen]))
        finalists = list(dict.fromkeys((*fastest[:FINALISTS], chosen, plain)))
        last = _Trials(sessions, workers, feeds, frames, plan.objective)
        final = _finals(last, [*finalists, AGAIN], chosen)
        failures = [
            f"{name}: {one.device} failed during {one.during}"
            for name, session in sessions.items()
            for one in session.fallbacks
        ]
    ordered = sorted(finalists, key=lambda name: median_ratio(final[name], final[chosen]))
    best, following = ordered[0], next((name for name in ordered if name != chosen), chosen)
    ratios = {
        "config_over_best": ratio(final[chosen], final[best]),
        "configured_over_best": ratio(final[plain], final[best]),
        "next_over_config": ratio(final[following], final[chosen]),
        "same_way_twice": ratio(final[AGAIN], final[chosen]),
    }
    found = {
        "objective": str(plan.objective),
        "chosen": chosen,
        "why": plan.why,
        "best": best,
        "rounds": len(final[chosen]),
        "next": following,
        **{key: round(one.median, 4) for key, one in ratios.items()},
        "within_bar": _within_bar(ratios["config_over_best"], ratio(final[AGAIN], final[best])),
        "failures": failures,
        "intervals": {key: [round(one.low, 4), round(one.high, 4)] for key, one in ratios.items()},
    }
    told = ", ".join(f"{key} {one.median:.3f} ({one.low:.3f} to {one.high:.3f})" for key, one in ratios.items())
    _report(f"  best: {best}; {found['rounds']} rounds: {told}")
    return found | {"ways": {name: _row(trials.served[name], scores[name], scores[best]) for name in ways}}


def _within_bar(config: Ratio, again: Ratio) -> str:
    """Holds the bar against both sessions of the plan's way, as one may be slow for reasons of its own."""
    if config.median <= BAR:
        return "reached"
    return "undecided" if min(config.low, again.low) <= BAR else "missed"


def _row(rounds: Sequence[ServedRound], scores: list[float], best: list[float]) -> dict[str, Any]:
    return {
        "ms": round(statistics.median(scores), 4),
        "latency_ms": spread([each for one in rounds for each in one.latencies_ms]),
        "per_s": round(1e3 / statistics.median(one.frame_ms for one in rounds), 1),
        "over_best": round(median_ratio(scores, best), 4),
    }


class _Trials:
    """Ways of serving that are measured in turn.

    Attributes:
        served: Measured rounds by the name of the way.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        workers: Mapping[str, int],
        feeds: Sequence[Feed],
        frames: int,
        objective: Objective,
    ) -> None:
        self.served: dict[str, list[ServedRound]] = {}
        self._sessions = sessions
        self._workers = workers
        self._feeds = feeds
        self._frames = frames
        self._objective = objective

    def round(self, order: Sequence[str]) -> None:
        """Measures each way of an order in its turn, after frames that are not timed."""
        number = max(len(self.served.get(name, ())) for name in order)
        for name in order:
            session, rounds = self._sessions[name], self.served.setdefault(name, [])
            warm_up(session, self._feeds, TURN_CALLS, workers=self._workers[name])
            rounds.append(_serve(session, self._feeds, self._frames, self._objective, number))

    def scores(self) -> dict[str, list[float]]:
        """Returns the measured time of each round by the name of the way."""
        return {name: _scores(rounds, self._objective) for name, rounds in self.served.items()}


def _finals(trials: _Trials, names: Sequence[str], config: str) -> dict[str, list[float]]:
    """Measures until the ratios of the near ways to ``Config()`` are exact, or it takes too long."""
    began_s, orders, repetitions = monotonic(), balanced_orders(names), 0
    while True:
        for order in random.Random(repetitions).sample(orders, len(orders)):
            trials.round(order)
        repetitions += 1
        scores, elapsed_s = trials.scores(), monotonic() - began_s
        ratios = [ratio(scores[name], scores[config]) for name in names if name != config]
        exact = all(one.high - one.low <= 2 * PRECISE for one in ratios if one.median <= NEAR)
        if elapsed_s >= FINAL_S[0] and (exact or elapsed_s * (1 + 1 / repetitions) >= FINAL_S[1]):
            return scores


def balanced_orders(names: Sequence[str]) -> list[list[str]]:
    """Returns orders in which each name has each place, and follows each other one, equally often (Williams' design).

    Returns:
        As many orders as names, or twice as many for an odd number of them.
    """
    count = len(names)
    zigzag = [place // 2 if place % 2 == 0 else count - 1 - place // 2 for place in range(count)]
    orders = [[names[(number + shift) % count] for number in zigzag] for shift in range(count)]
    return orders if count % 2 == 0 else [*orders, *(order[::-1] for order in orders)]


def _scores(rounds: Sequence[ServedRound], objective: Objective) -> list[float]:
    return [one.frame_ms if objective.kind == "throughput" else one.mean_ms for one in rounds]


def _serve(session: Session, feeds: Sequence[Feed], frames: int, objective: Objective, seed: int) -> ServedRound:
    if objective.kind == "throughput":
        return as_fast_as_possible(session, feeds, frames, depth=2 * len(os.sched_getaffinity(0)))
    if objective.rate_hz is None:
        return one_at_a_time(session, feeds, frames)
    return at_rate(session, feeds, frames, objective.rate_hz, seed=seed)
