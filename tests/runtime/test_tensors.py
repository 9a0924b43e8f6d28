from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import TensorSpec

SPEC = TensorSpec(name="image", shape=(-1, 1, -1, 4), layout="NCHW")


def test_a_fitting_array_passes() -> None:
    SPEC.check(np.zeros((3, 1, 7, 4), np.float32))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 1, 7, 5), np.float32),
        np.zeros((3, 2, 7, 4), np.float32),
        np.zeros((1, 7, 4), np.float32),
        np.zeros((3, 1, 7, 4, 1), np.float32),
        np.zeros((3, 1, 7, 4), np.float64),
        np.zeros((), np.float32),
        [[1.0]],
        None,
        "image.png",
    ],
)
def test_another_says_expected_and_actual(array: Any) -> None:
    with pytest.raises(BadInputFormatError) as caught:
        SPEC.check(array)
    assert caught.value.code == 2003
    assert "(N, 1, H, 4) float32 NCHW" in str(caught.value.expected)
    assert str(getattr(array, "shape", type(array).__name__)) in str(caught.value.actual)
    assert "preprocess(inputs)" in str(caught.value)


def test_a_spec_without_layout_is_described_too() -> None:
    assert TensorSpec(name="y", shape=(-1, 3)).describe() == "y (?, 3) float32"


def test_a_spec_travels_as_json_and_takes_no_unknown_field() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SPEC), type=TensorSpec) == SPEC
    with pytest.raises(msgspec.ValidationError, match="axis"):
        msgspec.json.decode(b'{"name": "x", "shape": [1], "axis": 1}', type=TensorSpec)
