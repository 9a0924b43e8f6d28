"""A loop around a bare ``onnxruntime``, that imports nothing of lineside: ``bare_loop.py MODEL CALLS``.

Prints the milliseconds of each call as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime


def main(model: str, calls: int) -> None:
    """Warms up, and times."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    tensor = np.random.default_rng(7).random(given.shape, np.float32) * 2 - 1
    for _ in range(30):
        session.run(None, {given.name: tensor})
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        session.run(None, {given.name: tensor})
        times.append((time.perf_counter() - began) * 1e3)
    print(json.dumps(times))


main(sys.argv[1], int(sys.argv[2]))
