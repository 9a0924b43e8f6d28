"""A model in two stages on two devices, against one device: under load, where it matters.

The devices are really distinct: ONNX Runtime on one pinned core, OpenVINO on the other, one thread each. Frames come
when they come (Poisson, the same seed for all; and regularly, as a camera's clock gives them), whether the one before
is done or not, and latency counts from the time at which a frame was due: nothing hides in a generator that waits.

Baseline: the faster of the two devices alone, at the same arrivals. What else the same two cores could do is told
beside it: both devices as replicas of the whole model, and one engine with two threads. A split can't make one frame
faster unless a stage is faster elsewhere: ``idle`` says what one frame alone takes.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from benchmarks.inputs import networks
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import interleaved, spread
from lineside_converters.split.bundle import SplitResult, sample_feeds, split_bundle
from lineside_converters.split.timing import Feed, StagePlace
from lineside_models import zoo
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

LOADS = scaled((0.8, 0.9, 0.95), smoke=(0.9,))
"""Arrivals as shares of what the best device alone can do."""

FRAMES, ROUNDS, IDLE_CALLS = scaled((200, 3, 60), smoke=(4, 1, 2))
STEPS = tuple(1 + 0.1 * step for step in scaled(range(-1, 12), smoke=range(-1, 0)))
AT = 0.9
"""The load at which latencies are compared."""

QUEUE = 100_000
SINGLES = ("ort", "openvino")


def run() -> dict[str, Any]:
    """Measures EfficientNet-Lite0 INT8 and the shipped detector, each cut anew where it is best on this machine."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("two cores are needed for two devices")
    found: dict[str, Any] = {"baseline": "the faster of ONNX Runtime and OpenVINO alone, one thread on one core"}
    for name, bundle in _networks():
        print(f"  {name} ...", file=sys.stderr, flush=True)
        found[name] = _network(bundle, (cores[0], cores[1]))
        found[f"split_latency_p50_{name}"] = found[name]["split_over_single"]["p50"]
        found[f"split_latency_p95_{name}"] = found[name]["split_over_single"]["p95"]
        found[f"split_throughput_{name}"] = found[name]["throughput_at_equal_p95"]["split"]
    return found


def _networks() -> Iterator[tuple[str, Bundle]]:
    if SMOKE:  # of a real network dozens of cuts are timed
        yield "small", networks.bundle(networks.small())
        return
    yield "lite0", networks.bundle(networks.lite0_int8())
    yield "surface_12", open_bundle(zoo.path("surface-12"))


def _network(bundle: Bundle, cores: tuple[int, int]) -> dict[str, Any]:
    feed = sample_feeds(bundle)[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        places = [StagePlace(engine, cores=(core,)) for engine, core in zip(SINGLES, cores, strict=True)]
        split = split_bundle(bundle, Path(folder) / "split", places, must_gain=False)
        sessions = dict(stack.enter_context(_contestants(bundle, split, cores)))
        idle_ms = _idle(sessions, feed)
        best = min(SINGLES, key=lambda name: statistics.median(idle_ms[name]))
        capacity_hz = 1e3 / statistics.median(idle_ms[best])
        loads = {str(load): _compare(sessions, feed, load * capacity_hz, regular=False) for load in LOADS}
        regular = _compare(sessions, feed, AT * capacity_hz, regular=True)
        limit_ms = loads[str(AT)][best]["p95"]
        steps = {name: _fastest(sessions[name], feed, capacity_hz, limit_ms) for name in ("split", "replicas")}
    compared = loads[str(AT)]
    return {
        "macs": _macs(bundle, feed),
        "input": {name: list(array.shape) for name, array in feed.items()},
        "cut": split.summary() | {"tried": len(split.chosen.tried)},
        "best_single": best,
        "capacity_hz": round(capacity_hz, 1),
        "idle_ms": {name: spread(times) for name, times in idle_ms.items()},
        "latency_ms_at_load": loads,
        f"latency_ms_regular_at_{AT}": regular,
        "split_over_single": {key: round(compared["split"][key] / compared[best][key], 3) for key in ("p50", "p95")},
        "idle_split_over_single": round(statistics.median(idle_ms["split"]) / statistics.median(idle_ms[best]), 3),
        "throughput_at_equal_p95": {name: round(step, 2) for name, step in steps.items()},
    }


def _macs(bundle: Bundle, feed: Feed) -> int:
    """Counts them for inputs of this shape."""
    model = onnx.load(bundle.file(bundle.manifest.variants[0].file))
    for value in model.graph.input:
        for size, number in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
            size.dim_value = number
    del model.graph.value_info[:]  # its shapes are free ones
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "fixed.onnx")
        return networks.macs(Path(folder) / "fixed.onnx")


@contextmanager
def _contestants(bundle: Bundle, split: SplitResult, cores: tuple[int, int]) -> Iterator[dict[str, Session]]:
    ours = {
        "ort": (bundle, Config(engines=("ort",), threads=1, cores=(cores[0],), submit_queue=QUEUE)),
        "openvino": (
            bundle,
            Config(engines=("openvino",), threads=1, cores=(cores[1],), submit_queue=QUEUE),
        ),
        "split": (
            split.bundle,
            Config(
                stage_engines=split.config.stage_engines,
                stage_cores=split.config.stage_cores,
                threads=1,
                submit_queue=QUEUE,
            ),
        ),
        "replicas": (
            bundle,
            Config(
                engines=SINGLES,
                threads=1,
                balance=True,
                replica_cores=((cores[0],), (cores[1],)),
                submit_queue=QUEUE,
            ),
        ),
        "openvino_two_threads": (bundle, Config(engines=("openvino",), threads=2, submit_queue=QUEUE)),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(Session(*arguments)) for name, arguments in ours.items()}


def _idle(sessions: dict[str, Session], feed: Feed) -> dict[str, list[float]]:
    """One frame at a time, in turn."""
    return interleaved({name: partial(_answer, s, feed) for name, s in sessions.items()}, rounds=IDLE_CALLS)


def _answer(session: Session, feed: Feed) -> object:
    return session.submit(feed).result()


def _compare(sessions: dict[str, Session], feed: Feed, rate_hz: float, *, regular: bool) -> dict[str, dict[str, float]]:
    latencies: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(ROUNDS):
        for name, session in sessions.items():
            latencies[name] += _open_loop(session, feed, rate_hz, regular=regular, seed=turn)
    return {name: spread(times) for name, times in latencies.items()}


def _open_loop(session: Session, feed: Feed, rate_hz: float, *, regular: bool, seed: int) -> list[float]:
    """Returns the milliseconds from when each frame was due to when its answer was there."""
    chance = random.Random(seed)
    latencies: list[float] = []
    futures: list[Future[Any]] = []
    pause = threading.Event()
    due = time.perf_counter() + 0.01
    for _ in range(FRAMES):
        due += 1 / rate_hz if regular else chance.expovariate(rate_hz)
        while (left := due - time.perf_counter()) > 0:
            pause.wait(left)
        future = session.submit(feed)
        future.add_done_callback(partial(_note, latencies, due))
        futures.append(future)
    wait(futures)
    for future in futures:
        future.result()
    return latencies


def _note(latencies: list[float], due: float, _: Future[Any]) -> None:
    latencies.append((time.perf_counter() - due) * 1e3)


def _fastest(session: Session, feed: Feed, capacity_hz: float, limit_ms: float) -> float:
    """Returns how many times the best single device's frames it takes while its p95 stays within the limit."""
    reached = 0.0
    for step in STEPS:
        runs = [_open_loop(session, feed, step * capacity_hz, regular=False, seed=turn) for turn in range(ROUNDS)]
        if statistics.median(spread(times)["p95"] for times in runs) > limit_ms:
            break
        reached = step
    return reached
