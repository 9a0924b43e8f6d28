"""One error for whatever can't be read."""

from __future__ import annotations

import msgspec
import pytest

from lineside_runtime.decoding import JsonDecoder, decode_json, decode_toml

UNREADABLE = [b"", b"{", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": ' + b"[" * 100_000, b"\x00", b"[1]"]


@pytest.mark.parametrize("data", UNREADABLE, ids=range(len(UNREADABLE)))
def test_json_that_cannot_be_read_is_one_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_json(data, type=dict[str, object])
    with pytest.raises(msgspec.DecodeError):
        JsonDecoder(dict[str, object]).decode(data)


@pytest.mark.parametrize("data", [b"a = ", b'a = "\xff"', b"a = " + b"[" * 100_000, b"a = 1\na = 2"], ids=range(4))
def test_toml_that_cannot_be_read_is_one_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_toml(data)


def test_a_byte_order_mark_of_an_editor_is_left_out() -> None:
    assert decode_toml(b"\xef\xbb\xbfa = 1\n") == decode_toml("\ufeffa = 1\n") == {"a": 1}


class Row(msgspec.Struct):
    seq: int


def test_a_value_of_another_type_says_where() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.seq"):
        decode_json(b'{"seq": "text"}', type=Row)
