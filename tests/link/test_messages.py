"""One definition for both ends: what goes in comes out, also half a release apart."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_link import messages
from lineside_link.messages import (
    VERSION,
    Desired,
    Message,
    Problem,
    RepoResponse,
    codec,
    decode,
    decode_framed,
    encode,
    encode_framed,
    schema,
)
from lineside_runtime.errors import BadInputFormatError, GoldenMismatchError

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(0, 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False, width=32),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for values of a type: all fields of a struct are drawn."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return values(arguments[0])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(*map(values, arguments), max_size=2)
    return st.builds(
        kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind) if field.name != "v"}
    )


KINDS = {kind: values(kind) for kind in Message.__subclasses__()}
ANY = st.one_of(*KINDS.values())


@given(message=ANY, apart=st.sampled_from([-1, 1]))
def test_what_is_written_is_read_back_also_half_a_release_apart(message: Any, apart: int) -> None:
    kind, fields = type(message), json.loads(encode(message))
    assert decode(encode(message), kind) == message
    later = json.dumps(fields | {"of_a_later_release": {"x": 1}}).encode()
    assert decode(later, kind) == message, "an unknown field is ignored"
    assert decode(json.dumps(fields | {"v": VERSION + apart}).encode(), kind).v == VERSION + apart
    for further in (-2, 2, 40):
        with pytest.raises(BadInputFormatError, match="another version") as caught:
            decode(json.dumps(fields | {"v": VERSION + further}).encode(), kind)
        assert caught.value.actual == VERSION + further


@given(data=st.binary(max_size=60), kind=st.sampled_from(list(KINDS)))
@settings(max_examples=200)
def test_garbage_is_one_error_and_never_another(data: bytes, kind: type[Any]) -> None:
    try:
        decode(data, kind)
    except BadInputFormatError as error:
        assert error.code == 2003


@pytest.mark.parametrize("missing", ["epoch", "gen"])
def test_a_missing_field_is_named(missing: str) -> None:
    fields = json.loads(encode(Desired(epoch=1, gen=1)))
    del fields[missing]
    with pytest.raises(BadInputFormatError, match=missing):
        decode(json.dumps(fields).encode(), Desired)


@given(head=KINDS[RepoResponse], body=st.binary(max_size=2000))
def test_an_answers_bytes_come_back_as_they_were(head: RepoResponse, body: bytes) -> None:
    read, rest = decode_framed(encode_framed(head, body), RepoResponse)
    assert (read, bytes(rest)) == (head, body)


def test_an_answer_without_a_head_is_refused() -> None:
    with pytest.raises(BadInputFormatError):
        decode_framed(b'{"id": "1", "status": 200}', RepoResponse)


def test_an_error_travels_and_can_be_read() -> None:
    error = GoldenMismatchError("cosine of output 0", expected=0.98, actual=0.5)
    problem = msgspec.convert(error.as_dict(), Problem, strict=False)
    assert (problem.code, problem.error) == (5001, "GoldenMismatchError")
    assert problem.action


def test_the_states_are_named_once() -> None:
    assert get_args(messages.State) == messages.STATES


def test_the_schema_names_every_message_and_its_references_lead_somewhere() -> None:
    described = schema()
    definitions = described["$defs"]
    assert {kind.__name__ for kind in KINDS} <= set(definitions)
    every_message = {
        kind.__name__
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, messages.Message) and kind is not messages.Message
    }
    assert every_message == {kind.__name__ for kind in KINDS}, "a new message is exported"
    for reference in _references(described):
        assert reference.removeprefix("#/$defs/") in definitions
    assert definitions["Desired"]["required"] == ["epoch", "gen"]
    assert json.loads(json.dumps(described)) == described


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


def test_every_message_is_ready_before_any_thread_decodes_it() -> None:
    """msgspec 0.22 crashes the process where two threads decode a class for the first time."""
    assert set(codec._DECODERS) == set(messages.Message.__subclasses__())
