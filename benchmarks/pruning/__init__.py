"""Levels 2 and 3 and distillation. Finished work is kept in ``benchmarks/.pruning/``: figures alone take a few minutes.

python -m benchmarks pruning, or a part: python -m benchmarks.pruning detector
"""

from __future__ import annotations

import importlib
from typing import Any

PARTS = ("detector", "classifier", "distilling", "searching")


def run() -> dict[str, Any]:
    """Runs every part."""
    return {name: importlib.import_module(f"benchmarks.pruning.{name}").run() for name in PARTS}
