"""The benchmark of pruning: what it says of several seeds, and its control."""

from __future__ import annotations

import pytest

pytest.importorskip("torch_pruning", reason="the train extra is not installed")

from benchmarks.converters.pruning import unpruned
from benchmarks.converters.pruning.searching import compared, name_of
from benchmarks.converters.pruning.speeds import PRUNED


def test_seeds_are_told_one_by_one_with_mean_and_spread() -> None:
    areas = {"level 2": 2.0}
    for seed, search, random in ((0, 2.0, 1.0), (1, 3.0, 2.0), (7, 4.0, 3.0)):
        areas |= {name_of("search", seed): search, name_of("random", seed): random}
    found = compared(areas, (0, 1, 7))
    assert found["seeds"] == [0, 1, 7]
    assert found["hypervolume"]["search"] == {"mean": 3.0, "sd": 1.0, "per_seed": [2.0, 3.0, 4.0]}
    assert found["hypervolume"]["random"]["mean"] == 2.0
    assert found["against_level2"] == found["against_random"] == 1.5
    assert found["against_random_per_seed"] == [2.0, 1.5, 1.3333]


def test_a_form_is_held_against_the_control_of_its_precision() -> None:
    assert unpruned.beside(PRUNED) == unpruned.FLOAT
    assert unpruned.beside("onnx-int8 in ort") == unpruned.beside("openvino-int8") == unpruned.INT8
    assert unpruned.steps_of({"curve": [{"step": 896}, {"step": 3584}]}) == 3584
