"""What `Session.submit` costs over `Session.predict`: the hand-over to a worker thread and back.

Baseline: ``ThreadPoolExecutor.submit(session.predict, …).result()`` of the standard library, which has neither deadline
nor second device, on the tiny model, in turn.
"""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.inputs import networks
from benchmarks.smoke import scaled
from benchmarks.timing import interleaved, spread
from lineside_runtime.config import Config
from lineside_runtime.session import Session

ROUNDS = scaled(3000, smoke=2)


def run() -> dict[str, Any]:
    """Times one call at a time, from the caller's thread and back."""
    bundle, x = networks.bundle(networks.tiny()), np.ones((1, 4), np.float32)
    with Session(bundle, Config(engines=("ort",), threads=1)) as session, ThreadPoolExecutor(1) as pool:
        times = interleaved(
            {
                "predict": lambda: session.predict(x),
                "submit": lambda: session.submit(x).result(),
                "with_deadline": lambda: session.submit(x, deadline_s=1.0).result(),
                "executor": lambda: pool.submit(session.predict, x).result(),
            },
            rounds=ROUNDS,
        )
    over = {
        name: statistics.median(a - b for a, b in zip(times[name], times["predict"], strict=True)) * 1e3
        for name in ("submit", "with_deadline", "executor")
    }
    return {
        "baseline": "ThreadPoolExecutor.submit(session.predict) on the tiny model",
        "submit_over_predict_us_p50": {name: round(us, 1) for name, us in over.items()},
        "submit_ms": spread(times["submit"]),
        "submit_over_executor_us_p50": round(over["submit"] - over["executor"], 1),
    }
