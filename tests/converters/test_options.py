"""The keyword arguments of the `Optimizer` and the structs that they become."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lineside_converters.optimizer import Optimizer
from lineside_converters.options import DataOptions, LimitOptions, ModelOptions, OptimizerOptions, read_options
from lineside_runtime.errors import ConfigError

CONVERTED = {"data": "folders", "labels": "facts", "preprocess": "facts", "postprocess": "facts"}
OWN = {"metric_name"}
"""Fields that the optimizer sets itself."""


def test_every_keyword_argument_is_in_one_struct() -> None:
    fields = [field.name for kind in (DataOptions, ModelOptions, LimitOptions) for field in dataclasses.fields(kind)]
    assert len(set(fields)) == len(fields)
    assert {CONVERTED.get(name, name) for name in OptimizerOptions.__annotations__} == set(fields) - OWN


def test_folders_are_paths_and_an_iterator_of_frames_is_kept() -> None:
    given: Any = {"data": "photos", "frames": iter(["a.png"]), "out": "bundle", "max_drop": 1}
    data, model, limits = read_options(given)
    assert data.folders == (Path("photos"),) and data.frames == ["a.png"]
    assert model.out == Path("bundle") and model.work is None
    assert isinstance(limits.max_drop, float) and limits.seed == 20


@pytest.mark.parametrize(
    ("options", "key"), [({"min_metric": 1.5}, "min_metric"), ({"frames": 3}, "frames"), ({"effort": {"x": 1}}, "x")]
)
def test_a_value_out_of_range_is_refused(options: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        read_options(options)


def test_an_option_that_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge_fold"):
        Optimizer("surface-12-float", judge_fold="val")
    with pytest.raises(ConfigError, match=r"effort.*level 1"):
        Optimizer("surface-12-float", effort={"epochs": 3})
    with pytest.raises(ConfigError, match=r"labels.*manifest of surface-12-float"):
        Optimizer("surface-12-float", labels=["dent"], out=tmp_path / "out").run()


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'max_dorp'"):
        Optimizer("model.onnx", max_dorp=0.1)  # type: ignore[call-arg]
