"""``--gradients auto`` takes only what the accuracy benchmark's result shows."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from benchmarks.figures.components.training import ACCURACY_BAR_POINTS
from benchmarks.registry import RESULTS
from lineside_converters.training.distributed.scheme_selection import SHOWN_EQUAL
from lineside_converters.training.distributed.sharding import LAYOUTS


def test_schemes_that_are_taken_by_themselves_are_shown_by_the_result() -> None:
    from benchmarks.converters.training.accuracy import CASES  # here: it imports scipy.stats, which takes seconds

    found = json.loads((RESULTS / "training.accuracy.json").read_text())

    def is_shown(name: str) -> bool:
        intervals = [found[task].get(name, {}).get("interval_95") for task in ("classifier", "detector")]
        return all(interval is not None and interval[0] >= -ACCURACY_BAR_POINTS for interval in intervals)

    shown = {(layout, scheme) for name, (layout, scheme) in CASES.items() if is_shown(name)}
    expected = shown | {(layout, "fp32") for layout in LAYOUTS}
    assert {(layout, scheme) for layout, schemes in SHOWN_EQUAL.items() for scheme in schemes} == expected
