"""Latency and throughput over the share of calls that the result cache answers, and what a miss costs.

Baseline: the same calls of a session without a cache, in turn with the others; one thread, one caller.

The customer's text says 85 -> 23 ms and 3.8 times the throughput. That is a matter of how often the same frame comes
again and of nothing else, so this says at which share it is reached. `run` also draws ``cache_curve.svg`` beside its
JSON.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import networks
from benchmarks.runtime.cache_picture import CUSTOMERS_LATENCY, CUSTOMERS_THROUGHPUT, draw
from benchmarks.smoke import scaled
from benchmarks.timing import median_ratio
from lineside_models import zoo
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.bundle import Bundle
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.config import Config
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

SHARES = scaled(tuple(number / 10 for number in range(11)), smoke=(0.0, 0.5, 1.0))
CALLS = 20
"""Of each share in a round: enough that 10 % of them is a whole number."""

ROUNDS = scaled(30, smoke=1)
HOT = 8
"""Frames that come again."""


def run(out: Path) -> dict[str, Any]:
    """Measures EfficientNet-Lite0 INT8 and the shipped detector, each with the cache in host memory.

    Args:
        out: Folder for ``cache_curve.svg``.
    """
    lite0 = networks.bundle(networks.lite0_int8())
    detector = zoo.path("surface-12")
    image = render("steel", 7).image
    with Session(detector, _config(False)) as session:
        detector_frame, _ = prepare(image, session.manifest.preprocess)
    found = {
        "lite0_int8": _network(lite0, networks.frame()),
        "surface_12": _network(detector, detector_frame),
    }
    write_atomic(out / "cache_curve.svg", draw(found).encode())
    return {
        "baseline": "the same calls of a session without a cache, ORT, 1 thread, 1 caller, in turn",
        "customers": {"latency_ratio": round(CUSTOMERS_LATENCY, 4), "throughput_ratio": CUSTOMERS_THROUGHPUT},
        "networks": found,
    }


def _config(cached: bool) -> Config:
    return Config(threads=1, engines=("ort",), cache=CacheConfig() if cached else None)


def _network(bundle: Bundle | Path, frame: Array) -> dict[str, Any]:
    with Session(bundle, _config(False)) as plain, Session(bundle, _config(True)) as cached:
        calls = _Calls(frame)
        for hot in calls.hot:
            plain.predict(hot)
            cached.predict(hot)
        device: list[list[float]] = []
        times: dict[float, list[list[float]]] = {share: [] for share in SHARES}
        for number in range(ROUNDS):
            device.append([_timed(plain, one) for one in calls.block(0.0, number)])
            for share in SHARES:
                before = cached.cache_stats
                times[share].append([_timed(cached, one) for one in calls.block(share, number)])
                _check(before, cached.cache_stats, share)
    return _summary(frame, device, times)


def _timed(session: Session, frame: Array) -> float:
    began = time.perf_counter_ns()
    session.predict(frame)
    return (time.perf_counter_ns() - began) / 1e6


def _check(before: Any, after: Any, share: float) -> None:
    hits = (after.hits - before.hits) / CALLS
    if abs(hits - share) > 1e-9:
        raise RuntimeError(f"the share of hits is {hits} and not {share}")


class _Calls:
    """Frames in a mixture: some that come again, the others never seen before."""

    def __init__(self, frame: Array) -> None:
        self.hot = [self._other(frame, number) for number in range(HOT)]
        self._frame = frame
        self._number = HOT

    def block(self, share: float, seed: int) -> Sequence[Array]:
        """Returns `CALLS` frames of which exactly this share has been seen, shuffled."""
        hits = round(share * CALLS)
        frames = [self.hot[number % HOT] for number in range(hits)]
        for _ in range(CALLS - hits):
            self._number += 1
            frames.append(self._other(self._frame, self._number))
        random.Random(seed).shuffle(frames)
        return frames

    @staticmethod
    def _other(frame: Array, number: int) -> Array:
        other: Array = frame.copy()
        other.reshape(-1)[:1].view(np.uint32)[0] += number
        return other


def _summary(frame: Array, device: list[list[float]], times: dict[float, list[list[float]]]) -> dict[str, Any]:
    device_ms = [statistics.mean(block) for block in device]
    hit_ms = statistics.median(one for block in times[1.0] for one in block)
    hit_over_device = hit_ms / statistics.median(device_ms)
    curve = [_point(share, times[share], device_ms, hit_over_device) for share in SHARES]
    return {
        "input": f"{tuple(frame.shape)} {frame.dtype}",
        "device_ms": round(statistics.median(device_ms), 4),
        "hit_ms": round(hit_ms, 4),
        "miss_over_device": curve[0]["latency_ratio"],
        "curve": curve,
        "customers_latency_at": _reached(curve, CUSTOMERS_LATENCY, hit_over_device),
        "customers_throughput_at": _reached(curve, 1 / CUSTOMERS_THROUGHPUT, hit_over_device),
    }


def _point(share: float, blocks: list[list[float]], device_ms: list[float], hit_over_device: float) -> dict[str, float]:
    """One share of hits. Ratios are of the means of the same round, and of them the median: the machine drifts."""
    means_ms = [statistics.mean(block) for block in blocks]
    ratio = median_ratio(means_ms, device_ms)
    times = [one for block in blocks for one in block]
    return {
        "hit_rate": share,
        "latency_ms_mean": round(statistics.median(means_ms), 4),
        "latency_ms_p50": round(statistics.median(times), 4),
        "latency_ms_p99": round(statistics.quantiles(times, n=100)[98], 4),
        "latency_ratio": round(ratio, 4),
        "computed_ratio": round(1 - share * (1 - hit_over_device), 4),
        "frames_per_s": round(1e3 / statistics.median(means_ms), 1),
        "throughput_ratio": round(1 / ratio, 3),
    }


def _reached(curve: Sequence[dict[str, float]], wanted: float, hit_over_device: float) -> dict[str, float | None]:
    """Returns the share of hits at which the mean latency is ``wanted`` of the device's: measured, ``None`` if
    no share that was measured reaches it, and computed.
    """
    measured: float | None = None
    for one, other in itertools.pairwise(curve):
        high, low = one["latency_ratio"], other["latency_ratio"]
        if high >= wanted >= low:
            part = (high - wanted) / (high - low)
            measured = round(one["hit_rate"] + part * (other["hit_rate"] - one["hit_rate"]), 3)
    return {"measured": measured, "computed": round((1 - wanted) / (1 - hit_over_device), 3)}
