"""Two devices that share the calls, against each of them alone, and against one engine that has the whole machine.

The devices are ONNX Runtime on one pinned core and OpenVINO on another: two engines and two cores of one processor,
which is what this machine has. They share its memory and its caches, so what is seen here is the least that two real
devices would give. EfficientNet-Lite0 INT8, threads that each submit a frame when their last one is answered.

- ``throughput_ratio_at_equal_latency``: frames a second of both over those of the better one alone, each with as many
  callers as keep the 95th percentile of the latency at or below that of the better one alone with two callers.
- ``over_one_engine_on_all_cores``: the same against the better engine with two workers on both cores. That is what one
  would do on one processor: sharing between engines pays where there are two devices, and not here.
- ``shares``: where the balancer sent the calls; it begins with half and half.

Baseline: the better of the two devices alone.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from typing import Any

import numpy as np

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from lineside_runtime.config import Config
from lineside_runtime.session import Session

CALLERS = scaled((1, 2, 3, 4, 6), smoke=(2, 4))
ROUNDS = scaled(5, smoke=1)
SLICE_S = scaled(0.6, smoke=0.2)
PATIENCE_S = 60.0
ENGINES = ("ort", "openvino")


def run() -> dict[str, Any]:
    """Measures each set-up with each number of callers, in turn."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {"baseline": "none", "not_measured": "this process has one core, and two devices need two"}
    bundle, frame = networks.bundle(networks.lite0_int8()), networks.frame()
    setups = {
        "ort": Config(engines=("ort",), threads=1, cores=(cores[0],)),
        "openvino": Config(engines=("openvino",), threads=1, cores=(cores[1],)),
        "both": Config(engines=ENGINES, threads=1, balance=True, replica_cores=((cores[0],), (cores[1],))),
        "ort_on_all_cores": Config(engines=("ort",), threads=1, submit_workers=2),
        "openvino_on_all_cores": Config(engines=("openvino",), threads=1, submit_workers=2),
    }
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(Session(bundle, config)) for name, config in setups.items()}
        for session in sessions.values():
            _load(session, frame, callers=2, for_s=SLICE_S)  # warm
        seen: dict[tuple[str, int], list[dict[str, float]]] = {}
        for number in range(ROUNDS):
            print(f"  round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for callers in CALLERS:
                for name, session in sessions.items():
                    seen.setdefault((name, callers), []).append(_load(session, frame, callers=callers, for_s=SLICE_S))
        shares = {one.device: round(one.share, 3) for one in sessions["both"].shares}
        service_ms = {one.device: round(one.service_ms, 3) for one in sessions["both"].shares}
    curves = {name: {callers: _middle(seen[name, callers]) for callers in CALLERS} for name in setups}
    return {"cores": cores, "curves": curves, "shares": shares, "service_ms": service_ms, **_ratios(curves)}


def _load(session: Session, frame: np.ndarray[Any, Any], *, callers: int, for_s: float) -> dict[str, float]:
    """Returns frames a second and latencies of callers that never wait between two frames."""
    latencies: list[float] = []
    end_s = time.perf_counter() + for_s

    def call() -> None:
        while (began_s := time.perf_counter()) < end_s:
            session.submit(frame).result(PATIENCE_S)
            latencies.append((time.perf_counter() - began_s) * 1e3)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return {
        "per_s": len(latencies) / (time.perf_counter() - began_s),
        "p50_ms": statistics.median(latencies),
        "p95_ms": float(np.percentile(latencies, 95)),
    }


def _middle(slices: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(one[key] for one in slices), 3) for key in slices[0]}


def _ratios(curves: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    best = max(ENGINES, key=lambda name: curves[name][2]["per_s"])
    limit_ms = curves[best][2]["p95_ms"]
    both = _most(curves["both"], limit_ms)
    whole = max((_most(curves[f"{name}_on_all_cores"], limit_ms) for name in ENGINES), key=lambda one: one["per_s"])
    return {
        "baseline": f"{best} on one core, the better of the two devices alone, with two callers",
        "best_single": best,
        "latency_limit_p95_ms": limit_ms,
        "throughput_ratio_at_equal_latency": round(both["per_s"] / curves[best][2]["per_s"], 3),
        "over_one_engine_on_all_cores": round(both["per_s"] / whole["per_s"], 3) if whole["per_s"] else None,
        "both_per_s_over_the_sum_of_each_alone": round(
            max(one["per_s"] for one in curves["both"].values()) / sum(curves[name][2]["per_s"] for name in ENGINES), 3
        ),
        "latency_p50_of_both_over_best_with_four_callers": round(
            curves["both"][4]["p50_ms"] / curves[best][4]["p50_ms"], 3
        ),
    }


def _most(curve: dict[int, dict[str, float]], limit_ms: float) -> dict[str, float]:
    """Returns the point with the most frames a second whose latency is within the limit."""
    within = [point for point in curve.values() if point["p95_ms"] <= limit_ms]
    return max(within, key=lambda point: point["per_s"], default={"per_s": 0.0})
