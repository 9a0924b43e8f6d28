"""The optimizer's figures, a row a file: ``python -m benchmarks optimizer``, or one row as ``optimizer.text_encoder``.

Every row says its baseline. Times of what is compared are taken in turn in one process, with one thread on the same
frames; recipes and thresholds see no frame that is judged on.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

ROWS = ("level1", "biases", "text_encoder", "others")


def run() -> dict[str, Any]:
    """Measures every row."""
    found = {}
    for row in ROWS:
        print(f"  {row} ...", file=sys.stderr, flush=True)
        found[row] = importlib.import_module(f"benchmarks.optimizer.{row}").run()
    return found
