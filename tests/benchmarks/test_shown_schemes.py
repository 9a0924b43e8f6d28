"""``--gradients auto`` takes only what the accuracy benchmark's result shows."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from benchmarks.figures.components.training import ACCURACY_BAR_POINTS
from benchmarks.registry import RESULTS
from lineside_converters.training.distributed.gradients import SCHEMES
from lineside_converters.training.distributed.scheme_selection import SHOWN_EQUAL


def test_schemes_that_are_taken_by_themselves_are_shown_by_the_result() -> None:
    found = json.loads((RESULTS / "training.accuracy.json").read_text())

    def is_shown(name: str) -> bool:
        intervals = [found[task].get(name, {}).get("interval_95") for task in ("classifier", "detector")]
        return all(interval is not None and interval[0] >= -ACCURACY_BAR_POINTS for interval in intervals)

    assert set(SHOWN_EQUAL) == {"fp32", *(name for name in SCHEMES if name != "fp32" and is_shown(name))}
