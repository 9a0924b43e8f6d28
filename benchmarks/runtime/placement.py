"""Every way of serving a bundle, and what ``Config()`` takes after ``lineside plan``, for three arrival patterns.

Three networks, each also cut in two stages where it is best on this machine: the shipped detector, EfficientNet-Lite0
INT8 and ResNet-50 float. For each arrival pattern the planner measures and keeps a plan, as `lineside plan` does. Then
all ways are measured once more in turn, and the finalists once more by themselves: the two fastest ways, the way of the
plan and the configured one. (A dozen ways take two seconds a round, in which the speed of a shared machine changes by
more than the ways differ.) The best way is the fastest of these last rounds.

- The session of the plan's way is one of ``Config()``, which follows the kept plan. A way is measured once: where the
  plan is also the best way, or the configured one, both names mean one session.
- Finalists have their turns in each possible order equally often, and a turn begins with frames that are not timed:
  else a way would pay for what the way before leaves behind (caches, threads that still wait for work).
- As the best way is taken from the same rounds, chance makes the plan look slower than it is, not faster.

Arrival patterns:

- ``one``: a frame comes when the one before is answered; mean latency.
- ``rate``: frames come at random times (Poisson, the same for all ways), `LOAD` of what ``Config()`` without a plan can
  answer; mean latency from when a frame is due.
- ``all``: there is always a next frame; time a frame.

``config_over_best`` compares ``Config()`` with the best way, ``configured_over_best`` ``Config()`` without a plan, and
``next_over_config`` the fastest other finalist with ``Config()``: the median of the ratios of a round, and its 95 %
interval.

Baseline: the best of all ways.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lineside_runtime.benchmark.summary_statistics import ratio
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.planning import Objective, PlacementPlan, plan_placement
from lineside_runtime.planning.arrivals import ServedRound, as_fast_as_possible, at_rate, one_at_a_time, warm_up
from lineside_runtime.serving.plan_file import plan_file, save_plan
from lineside_runtime.serving.serving_plan import AS_CONFIGURED
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

LOAD = 0.8
"""Arrivals as a share of what ``Config()`` without a plan can answer, one frame at a time."""

PLAN_S, ROUND_S = scaled((20.0, 0.15), smoke=(0.2, 0.01))
ROUNDS, FINAL_S = scaled((9, 40.0), smoke=(2, 0.01))
FINALISTS = 2
"""Fastest ways that are measured once more, beside that of the plan and the configured one."""

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
            cut = split_bundle(whole, Path(folder) / name, places, must_gain=False)
            found["networks"][name] = _network(cut.bundle)
    worst = [one["config_over_best"] for each in found["networks"].values() for one in each["patterns"].values()]
    return found | {"config_over_best_worst": max(worst)}


def _networks() -> Iterator[tuple[str, Bundle]]:
    if SMOKE:
        yield "small", networks.bundle(networks.small())
        return
    yield "surface_12", open_bundle(zoo.path("surface-12"))
    yield "lite0", networks.bundle(networks.lite0_int8())
    yield "resnet50", networks.bundle(networks.resnet50_float())


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
        plan = plan_placement(bundle, objective=objective, feeds=feeds, limit_s=PLAN_S)
        save_plan(plan, plan_file(bundle, Config()))
        print(f"    {plan.why}", file=sys.stderr, flush=True)
        patterns[name] = _pattern(bundle, plan, feeds, frames)
    return {"idle_ms": round(idle_ms, 3), "rate_hz": rate_hz, "frames_a_round": frames, "patterns": patterns}


def _pattern(bundle: Bundle, plan: PlacementPlan, feeds: Sequence[Feed], frames: int) -> dict[str, Any]:
    """Measures every way that can serve, then the finalists; the session of the plan's way is one of ``Config()``."""
    ways = {str(one.plan): one.plan for one in plan.measured if not one.error}
    chosen, plain = str(plan.chosen), str(AS_CONFIGURED)
    with ExitStack() as stack:
        config = Config(submit_queue=100_000)  # the same plan as that of Config()
        by_plan = {name: None if name == chosen else way for name, way in ways.items()}
        sessions = {name: stack.enter_context(Session(bundle, config, plan=way)) for name, way in by_plan.items()}
        if sessions[chosen].plan != plan.chosen:
            raise RuntimeError("Config() doesn't follow its plan")
        for name, session in sessions.items():
            warm_up(session, feeds, WARM_CALLS, workers=ways[name].workers)
        trials = _Trials(sessions, {name: way.workers for name, way in ways.items()}, feeds, frames, plan.objective)
        served = trials.rounds(random.Random(number).sample([*ways], len(ways)) for number in range(ROUNDS))
        scores = {name: _scores(rounds, plan.objective) for name, rounds in served.items()}
        fastest = sorted(ways, key=lambda name: median_ratio(scores[name], scores[chosen]))
        finalists = list(dict.fromkeys((*fastest[:FINALISTS], chosen, plain)))
        last = trials.rounds(_all_orders(finalists))
        final = {name: _scores(last[name], plan.objective) for name in finalists}
    ordered = sorted(finalists, key=lambda name: median_ratio(final[name], final[chosen]))
    best, following = ordered[0], next((name for name in ordered if name != chosen), chosen)
    ratios = {
        "config_over_best": ratio(final[chosen], final[best]),
        "configured_over_best": ratio(final[plain], final[best]),
        "next_over_config": ratio(final[following], final[chosen]),
    }
    return {
        "objective": str(plan.objective),
        "chosen": chosen,
        "why": plan.why,
        "best": best,
        "rounds": len(final[chosen]),
        "next": following,
        **{key: round(one.median, 4) for key, one in ratios.items()},
        "intervals": {key: [round(one.low, 4), round(one.high, 4)] for key, one in ratios.items()},
        "ways": {
            name: {
                "ms": round(statistics.median(scores[name]), 4),
                "latency_ms": spread([each for one in rounds for each in one.latencies_ms]),
                "per_s": round(sum(len(one.latencies_ms) for one in rounds) / sum(one.elapsed_s for one in rounds), 1),
                "over_best": round(median_ratio(scores[name], scores[best]), 4),
            }
            for name, rounds in served.items()
        },
    }


class _Trials:
    """Ways of serving that are measured in turn.

    Attributes:
        workers: Frames that each way runs at once.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        workers: Mapping[str, int],
        feeds: Sequence[Feed],
        frames: int,
        objective: Objective,
    ) -> None:
        self.workers = workers
        self._sessions = sessions
        self._feeds = feeds
        self._frames = frames
        self._objective = objective

    def rounds(self, orders: Iterable[Sequence[str]]) -> dict[str, list[ServedRound]]:
        """Measures each way of an order in its turn, after frames that are not timed."""
        found: dict[str, list[ServedRound]] = {name: [] for name in self._sessions}
        for number, order in enumerate(orders):
            for name in order:
                warm_up(self._sessions[name], self._feeds, TURN_CALLS, workers=self.workers[name])
                found[name].append(_serve(self._sessions[name], self._feeds, self._frames, self._objective, number))
        return found


def _all_orders(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields all orders, again and again, each as often, until `FINAL_S` are over."""
    began_s = monotonic()
    while True:
        yield from itertools.permutations(names)
        if monotonic() - began_s >= FINAL_S:
            return


def _scores(rounds: Sequence[ServedRound], objective: Objective) -> list[float]:
    return [one.frame_ms if objective.kind == "throughput" else one.mean_ms for one in rounds]


def _serve(session: Session, feeds: Sequence[Feed], frames: int, objective: Objective, seed: int) -> ServedRound:
    if objective.kind == "throughput":
        return as_fast_as_possible(session, feeds, frames, depth=2 * len(os.sched_getaffinity(0)))
    if objective.rate_hz is None:
        return one_at_a_time(session, feeds, frames)
    return at_rate(session, feeds, frames, objective.rate_hz, seed=seed)
