"""Every way of serving a bundle, and what ``Config()`` takes after ``lineside plan``, for three arrival patterns.

Three networks, each also cut in two stages where it is best on this machine: the shipped detector, EfficientNet-Lite0
INT8 and ResNet-50 float. For each arrival pattern the planner measures and keeps a plan, as `lineside plan` does. Then
all ways are measured once more in turn, in sessions of their own, with a session of ``Config()`` among them that
follows the kept plan. That finds the best way. It, ``Config()`` and ``Config()`` without a plan are then measured by
themselves, in turn: a dozen ways take two seconds a round, in which the speed of a shared machine changes by more than
the ways differ, and the least of a dozen medians flatters itself.

- ``one``: a frame comes when the one before is answered; mean latency.
- ``rate``: frames come at random times (Poisson, the same for all ways), `LOAD` of what ``Config()`` without a plan can
  answer; mean latency from when a frame is due.
- ``all``: there is always a next frame; time a frame.

``config_over_best`` is the median, over these last rounds, of the time of ``Config()`` over that of the best way.
``configured_over_best`` says the same of ``Config()`` without a plan.

Baseline: the best of all ways.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.inputs import networks
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import median_ratio, spread
from lineside_converters.split.bundle import sample_feeds, split_bundle
from lineside_converters.split.timing import StagePlace
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.planning import Objective, PlacementPlan, plan_placement
from lineside_runtime.planning.arrivals import ServedRound, as_fast_as_possible, at_rate, one_at_a_time
from lineside_runtime.serving.plan_file import plan_file, save_plan
from lineside_runtime.serving.serving_plan import AS_CONFIGURED, ServingPlan
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from lineside_runtime.timing import turns

LOAD = 0.8
"""Arrivals as a share of what ``Config()`` without a plan can answer, one frame at a time."""

PLAN_S, ROUND_S = scaled((20.0, 0.15), smoke=(0.2, 0.01))
ROUNDS, FINAL_ROUNDS = scaled((15, 60), smoke=(2, 2))
FRAMES_MIN, FRAMES_MAX, WARM_CALLS = scaled((8, 60, 10), smoke=(2, 2, 1))
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
    """Measures every way that can serve, and ``Config()`` with the kept plan, in turn."""
    ways: dict[str, ServingPlan | None] = {str(one.plan): one.plan for one in plan.measured if not one.error}
    ways["Config()"] = None
    with ExitStack() as stack:
        config = Config(submit_queue=100_000)  # the same plan as that of Config()
        sessions = {name: stack.enter_context(Session(bundle, config, plan=way)) for name, way in ways.items()}
        if sessions["Config()"].plan != plan.chosen:
            raise RuntimeError("Config() doesn't follow its plan")
        for session in sessions.values():
            as_fast_as_possible(session, feeds, WARM_CALLS, depth=2)
        served = _in_turn(sessions, ROUNDS, feeds, frames, plan.objective)
        scores = {name: _scores(rounds, plan.objective) for name, rounds in served.items()}
        best = min((name for name in ways if name != "Config()"), key=lambda name: statistics.median(scores[name]))
        finalists = {name: sessions[name] for name in dict.fromkeys((best, "Config()", "as configured"))}
        final = {
            name: _scores(rounds, plan.objective)
            for name, rounds in _in_turn(finalists, FINAL_ROUNDS, feeds, frames, plan.objective).items()
        }
    return {
        "objective": str(plan.objective),
        "chosen": str(plan.chosen),
        "why": plan.why,
        "best": best,
        "config_over_best": round(median_ratio(final["Config()"], final[best]), 4),
        "configured_over_best": round(median_ratio(final["as configured"], final[best]), 4),
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


def _in_turn(
    sessions: Mapping[str, Session], rounds: int, feeds: Sequence[Feed], frames: int, objective: Objective
) -> dict[str, list[ServedRound]]:
    found: dict[str, list[ServedRound]] = {name: [] for name in sessions}
    for number in range(rounds):
        for name in turns(list(sessions), number):
            found[name].append(_serve(sessions[name], feeds, frames, objective, number))
    return found


def _scores(rounds: Sequence[ServedRound], objective: Objective) -> list[float]:
    return [one.frame_ms if objective.kind == "throughput" else one.mean_ms for one in rounds]


def _serve(session: Session, feeds: Sequence[Feed], frames: int, objective: Objective, seed: int) -> ServedRound:
    if objective.kind == "throughput":
        return as_fast_as_possible(session, feeds, frames, depth=2 * len(os.sched_getaffinity(0)))
    if objective.rate_hz is None:
        return one_at_a_time(session, feeds, frames)
    return at_rate(session, feeds, frames, objective.rate_hz, seed=seed)
