"""``make bench``: runs every benchmark, prints one JSON object and writes each under ``benchmarks/results/``.

python -m benchmarks [NAME ...] [--minutes M]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from lineside_runtime.benchmark.machine import machine
from lineside_runtime.files import write_atomic

NAMES = (
    "detector",
    "decoding",
    "predict",
    "runtime",
    "balance",
    "isolation",
    "split",
    "cache_curve",
    "serve",
    "link",
    "transfer",
    "results_in",
    "fleet",
    "pipeline",
    "agent_start",
    "agent_memory",
    "line_io",
    "hot_swap",
    "views",
    "wear",
    "drift",
    "others",
)
LONG = ("optimizer", "pruning", "training", "boards", "yolo11n")
"""Those that train, download or build first, for up to an hour: run by name only."""
RESULTS = Path(__file__).parent / "results"
TOOLS = ("lineside", "onnxruntime", "numpy", "opencv-python-headless", "paho-mqtt", "amqtt")


def conditions() -> dict[str, object]:
    """Describes where the figures come from."""
    return {**msgspec.structs.asdict(machine()), "tools": {name: version(name) for name in TOOLS}}


def main(arguments: list[str]) -> int:
    """Runs the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join((*NAMES, *LONG))}; all but the long"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="of training, for those that train (yolo11n)")
    options = parser.parse_args(arguments)
    RESULTS.mkdir(exist_ok=True)
    found = {}
    for name in options.names or NAMES:
        print(f"benchmark {name} ...", file=sys.stderr, flush=True)
        run = importlib.import_module(f"benchmarks.{name}").run
        trains = "minutes" in inspect.signature(run).parameters
        if options.minutes is not None and not trains:
            parser.error(f"{name} trains nothing: leave out --minutes")
        found[name] = run(minutes=options.minutes) if trains else run()
        written = {"machine": conditions(), **found[name]}
        write_atomic(RESULTS / f"{name}.json", (json.dumps(written, indent=1) + "\n").encode())
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
