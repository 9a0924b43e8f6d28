from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from lineside_runtime.errors import BadInputFormatError, EngineError
from lineside_runtime.server.wire import GivenTensor, datatype_of, servable, to_array, to_bytes
from lineside_runtime.tensors import TensorSpec
from tests.runtime.server.models import DTYPES

ROW = TensorSpec(name="x", shape=(-1, 3))


def sent(data: Any, shape: tuple[int, ...] = (1, 3), datatype: str = "FP32") -> GivenTensor:
    return GivenTensor("x", datatype, shape, data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_names_of_the_types_are_the_protocols(dtype: str) -> None:
    assert datatype_of(dtype) == np_to_triton_dtype(np.dtype(dtype))
    assert triton_to_np_dtype(datatype_of(dtype)) == np.dtype(dtype)


def test_a_type_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(EngineError, match="got complex64"):
        datatype_of("complex64")
    assert servable(ROW)
    assert not servable(TensorSpec(name="t", shape=(1,), dtype="string"))


@given(st.data())
def test_bytes_there_and_back_for_every_type_and_shape(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    array = data.draw(stn.arrays(dtype, stn.array_shapes(min_dims=1, max_dims=4, max_side=4)))
    spec = TensorSpec(name="x", shape=(-1,) * array.ndim, dtype=dtype)
    raw = b"?" + to_bytes(array)  # at an odd address
    found = to_array(sent(memoryview(raw)[1:], array.shape, datatype_of(dtype)), spec)
    assert found.dtype == array.dtype
    assert found.flags.aligned
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


@given(st.data())
def test_lists_there_and_back_for_every_type(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    finite = False if "float" in dtype else None
    elements = stn.from_dtype(np.dtype(dtype), allow_nan=finite, allow_infinity=finite)
    array = data.draw(stn.arrays(dtype, stn.array_shapes(max_dims=3, max_side=4), elements=elements))
    spec = TensorSpec(name="x", shape=(-1,) * array.ndim, dtype=dtype)
    for values in (array.tolist(), array.ravel().tolist()):
        np.testing.assert_array_equal(to_array(sent(values, array.shape, datatype_of(dtype)), spec), array)


def test_an_output_that_is_a_view_is_sent_in_its_own_order() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert to_bytes(array) == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (sent([1, 2, 3], datatype="FP64"), "expected x (?, 3) float32, which is FP32; got (1, 3) FP64"),
        (sent([1, 2, 3], shape=(3,)), "got (3) FP32"),
        (sent([1, 2], shape=(1, 2)), "got (1, 2) FP32"),
        (sent([], shape=(0, 3)), "got (0, 3) FP32"),
        (sent([1, 2, 3], shape=(-1, 3)), "got (-1, 3) FP32"),
        (sent([1, 2, 3], shape=(2**62, 3)), "its data has another shape"),
        (sent(b"", shape=(2**62, 3)), "the number of bytes is wrong"),
        (sent(bytes(11)), "expected 12 bytes for (1, 3) FP32; got 11"),
        (sent([1, 2]), "expected 3 elements for (1, 3) FP32; got (2,)"),
        (sent([[1], [2], [3]]), "its data has another shape"),
        (sent([[1, 2], [3]]), "its data is ragged"),
        (sent(["1", "2", "3"]), "its data has another type"),
        (sent([True, False, True]), "its data has another type"),
        (sent([1, 2, 1e39]), "a number is out of range"),
    ],
)
def test_what_does_not_fit_is_told_with_expected_and_actual(tensor: GivenTensor, text: str) -> None:
    with pytest.raises(BadInputFormatError) as caught:
        to_array(tensor, ROW)
    assert text in str(caught.value)
    assert caught.value.code == 2003


@pytest.mark.parametrize(
    ("dtype", "values", "fits"),
    [
        ("uint8", [0, 255, 1], True),
        ("uint8", [0, 256, 1], False),
        ("uint8", [-1, 0, 1], False),
        ("uint8", [0.0, 1.0, 2.0], False),
        ("int64", [-(2**63), 2**63 - 1, 0], True),
        ("int64", [2**63, 0, 0], False),
        ("uint64", [2**64 - 1, 0, 1], True),
        ("uint64", [2**64, 0, 1], False),
        ("uint64", [2**63, -1, 1], False),
        ("uint64", [2**63, True, 1], False),
        ("bool", [True, False, True], True),
        ("bool", [1, 0, 1], False),
        ("float16", [65504, 0, 1], True),
        ("float16", [65600, 0, 1], False),
    ],
)
def test_numbers_are_taken_as_they_are_or_not_at_all(dtype: Any, values: list[Any], fits: bool) -> None:
    spec = TensorSpec(name="x", shape=(3,), dtype=dtype)
    tensor = sent(values, (3,), datatype_of(dtype))
    if fits:
        assert to_array(tensor, spec).tolist() == values
    else:
        with pytest.raises(BadInputFormatError):
            to_array(tensor, spec)
