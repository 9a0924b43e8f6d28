"""Whether `lineside.Benchmark` says of itself what somebody else measures: a check from outside.

Baseline: `bare_loop.py`, a script that imports nothing of lineside, on the same file with one thread; the two run
in turn. What is compared is the median latency and the frames a second that each says.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import median_ratio
from lineside_runtime.benchmark import Benchmark
from lineside_runtime.config import Config

TIMES = scaled(5, smoke=1)
CALLS = scaled(150, smoke=5)
ROUNDS = scaled(50, smoke=10)


def run() -> dict[str, Any]:
    """Measures EfficientNet-Lite0 INT8 both ways, in turn."""
    model = networks.lite0_int8()
    bundle = networks.bundle(model)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for _ in range(TIMES):
        theirs.append(_loop(model))
        (found,) = Benchmark(bundle, Config(threads=1, engines=("ort",)), rounds=ROUNDS, alone_runs=0).run().results
        ours.append((found.latency_ms.p50, found.throughput_fps))
    return {
        "baseline": "a loop around onnxruntime in a script that imports nothing of lineside",
        "bench_latency_over_outside": round(_ratio(ours, theirs, 0), 3),
        "bench_throughput_over_outside": round(_ratio(ours, theirs, 1), 3),
    }


def _ratio(ours: list[tuple[float, float]], theirs: list[tuple[float, float]], which: int) -> float:
    return median_ratio([one[which] for one in ours], [one[which] for one in theirs])


def _loop(model: Path) -> tuple[float, float]:
    script = Path(__file__).with_name("bare_loop.py")
    done = subprocess.run([sys.executable, script, model, str(CALLS)], check=True, capture_output=True, text=True)
    times_ms = json.loads(done.stdout)
    return statistics.median(times_ms), len(times_ms) / sum(times_ms) * 1e3
