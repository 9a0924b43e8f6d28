"""The result cache: what a hit takes by level, and what a miss costs.

Baseline: the same call of a session without a cache, on EfficientNet-Lite0 INT8 at 224 x 224, one thread: an input of
(1, 3, 224, 224) float32 (602 kB, all of which is hashed) and an output of 1000 floats.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import redis
import xxhash

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_runtime.cache.config import CacheConfig
from lineside_runtime.cache.levels import ResultCache
from lineside_runtime.cache.placement import CachedPlacement
from lineside_runtime.config import Config
from lineside_runtime.serving.types import Prediction
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from tests.peers.redis_server import running_server

FLOORS = ("xxh3_128", "redis-py get")
ROUNDS = scaled(40, smoke=2)
BLOCK = scaled(50, smoke=2)
MISS_ROUNDS = scaled(500, smoke=2)
MODEL_ROUNDS = scaled(60, smoke=2)
FLUSH_S = 10.0
REDIS_TIMEOUT_S = 1.0  # on a busy machine a look-up may wait for the processor; that is what p95 shows


def run() -> dict[str, Any]:
    """Measures hits and misses."""
    bundle = networks.bundle(networks.lite0_int8())
    frame = networks.frame()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = stack.enter_context(running_server(Path(folder) / "redis")).url
        levels = {
            "l2": CacheConfig(),
            "sqlite": CacheConfig(memory_bytes=0, sqlite=Path(folder) / "cache.db"),
            "redis": CacheConfig(memory_bytes=0, redis=(address,), redis_timeout_s=REDIS_TIMEOUT_S),
        }
        sessions = {name: stack.enter_context(Session(bundle, _config(cache))) for name, cache in levels.items()}
        plain = stack.enter_context(Session(bundle, _config(None)))
        for session in sessions.values():
            _prime(session, frame)
        calls = {name: lambda s=s: s.infer(frame) for name, s in sessions.items()}
        found = interleaved({**calls, **_floors(address, frame, stack)}, rounds=ROUNDS, block=BLOCK)
        hits, floors = {name: found[name] for name in calls}, {name: found[name] for name in FLOORS}
        for name, session in sessions.items():
            _check(name, session)
        device = interleaved({"device": lambda: plain.infer(frame)}, rounds=MODEL_ROUNDS)["device"]
        misses = _misses(levels, plain, frame, Path(folder))
    device_ms = spread(device)["p50"]
    return {
        "baseline": "the same call of a session without a cache, EfficientNet-Lite0 INT8, ORT, 1 thread",
        "cache_device_ms": spread(device),
        **{f"{name}_hit_us": round(spread(times)["p50"] * 1e3, 1) for name, times in hits.items()},
        "cache_floor_us": {name: _in_us(times) for name, times in floors.items()},
        "cache_hit_us_spread": {name: _in_us(times) for name, times in hits.items()},
        "cache_miss_us": {name: _in_us(times) for name, times in misses.items()},
        "cache_miss_share": {name: round(spread(times)["p50"] / device_ms, 5) for name, times in misses.items()},
    }


def _floors(address: str, frame: Array, stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Returns what no cache can do without on this machine: hashing the input, and a value of 4 kB from Redis.

    A machine's speed drifts, and the bars are microseconds: these two say in which state it was.
    """
    client = stack.enter_context(redis.Redis.from_url(address))
    client.set("floor", bytes(4096))
    return dict(zip(FLOORS, (lambda: xxhash.xxh3_128_digest(frame.data), lambda: client.get("floor")), strict=True))


def _config(cache: CacheConfig | None) -> Config:
    return Config(threads=1, engines=("ort",), cache=cache)


def _prime(session: Session, frame: Array) -> None:
    session.predict(frame)
    if session._cache is not None and not session._cache.flush(FLUSH_S):
        raise TimeoutError("the cache did not write")


def _check(name: str, session: Session) -> None:
    """A benchmark that timed misses as hits would be worse than none."""
    stats = session.cache_stats
    if stats is None or stats.misses > 1:
        raise RuntimeError(f"{name} missed: {stats}")


class _Instant:
    """A placement with a ready answer, so that only the cache's cost of a miss is left."""

    def __init__(self, session: Session, frame: Array) -> None:
        self._placement = session._serving.placement
        self._answer = session.infer(frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._placement, name)

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        return self._answer


def _misses(levels: Mapping[str, CacheConfig], plain: Session, frame: Array, folder: Path) -> dict[str, list[float]]:
    """Times calls that no level can answer: hash, look-up, hash again, copy, queue; the writing is done beside it."""
    redis = levels["redis"].redis
    every = CacheConfig(sqlite=folder / "all.db", redis=redis, redis_timeout_s=REDIS_TIMEOUT_S)
    configs = {"l2": CacheConfig(), "l2+sqlite": CacheConfig(sqlite=folder / "two.db"), "l2+sqlite+redis": every}
    instant, fresh = _Instant(plain, frame), _Fresh(frame)
    caches = {name: ResultCache(config) for name, config in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in caches}
    try:
        cached = {name: CachedPlacement(cache, instant, Config(threads=1)) for name, cache in caches.items()}  # type: ignore[arg-type]
        for _ in range(MISS_ROUNDS):
            for name, cache in caches.items():
                inputs = fresh.next()
                began = time.perf_counter_ns()
                cached[name].run(inputs)
                times[name].append((time.perf_counter_ns() - began) / 1e6)
                cache.flush(FLUSH_S)  # an engine would run meanwhile
    finally:
        for cache in caches.values():
            cache.close()
    return times


class _Fresh:
    """New frames, made in place, so that making one takes no time."""

    def __init__(self, frame: Array) -> None:
        self._frame = frame.copy()
        self._number = self._frame.reshape(-1)[:1].view(np.uint32)
        self._inputs = {"image": self._frame}

    def next(self) -> Mapping[str, Array]:
        self._number += 1
        return self._inputs


def _in_us(times_ms: list[float]) -> dict[str, float]:
    return {name: round(value * 1e3, 2) for name, value in spread(times_ms).items()}
