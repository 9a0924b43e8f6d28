"""``make bench``: runs every benchmark, prints one JSON object and writes each under ``benchmarks/results/``.

python -m benchmarks [NAME ...]
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from lineside_runtime.benchmark.machine import machine
from lineside_runtime.files import write_atomic

NAMES = (
    "detector",
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
    "line_io",
    "wear",
    "drift",
    "others",
)
LONG = ("optimizer", "pruning", "boards")
"""Those that train, download or build first, for up to an hour: run by name only."""
RESULTS = Path(__file__).parent / "results"
TOOLS = ("lineside", "onnxruntime", "numpy", "opencv-python-headless", "paho-mqtt", "amqtt")


def conditions() -> dict[str, object]:
    """Describes where the figures come from."""
    return {**msgspec.structs.asdict(machine()), "tools": {name: version(name) for name in TOOLS}}


def main(names: list[str]) -> int:
    """Runs the named benchmarks, or all."""
    RESULTS.mkdir(exist_ok=True)
    found = {}
    for name in names or NAMES:
        print(f"benchmark {name} ...", file=sys.stderr, flush=True)
        found[name] = importlib.import_module(f"benchmarks.{name}").run()
        written = {"machine": conditions(), **found[name]}
        write_atomic(RESULTS / f"{name}.json", (json.dumps(written, indent=1) + "\n").encode())
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
