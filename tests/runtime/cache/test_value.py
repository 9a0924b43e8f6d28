from __future__ import annotations

import tracemalloc

import hypothesis.extra.numpy as shapes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_runtime.cache import value
from lineside_runtime.cache.value import DamagedValueError, data_bytes, decode, encode, keep

KEY = b"k" * 32
DTYPES = st.sampled_from([np.dtype(code) for code in ["?", "u1", "i1", "i4", "i8", "f2", "f4", "f8"]])
OUTPUTS = st.dictionaries(
    st.text(max_size=6), shapes.arrays(DTYPES, shapes.array_shapes(min_dims=0, min_side=0, max_side=5)), max_size=3
)
ONE = {"y": np.arange(12, dtype=np.float32).reshape(3, 4)}


@given(OUTPUTS)
def test_what_is_written_is_read_again_bit_for_bit(outputs: dict[str, np.ndarray]) -> None:
    entry = decode(KEY, encode(KEY, keep(outputs, "ort/cpu:0")))
    assert entry.device == "ort/cpu:0"
    assert list(entry.outputs) == list(outputs)
    for name, array in outputs.items():
        found = entry.outputs[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("read", [False, True])
def test_nobody_can_write_to_what_is_kept(read: bool) -> None:
    entry = keep(ONE, "d")
    if read:
        entry = decode(KEY, encode(KEY, entry))
    with pytest.raises(ValueError, match="read-only"):
        entry.outputs["y"][0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        entry.outputs["y"].flags.writeable = True


def test_what_is_kept_is_a_copy() -> None:
    outputs = {"y": np.ones(4, np.float32)}
    entry = keep(outputs, "d")
    outputs["y"][:] = 7
    assert entry.outputs["y"].tolist() == [1, 1, 1, 1]


@given(st.data())
def test_a_value_with_any_changed_bit_is_refused(data: st.DataObject) -> None:
    whole = bytearray(encode(KEY, keep(ONE, "d")))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedValueError):
        decode(KEY, bytes(whole))


@given(st.integers(0, 10_000))
def test_a_torn_value_is_refused(length: int) -> None:
    whole = encode(KEY, keep(ONE, "d"))
    with pytest.raises(DamagedValueError):
        decode(KEY, whole[: length % len(whole)])


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedValueError):
        decode(KEY, data)


def test_the_value_of_another_key_is_refused() -> None:
    with pytest.raises(DamagedValueError, match="checksum"):
        decode(b"j" * 32, encode(KEY, keep(ONE, "d")))


def _forged(header: object) -> bytes:
    """A value whose checksum is right and whose header isn't: what somebody who can write to the store can make."""
    encoded = msgspec.msgpack.encode(header)
    body = len(encoded).to_bytes(4, "little") + encoded
    return value.MAGIC + value._checksum(KEY, body).to_bytes(8, "little") + body


@pytest.mark.parametrize(
    "header",
    [
        [2, "d", []],
        [1, "d", [["y", "|O", [1]]]],
        [1, "d", [["y", "<f4", [1 << 60]]]],
        [1, "d", [["y", "<f4", [-1]]]],
        [1, "d", [["y", "<f4", [4]]]],
        [1, "d", [["y", "<f4", [0] * 100]]],
        [1, "d", [["y", "<f4", [0, 1 << 62, 1 << 62]]]],
        [1, "d", [["y", "no type", [0]]]],
        [1, "d"],
        {"version": 1},
        "text",
    ],
)
def test_a_forged_header_is_refused_before_memory_is_taken(header: object) -> None:
    with pytest.raises(DamagedValueError):
        decode(KEY, _forged(header))


def test_a_header_longer_than_the_value_is_refused() -> None:
    body = (1 << 31).to_bytes(4, "little")
    forged = value.MAGIC + value._checksum(KEY, body).to_bytes(8, "little") + body
    with pytest.raises(DamagedValueError):
        decode(KEY, forged)


def test_only_plain_numbers_are_kept() -> None:
    assert data_bytes(ONE) == 48
    assert data_bytes({"y": np.array([object()])}) is None
    assert data_bytes({"y": np.array(["text"])}) is None
    assert data_bytes({"y": np.zeros(2, np.dtype(">f4"))}) is None


def test_the_counted_size_is_what_python_takes() -> None:
    outputs = {name: np.zeros(1000, np.float32) for name in ("a", "b", "c")}
    count = 200
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        entries = {bytes([n]) * 32: (keep(outputs, "ort/cpu:0"), float(n)) for n in range(count)}
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = sum(entry.size_bytes for entry, _ in entries.values())
    assert 0.95 <= counted / taken <= 1.1
