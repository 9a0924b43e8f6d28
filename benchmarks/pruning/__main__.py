"""python -m benchmarks.pruning [PART ...]: runs parts alone and prints their figures."""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.pruning import PARTS

if __name__ == "__main__":
    found = {name: importlib.import_module(f"benchmarks.pruning.{name}").run() for name in sys.argv[1:] or PARTS}
    print(json.dumps(found, indent=1))
