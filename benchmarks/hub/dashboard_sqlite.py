"""The dashboard of a hub with 1,000 devices and a million results in SQLite; the rest as `benchmarks.hub.dashboard`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hub.dashboard import SETTINGS, measure_sqlite


def run() -> dict[str, Any]:
    """Measures SQLite."""
    with tempfile.TemporaryDirectory(prefix="lineside-dashboard-") as folder:
        return {**SETTINGS, "sqlite": measure_sqlite(Path(folder) / "hub")}
