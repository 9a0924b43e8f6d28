"""Whether memory grows when models are loaded and unloaded again and again.

Baseline: the same process after the first 50 cycles, 51 to 70; against it stand the last 20, each by their median, as
what is resident wavers by 1 % from one cycle to the next. Python's first full collection, which reads half a megabyte
of the libraries' data for the first time, is made at the end of the warm cycles, or it would fall behind them.

A cycle opens a session, runs it and closes it; every second one reloads another session, which goes on. It runs in a
process of its own, so that nothing else is in the figure. The bare engine does the same in another process, for
comparison: what it leaks, we can't give back. ONNX Runtime's telemetry is off in both: with it each load keeps 1 kB.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import msgspec

from benchmarks.smoke import scaled
from lineside_models import zoo

CYCLES = scaled(1000, smoke=4)
WARM_CYCLES = scaled(50, smoke=2)

COMMON = """
    import gc
    import json
    import sys
    import numpy

    def resident_kb():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    path, cycles, warm = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    image = numpy.zeros((1, 1, 224, 224), numpy.float32)
    seen = []

    def watch(cycle):
        for number in range(1, cycles + 1):
            cycle(number)
            if number == warm:
                gc.collect()
            if number > warm:
                seen.append(resident_kb())
        print(json.dumps([numpy.median(seen[:20]), max(seen), numpy.median(seen[-20:])]))
"""
OURS = """
    from lineside import Config, Session

    config = Config(threads=1)
    lasting = Session(path, config)

    def cycle(number):
        with Session(path, config) as session:
            session.predict(image)
        if number % 2:
            lasting.reload()
            lasting.predict(image)

    watch(cycle)
"""
BARE = """
    import onnxruntime

    def cycle(number):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = path + "/onnx-int8-mirrored/model.onnx"
        bare = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        bare.run(None, {"image": image})

    watch(cycle)
"""


def run() -> dict[str, Any]:
    """Runs the cycles with the shipped INT8 detector."""
    ours, bare = _resident_kb(OURS), _resident_kb(BARE)
    return {
        "baseline": f"the same process after {WARM_CYCLES} cycles",
        "reload_growth": _growth(ours),
        "reload_cycles": CYCLES,
        "reload_resident_mb": {
            name: round(kilobytes / 1024, 1) for name, kilobytes in zip(("first", "most", "last"), ours, strict=True)
        },
        "reload_growth_bare_engine": _growth(bare),
    }


def _growth(resident_kb: list[float]) -> float:
    return round(resident_kb[2] / resident_kb[0] - 1, 4)


def _resident_kb(script: str) -> list[float]:
    """Returns resident memory after the warm cycles, at most, and at the end."""
    code = textwrap.dedent(COMMON) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, str(zoo.path("surface-12")), str(CYCLES), str(WARM_CYCLES)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(found, type=list[float])
