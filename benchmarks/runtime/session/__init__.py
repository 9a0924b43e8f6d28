"""The runtime against the bare engines. Each part is a module with ``run``; their keys are merged into one object."""

from __future__ import annotations

import importlib
import sys
from typing import Any

PARTS = ("overhead", "start", "reload", "cache", "submit", "fallback", "outside")


def run() -> dict[str, Any]:
    """Runs every part; ``baselines`` says what each part's figures are relative to."""
    found: dict[str, Any] = {"baselines": {}}
    for part in PARTS:
        print(f"  {part} ...", file=sys.stderr, flush=True)
        result = importlib.import_module(f"benchmarks.runtime.session.{part}").run()
        found["baselines"][part] = result.pop("baseline")
        found.update(result)
    return found
