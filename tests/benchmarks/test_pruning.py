"""The benchmark of pruning: its control."""

from __future__ import annotations

import pytest

pytest.importorskip("torch_pruning", reason="the train extra is not installed")

from benchmarks.converters.pruning import unpruned
from benchmarks.converters.pruning.speeds import PRUNED


def test_a_form_is_held_against_the_control_of_its_precision() -> None:
    assert unpruned.control_of(PRUNED) == unpruned.FLOAT
    assert unpruned.control_of("onnx-int8 in ort") == unpruned.control_of("openvino-int8") == unpruned.INT8
    assert unpruned.steps_of({"curve": [{"step": 896}, {"step": 3584}]}) == 3584
