from __future__ import annotations

import os
from pathlib import Path

import hypothesis.extra.numpy as shapes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lineside_runtime import registry
from lineside_runtime.bundle import Variant
from lineside_runtime.cache.key import inputs_digest, namespace, processor
from lineside_runtime.config import Config
from lineside_runtime.devices import Device
from lineside_runtime.serving.candidates import PlacementCandidate

DTYPES = st.sampled_from([np.dtype(code) for code in ["u1", "i1", "i4", "i8", "f2", "f4", "f8", "?"]])
ARRAYS = shapes.arrays(DTYPES, shapes.array_shapes(min_dims=0, min_side=0, max_side=5))
CPU = Device("cpu")
NAMES = st.text(max_size=6)


def test_the_same_bytes_have_the_same_key_wherever_they_lie() -> None:
    frame = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    turned = np.asfortranarray(frame)
    every_second = np.repeat(frame, 2, axis=2)[:, :, ::2]
    digest = inputs_digest({"x": frame})
    assert digest is not None and len(digest) == 16
    assert digest == inputs_digest({"x": turned}) == inputs_digest({"x": every_second})


def test_the_order_of_the_inputs_is_of_no_matter() -> None:
    a, b = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert inputs_digest({"a": a, "b": b}) == inputs_digest({"b": b, "a": a})
    assert inputs_digest({"a": a, "b": b}) != inputs_digest({"a": b, "b": a})


def test_what_is_not_made_of_bytes_has_no_key() -> None:
    texts = np.array(["a", "b"], dtype=object)
    assert inputs_digest({"x": np.zeros(2, np.float32), "t": texts}) is None
    assert inputs_digest({"t": ["a", "b"]}) is None  # type: ignore[dict-item]  # a wrong type on purpose
    assert inputs_digest({"t": np.array(["a", "b"])}) is not None


@given(ARRAYS, NAMES, ARRAYS, NAMES)
def test_another_name_type_shape_or_byte_is_another_key(
    one: np.ndarray, name: str, other: np.ndarray, other_name: str
) -> None:
    same = (
        name == other_name
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.tobytes() == other.tobytes()
    )
    assert (inputs_digest({name: one}) == inputs_digest({other_name: other})) == same


@given(ARRAYS, st.data())
def test_the_same_bytes_in_another_shape_or_type_are_another_key(array: np.ndarray, data: st.DataObject) -> None:
    flat = array.reshape(-1)
    assume(array.shape != flat.shape)
    assert inputs_digest({"x": array}) != inputs_digest({"x": flat})
    kinds = {1: ("u1", "i1", "?"), 2: ("i2", "u2", "f2"), 4: ("i4", "u4", "f4"), 8: ("i8", "u8", "f8")}
    kind = np.dtype(data.draw(st.sampled_from(kinds[array.dtype.itemsize])))
    assume(kind != array.dtype)
    assert inputs_digest({"x": array}) != inputs_digest({"x": array.view(kind)})


@given(ARRAYS, st.data())
def test_any_changed_byte_is_another_key(array: np.ndarray, data: st.DataObject) -> None:
    assume(array.nbytes and array.dtype != np.bool_)
    changed = bytearray(array.tobytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    other = np.frombuffer(bytes(changed), array.dtype).reshape(array.shape)
    assert inputs_digest({"x": array}) != inputs_digest({"x": other})


@given(st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=3), st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=3))
def test_several_inputs_are_told_apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    def told(inputs: dict[str, np.ndarray]) -> object:
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in inputs.items()}

    assert (inputs_digest(one) == inputs_digest(other)) == (told(one) == told(other))


def _candidate(engine: str = "ort", *, variant: str = "int8", device: Device = CPU) -> PlacementCandidate:
    made = Variant(name=variant, format="onnx", file="m.onnx", level=1, precision="int8")
    return PlacementCandidate(registry.backend(engine), device, made)


def test_whatever_may_change_the_outputs_is_another_name() -> None:
    names = [
        namespace("a", [_candidate()], Config(threads=1)),
        namespace("b", [_candidate()], Config(threads=1)),
        namespace("a", [_candidate(variant="float")], Config(threads=1)),
        namespace("a", [_candidate("openvino")], Config(threads=1)),
        namespace("a", [_candidate()], Config(threads=2)),
        namespace("a", [_candidate()], Config(threads=1, cores=(0,))),
        namespace("a", [_candidate()], Config(threads=1, submit_workers=2)),
        namespace("a", [_candidate(device=Device("gpu"))], Config(threads=1)),
        namespace("a", [_candidate(device=Device("gpu", name="another"))], Config(threads=1)),
        namespace("a", [_candidate(), _candidate("openvino")], Config(threads=1)),
        namespace("a", [_candidate("openvino"), _candidate()], Config(threads=1)),
    ]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {16}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="there is one core")
def test_a_process_that_is_kept_on_fewer_cores_has_another_name() -> None:
    before, cores = namespace("a", [_candidate()], Config()), os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert namespace("a", [_candidate()], Config()) != before
    finally:
        os.sched_setaffinity(0, cores)


def test_replicas_on_equal_devices_share_their_results() -> None:
    one, other = Device("gpu", 0, name="card"), Device("gpu", 1, name="card")
    assert namespace("a", [_candidate(device=one)], Config(threads=1)) == namespace(
        "a", [_candidate(device=other)], Config(threads=1)
    )


def test_another_content_of_an_operator_library_is_another_name(tmp_path: Path) -> None:
    library, copy = tmp_path / "liboperators.so", tmp_path / "copy.so"
    config = Config(operator_libraries={"ort": (str(library),)})
    names = [namespace("a", [_candidate()], Config()), namespace("a", [_candidate()], config)]
    for content in (b"1.0", b"1.1"):
        library.write_bytes(content)
        names.append(namespace("a", [_candidate()], config))
    assert len(set(names)) == 4
    copy.write_bytes(b"1.1")
    assert namespace("a", [_candidate()], Config(operator_libraries={"ort": (str(copy),)})) == names[-1]
    others = Config(operator_libraries={"openvino": (str(library),)})
    assert namespace("a", [_candidate()], others) == names[0]


def test_another_version_of_the_engine_is_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = namespace("a", [_candidate()], Config(threads=1))
    monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    assert namespace("a", [_candidate()], Config(threads=1)) != before


def test_the_processor_is_told_by_its_instructions() -> None:
    assert len(processor().split()) > 5
