"""Levels 2 and 3 and distillation. Finished work is kept in ``benchmarks/.pruning/``: figures alone take a few minutes.

python -m benchmarks pruning, or a part: python -m benchmarks.pruning detector

Each part keeps what it has trained, so that one that was ended goes on; ``searching`` also seed by seed (``--seed``).
Times are measured again at the end of each part, so call it once more when nothing else runs.
"""

from __future__ import annotations

import importlib
from typing import Any

PARTS = ("detector", "classifier", "distilling", "searching")


def run() -> dict[str, Any]:
    """Runs every part."""
    return {name: importlib.import_module(f"benchmarks.pruning.{name}").run() for name in PARTS}
