"""Read JSON and TOML that come from outside this process.

msgspec raises `UnicodeDecodeError` for bytes that are no UTF-8 and `RecursionError` for nesting without end, beside
its own `msgspec.DecodeError`. Here each of them is a `msgspec.DecodeError`, so that a reader needs one ``except``. The
linter refuses the functions of msgspec everywhere else.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import msgspec

T = TypeVar("T")
Text = bytes | bytearray | memoryview | str
OUTSIDE_MSGSPEC = (UnicodeDecodeError, RecursionError)


class JsonDecoder(Generic[T]):
    """A decoder of one type that is made once and used often.

    Args:
        kind: What the JSON holds.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, data: Text) -> T:
        """Reads one value.

        Raises:
            msgspec.DecodeError: It is no JSON, no UTF-8, nested too deeply, or (`msgspec.ValidationError`) of another
                type.
        """
        try:
            return self._decode(data)
        except OUTSIDE_MSGSPEC as error:
            raise msgspec.DecodeError(str(error)) from error


@overload
def decode_json(data: Text) -> Any: ...
@overload
def decode_json(data: Text, *, type: type[T]) -> T: ...
@overload
def decode_json(data: Text, *, type: Any) -> Any: ...
def decode_json(data: Text, *, type: Any = Any) -> Any:
    """Reads one JSON value; the arguments are msgspec's, the errors those of `JsonDecoder.decode`."""
    try:
        return msgspec.json.decode(data, type=type)
    except OUTSIDE_MSGSPEC as error:
        raise msgspec.DecodeError(str(error)) from error


@overload
def decode_toml(data: bytes | str) -> Any: ...
@overload
def decode_toml(data: bytes | str, *, type: type[T], dec_hook: Callable[[Any, Any], Any] | None = None) -> T: ...
@overload
def decode_toml(data: bytes | str, *, type: Any, dec_hook: Callable[[Any, Any], Any] | None = None) -> Any: ...
def decode_toml(data: bytes | str, *, type: Any = Any, dec_hook: Callable[[Any, Any], Any] | None = None) -> Any:
    """Reads a TOML document; the arguments are msgspec's, the errors those of `JsonDecoder.decode`.

    A byte order mark at its beginning, as editors on Windows write it, is left out.
    """
    data = data.removeprefix("\ufeff") if isinstance(data, str) else data.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.toml.decode(data, type=type, dec_hook=dec_hook)
    except OUTSIDE_MSGSPEC as error:
        raise msgspec.DecodeError(str(error)) from error
