"""What `Session.predict` costs over the bare engine.

Baseline: ``onnxruntime.InferenceSession.run`` of the same file, same options, same input, in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from benchmarks.timing import interleaved, median_ratio, spread
from lineside_models import zoo
from lineside_runtime.placement import Config
from lineside_runtime.session import Session

ROUNDS = 300


def run() -> dict[str, Any]:
    """Measures the shipped INT8 detector at its small size."""
    with Session(zoo.path("surface-12"), Config(threads=1, engines=("ort",))) as session:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        model = session.bundle.file(session.manifest.variants[0].file)
        bare = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        tensor = np.zeros((1, 1, 224, 224), np.float32)
        name = session.manifest.inputs[0].name
        times = interleaved(
            {"session": lambda: session.predict(tensor), "bare": lambda: bare.run(None, {name: tensor})}, rounds=ROUNDS
        )
    extra = [(ours - theirs) * 1e3 for ours, theirs in zip(times["session"], times["bare"], strict=True)]
    return {
        "baseline": "onnxruntime.InferenceSession.run",
        "session_ms": spread(times["session"]),
        "bare_ms": spread(times["bare"]),
        "ratio": round(median_ratio(times["session"], times["bare"]), 4),
        "overhead_us_p50": round(float(np.median(extra)), 2),
    }
