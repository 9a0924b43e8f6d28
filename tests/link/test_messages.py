"""One definition for both ends: what goes in comes out, also half a release apart."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_link import messages
from lineside_link.messages import (
    VERSION,
    BundleRef,
    CertificateAnswer,
    CertificateRequest,
    Deltas,
    Desired,
    DeviceAlarms,
    DriftAlarm,
    DriftReport,
    FrameAnswer,
    FramePiece,
    InteractionRow,
    InteractionRows,
    LogAnswer,
    LogCommand,
    MaintenanceWindow,
    Mark,
    Multicast,
    OpenAlarm,
    Patch,
    Problem,
    RecipeAnswer,
    RecipeCommand,
    RepoRequest,
    RepoResponse,
    Reported,
    ResultRow,
    Results,
    ResultsAck,
    TimeAnswer,
    TimeCommand,
    Up,
    VariantTimes,
    codec,
    decode,
    decode_framed,
    encode,
    encode_framed,
    schema,
)
from lineside_runtime.errors import BadInputFormatError, GoldenMismatchError

text = st.text(max_size=20)
count = st.integers(0, 2**53)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
refs = st.builds(BundleRef, name=text, version=text, target=text, sha256=text)
problems = st.builds(Problem, code=st.integers(0, 9999), error=text, message=text, expected=text | st.none())
rows = st.builds(
    ResultRow,
    seq=count,
    part_id=text,
    source=text,
    sequence=count,
    captured_at_ns=count,
    verdict=st.sampled_from(["pass", "reject", "fault"]),
    detections=st.lists(st.tuples(text, numbers, numbers, numbers, numbers, numbers), max_size=3).map(tuple),
    latency_ms=numbers,
)
interactions = st.builds(InteractionRow, seq=count, item_id=text, label=st.sampled_from([0, 1]))
patches = st.builds(
    Patch,
    file=text,
    base=text,
    format=st.sampled_from(["zstd", "bsdiff4"]),
    size=count,
    sha256=text,
    chunks=st.lists(text, max_size=3).map(tuple),
)
windows = st.builds(
    MaintenanceWindow,
    start=text,
    end=text,
    timezone=text,
    days=st.lists(st.sampled_from(["mon", "sun"]), max_size=2).map(tuple),
    fetch=st.sampled_from(["at_once", "in_window"]),
)
drifts = st.builds(
    DriftReport,
    learning=st.booleans(),
    alarms=st.lists(st.builds(DriftAlarm, name=text, since_ns=count, text=text), max_size=2).map(tuple),
)
KINDS: dict[type[Any], st.SearchStrategy[Any]] = {
    Desired: st.builds(
        Desired, epoch=count, gen=count, bundle=refs | st.none(), rollout=text, window=windows | st.none()
    ),
    Deltas: st.builds(Deltas, patches=st.lists(patches, max_size=2).map(tuple)),
    Multicast: st.builds(Multicast, id=text, chunks=count, bytes_s=count),
    Reported: st.builds(
        Reported,
        device=text,
        state=st.sampled_from(messages.STATES),
        installed=refs | st.none(),
        error=problems | st.none(),
        progress=numbers,
        drift=drifts | st.none(),
        marks=st.lists(
            st.builds(Mark, epoch=text, seq=count, at_ns=count, wrong=st.booleans(), note=text), max_size=2
        ).map(tuple),
    ),
    Up: st.builds(Up, device=text, up=st.booleans(), boot_id=text, devices=st.lists(text, max_size=3).map(tuple)),
    RepoRequest: st.builds(
        RepoRequest, id=text, kind=st.sampled_from(["metadata", "target", "chunk", "deltas", "multicast"]), path=text
    ),
    RepoResponse: st.builds(RepoResponse, id=text, status=st.sampled_from([200, 404, 503]), size=count),
    Results: st.builds(Results, epoch=text, rows=st.lists(rows, max_size=3).map(tuple)),
    ResultsAck: st.builds(ResultsAck, epoch=text, seq=count),
    FramePiece: st.builds(FramePiece, epoch=text, seq=count, sha256=text, size=count, offset=count),
    InteractionRows: st.builds(InteractionRows, epoch=text, rows=st.lists(interactions, max_size=3).map(tuple)),
    LogCommand: st.builds(LogCommand, id=text, lines=count),
    LogAnswer: st.builds(LogAnswer, id=text, text=text, error=problems | st.none()),
    RecipeCommand: st.builds(RecipeCommand, id=text, recipe=text),
    RecipeAnswer: st.builds(RecipeAnswer, id=text, recipe=text, error=problems | st.none()),
    TimeCommand: st.builds(
        TimeCommand, id=text, bundle=refs | st.none(), rounds=count, shapes=st.just(({"image": (1, 3)},))
    ),
    TimeAnswer: st.builds(
        TimeAnswer,
        id=text,
        state=st.sampled_from(["ready", "fetching", "timing", "done", "failed"]),
        progress=numbers,
        variants=st.lists(
            st.builds(VariantTimes, variant=text, device=text, rounds_ms=st.just(((1.5, 2.5), (1.0, 2.0))), why=text),
            max_size=2,
        ).map(tuple),
        inspected=count,
        error=problems | st.none(),
    ),
    FrameAnswer: st.builds(
        FrameAnswer,
        epoch=text,
        seq=count,
        sha256=text,
        status=st.sampled_from(["send", "stored", "wait", "refused"]),
        have=count,
        again=st.booleans(),
        error=problems | st.none(),
    ),
    CertificateRequest: st.builds(CertificateRequest, device=text, csr=text, signer=text, signature=text),
    CertificateAnswer: st.builds(
        CertificateAnswer,
        device=text,
        request=text,
        status=st.sampled_from(["issued", "waiting", "refused"]),
        certificate=text,
        error=problems | st.none(),
    ),
    DeviceAlarms: st.builds(
        DeviceAlarms,
        device=text,
        alarms=st.lists(
            st.builds(
                OpenAlarm,
                id=count,
                rule=text,
                priority=st.sampled_from(["high", "medium", "low"]),
                state=st.sampled_from(["active", "acknowledged", "cleared"]),
                value=numbers,
                detail=text,
                raised_at_ns=count,
                acknowledged_by=text,
                count=count,
            ),
            max_size=2,
        ).map(tuple),
    ),
}
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
    assert every_message == {kind.__name__ for kind in KINDS}, "a new message belongs into schema() and KINDS"
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
