from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineside_runtime.bundle import sample_inputs
from lineside_runtime.errors import BadInputFormatError
from lineside_runtime.tensors import InputCheck, TensorSpec
from tests.runtime.onnx_models import make_bundle, scaler

IMAGE = TensorSpec(name="image", shape=(-1, 1, -1, -1), layout="NCHW")
SIZE = TensorSpec(name="size", shape=(2,), dtype="int64")


def image(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.zeros(shape, np.float32)


def test_a_lone_array_is_named() -> None:
    check = InputCheck((IMAGE,))
    first = image(1, 1, 4, 4)
    assert check(first) == {"image": first}
    again = image(1, 1, 4, 4)
    assert check(again)["image"] is again


def test_inputs_by_name_are_handed_on_as_they_are() -> None:
    check = InputCheck((IMAGE, SIZE))
    inputs = {"size": np.array([1, 2]), "image": image(1, 1, 2, 2)}
    assert check(inputs) is inputs
    assert check(inputs) is inputs


@pytest.mark.parametrize(
    "then",
    [
        image(1, 2, 4, 4),
        image(1, 1, 4),
        np.zeros((1, 1, 4, 4), np.float64),
        np.zeros((1, 1, 4, 4), ">f4"),
        [[1.0]],
        None,
    ],
)
def test_what_was_accepted_before_opens_no_door_for_something_else(then: object) -> None:
    """The check remembers the last good shape and type; anything else goes through the whole check."""
    alone, named = InputCheck((IMAGE,)), InputCheck((IMAGE,))
    for _ in range(2):
        alone(image(1, 1, 4, 4))
        named({"image": image(1, 1, 4, 4)})
        with pytest.raises(BadInputFormatError):
            alone(then)  # type: ignore[arg-type]  # a wrong type on purpose
        with pytest.raises(BadInputFormatError):
            named({"image": then})  # type: ignore[dict-item]  # a wrong type on purpose


def test_free_sizes_may_change_from_call_to_call() -> None:
    check = InputCheck((IMAGE,))
    for side in (4, 8, 4):
        assert check(image(2, 1, side, side))["image"].shape == (2, 1, side, side)


def test_the_sample_has_one_frames_shape(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", scaler(1.0), ((IMAGE, SIZE), (IMAGE,)))
    sample = sample_inputs(bundle.manifest)
    side = bundle.manifest.preprocess.min_side
    assert sample["image"].shape == (1, 1, side, side)
    assert sample["size"].tolist() == [0, 0]
