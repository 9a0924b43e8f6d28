"""Training on several workers: bytes, waiting, prediction, accuracy, deaths.

Finished seeds of the accuracy are kept in ``benchmarks/.training/``.

make bench-training, or a part: python -m benchmarks.training.wire (more_workers, loop, kills, accuracy)
"""

from __future__ import annotations

import importlib
from typing import Any

PARTS = ("wire", "more_workers", "loop", "accuracy", "kills")


def run() -> dict[str, Any]:
    """Runs every part."""
    return {name: importlib.import_module(f"benchmarks.training.{name}").run() for name in PARTS}
