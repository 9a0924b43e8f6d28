"""What a session costs before it serves: the time to the first inference, and memory.

Baseline: a process that imports onnxruntime, loads the same file with the same options and runs the same input. Both
are processes of their own, started in turn, from before Python's start until the answer is there: each then reads the
clock that all processes share and prints it. Both run in an environment into which pip has installed this checkout as a
device has it, without the extras: what a development environment has beside it would be looked for and imported. The
files are in the page cache for both, and Python's code is compiled.

ONNX Runtime's telemetry is off in both, as the benchmark's own process has turned it off for its children.

Memory is what is resident after 20 inferences, told by the kernel (``VmRSS``); the session has no standby.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from benchmarks.others.environments import python_of
from benchmarks.smoke import SMOKE, scaled
from benchmarks.timing import median_ratio, spread
from lineside_models import zoo

TURNS = scaled(40, smoke=2)
MEMORY_TURNS = scaled(5, smoke=1)
CALLS = scaled(20, smoke=1)
CHECKOUT = Path(__file__).parents[3]

OURS = """
    import sys
    import numpy
    from lineside import Config, Session

    session = Session(sys.argv[1], Config(threads=1))
    image = numpy.zeros((1, 1, 224, 224), numpy.float32)
    call = lambda: session.predict(image)
"""
BARE = """
    import sys
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    path = sys.argv[1] + "/onnx-int8-mirrored/model.onnx"
    bare = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = numpy.zeros((1, 1, 224, 224), numpy.float32)
    call = lambda: bare.run(None, {"image": image})
"""
ONCE = """
    call()
    import time
    print(time.clock_gettime_ns(time.CLOCK_MONOTONIC))
"""
RESIDENT = """
    for _ in range(int(sys.argv[2])):
        call()
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")][0])
"""


def run() -> dict[str, Any]:
    """Starts both in turn, for the time and then for the memory."""
    bundle = zoo.path("surface-12")
    scripts = {"session": OURS, "bare": BARE}
    times: dict[str, list[float]] = {name: [] for name in scripts}
    python = Path(sys.executable) if SMOKE else _installed()
    for turn in range(TURNS + 1):
        for name, script in scripts.items():
            elapsed_ms = _timed_ms(python, script + ONCE, bundle)
            if turn:  # the first ones fill the page cache
                times[name].append(elapsed_ms)
    memory = {name: _resident_mb(python, script + RESIDENT, bundle) for name, script in scripts.items()}
    return {
        "baseline": "a Python process with onnxruntime alone that loads and runs the same file",
        "first_inference_ratio": round(median_ratio(times["session"], times["bare"]), 3),
        "first_inference_ms": {name: spread(each) for name, each in times.items()},
        "resident_over_engine_mb": round(memory["session"] - memory["bare"], 1),
        "resident_mb": {name: round(each, 1) for name, each in memory.items()},
    }


def _installed() -> Path:
    """Returns the interpreter of an environment that has this checkout as a device has it."""
    shutil.rmtree(CHECKOUT / "build", ignore_errors=True)  # setuptools would install what was deleted since
    python = python_of("device")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--force-reinstall")
    subprocess.run([*pip, CHECKOUT], check=True, stdout=sys.stderr)
    return python


def _timed_ms(python: Path, script: str, bundle: Path) -> float:
    began_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return (int(_start(python, script, str(bundle))) - began_ns) / 1e6


def _resident_mb(python: Path, script: str, bundle: Path) -> float:
    kilobytes = [int(_start(python, script, str(bundle), str(CALLS))) for _ in range(MEMORY_TURNS)]
    return statistics.median(kilobytes) / 1024


def _start(python: Path, script: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if SMOKE or name != "PYTHONPATH"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [str(python), "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
