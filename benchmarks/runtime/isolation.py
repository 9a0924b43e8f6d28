"""What it costs to run an engine in a process of its own, and what it gives.

Baseline: the same engine's executable in this process, same file, options and input, in blocks of calls in turn. The
machine decides much: a call goes through the scheduler twice, and what that takes depends on who else wants the cores.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, median_ratio, spread
from lineside_runtime import registry
from lineside_runtime.backend import LoadOptions
from lineside_runtime.config import Config
from lineside_runtime.engine_process.engine import IsolatedBackend, isolated
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array

TINY_ROUNDS, LITE0_ROUNDS, STARTS, CRASHES = scaled((300, 40, 8, 20), smoke=(2, 2, 2, 2))
OPTIONS = LoadOptions(threads=1, precision="int8")


def run() -> dict[str, Any]:
    """Measures a tiny model, EfficientNet-Lite0 INT8, starting, memory, and a crash."""
    tiny = _call(networks.tiny(), {"x": np.ones((1, 4), np.float32)}, TINY_ROUNDS, block=20)
    lite0 = _call(networks.lite0_int8(), {"image": networks.frame()}, LITE0_ROUNDS, block=10)
    return {
        "baseline": "the same engine's executable in this process, in turn",
        "isolated_extra_us_tiny": tiny["extra_us_p50"],
        "isolated_extra_us_lite0": lite0["extra_us_p50"],
        "isolated_ratio_lite0": lite0["ratio"],
        "tiny": tiny,
        "lite0": lite0,
        **_starts(),
        **_crashes(),
    }


def _call(model: Path, feed: dict[str, Array], rounds: int, block: int = 1) -> dict[str, Any]:
    here, child = registry.backend("ort"), isolated("ort", None)
    device = here.probe()[0]
    loaded = [backend.load(model, device, OPTIONS) for backend in (here, child)]
    calls = {"here": lambda: loaded[0].run(feed), "child": lambda: loaded[1].run(feed)}
    times = interleaved(calls, rounds=rounds, block=block)
    for executable in loaded:
        executable.close()
    extra_ms = statistics.median(theirs - ours for ours, theirs in zip(times["here"], times["child"], strict=True))
    return {
        "macs": networks.macs(model),
        "input_bytes": sum(array.nbytes for array in feed.values()),
        "here_ms": spread(times["here"]),
        "child_ms": spread(times["child"]),
        "extra_us_p50": round(extra_ms * 1e3, 1),
        "ratio": round(median_ratio(times["child"], times["here"]), 4),
    }


def _starts() -> dict[str, Any]:
    """From nothing to a loaded model, against loading it where the engine is imported already; and the memory."""
    model, here = networks.lite0_int8(), registry.backend("ort")
    device = here.probe()[0]
    started_ms, loaded_ms, kilobytes = [], [], []
    for _ in range(STARTS):
        began = time.perf_counter()
        child = IsolatedBackend("ort", "", None)
        executable = child.load(model, device, OPTIONS)
        started_ms.append((time.perf_counter() - began) * 1e3)
        executable.run({"image": networks.frame()})
        kilobytes.append(_memory_kb(child.pid or 0))
        executable.close()
        began = time.perf_counter()
        here.load(model, device, OPTIONS).close()
        loaded_ms.append((time.perf_counter() - began) * 1e3)
    return {
        "start_child_ms": spread(started_ms),
        "load_here_ms": spread(loaded_ms),
        "child_resident_mb": round(statistics.median(rss for rss, _ in kilobytes) / 1024, 1),
        "child_proportional_mb": round(statistics.median(pss for _, pss in kilobytes) / 1024, 1),
    }


def _memory_kb(pid: int) -> tuple[int, int]:
    """Returns resident memory, and the proportional share of it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = {line.partition(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return fields["Rss"], fields["Pss"]


def _crashes() -> dict[str, Any]:
    """From ``kill -9`` of the child to the first answer of a standby in this process."""
    frame = networks.frame()
    bundle = networks.bundle(networks.lite0_int8())
    config = Config(engines=("ort", "openvino"), isolate=("ort",), standby=True, threads=1)
    answered_ms, alone_ms, lost = [], [], 0
    for _ in range(CRASHES):
        with Session(bundle, config) as session:
            session.predict(frame)
            os.kill(isolated("ort", None).pid or 0, signal.SIGKILL)
            began = time.perf_counter()
            first = session.infer(frame)
            answered_ms.append((time.perf_counter() - began) * 1e3)
            lost += first.used_device != "openvino/cpu:0"
            alone_ms.append(session.infer(frame).inference_ms)
    return {
        "crash_to_answer_ms": spread(answered_ms),
        "standby_alone_ms": spread(alone_ms),
        "crash_to_answer_ratio": round(median_ratio(answered_ms, alone_ms), 3),
        "answers_lost": lost,
    }
