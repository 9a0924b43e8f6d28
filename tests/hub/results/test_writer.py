from __future__ import annotations

import json
import random
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside_hub.results.database import Database
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.messages import ResultRow, Results, ResultsAck, encode
from lineside_runtime.errors import BadInputFormatError


def message(*seqs: int, epoch: str = "e1") -> bytes:
    rows = tuple(ResultRow(seq=seq, part_id=f"part-{seq}", captured_at_ns=seq, verdict="pass") for seq in seqs)
    return encode(Results(epoch=epoch, rows=rows))


def write(database: Database, payload: bytes, device: str = "cam-01") -> ResultsAck:
    with database.transaction():
        acks, events = ResultsSink(database).write([read_batch(device, payload)])
        for event in events:
            database.add_event(event)
    return acks[device]


def test_a_row_is_stored_with_all_it_says(database: Database) -> None:
    row = ResultRow(
        seq=1,
        part_id="part-7",
        source="strip",
        sequence=7,
        captured_at_ns=123,
        verdict="reject",
        detections=(("scratch", 0.75, 1.0, 2.0, 3.5, 4.0),),
        bundle="surface@1.0.0",
        bundle_sha256="ab",
        requested_device="npu",
        used_device="ort/cpu:0",
        latency_ms=4.5,
        width=640,
        height=480,
        error="",
        recipe="housing-a",
        requested_variant="onnx-fp32",
        used_variant="onnx-int8",
        fallbacks=2,
        cache_hits=3,
    )
    write(database, encode(Results(epoch="e1", rows=(row,))))
    stored = dict(database.query("SELECT * FROM results")[0])
    assert stored.pop("received_at_ns") > 0
    assert json.loads(stored.pop("detections")) == [["scratch", 0.75, 1.0, 2.0, 3.5, 4.0]]
    assert stored.pop("device") == "cam-01"
    assert stored.pop("epoch") == "e1"
    said = msgspec.structs.asdict(row)
    del said["detections"], said["near_miss"]  # which only chooses images, on the device
    for name in ("views", "measurements", "readings"):
        assert (stored.pop(name), said.pop(name)) == ("[]", ())
    del said["unsure"], said["doubtful"], said["unknown"]  # which stand in the columns of verdict and detections
    assert stored == said


def unsure(seq: int, **changes: Any) -> ResultRow:
    doubt = ("scratch", 0.3, 1.0, 2.0, 3.5, 4.0)
    row = ResultRow(
        seq=seq, part_id=f"part-{seq}", captured_at_ns=seq, verdict="reject", unsure=True, doubtful=(doubt,)
    )
    return msgspec.structs.replace(row, **changes)


def test_an_unsure_part_is_kept_as_such_with_what_was_doubtful(database: Database) -> None:
    write(database, encode(Results(epoch="e1", rows=(unsure(1),))))
    (stored,) = database.query("SELECT verdict, detections FROM results")
    assert stored[0] == "unsure"
    assert json.loads(stored[1]) == [["scratch", 0.3, 1.0, 2.0, 3.5, 4.0]]


def test_a_hub_that_doesnt_know_of_unsure_reads_a_reject() -> None:
    """Its row has the fields of the older form, and unknown ones are passed over."""

    class Before(msgspec.Struct):
        seq: int
        part_id: str
        verdict: Literal["pass", "reject", "fault"]

    assert msgspec.json.decode(msgspec.json.encode(unsure(1)), type=Before).verdict == "reject"


def test_a_row_that_an_older_hub_kept_as_a_reject_is_no_conflict_when_it_comes_again(database: Database) -> None:
    plain = unsure(1, unsure=False, doubtful=())
    write(database, encode(Results(epoch="e1", rows=(plain,))))
    assert write(database, encode(Results(epoch="e1", rows=(unsure(1),)))).seq == 1
    assert database.events() == []


def test_a_number_of_which_nothing_is_known_is_kept_under_a_verdict_of_its_own(database: Database) -> None:
    row = ResultRow(seq=1, part_id="unrecorded-7", sequence=7, verdict="fault", unknown=True)
    as_before = msgspec.structs.replace(row, unknown=False)
    write(database, encode(Results(epoch="e1", rows=(row,))))
    assert [tuple(found) for found in database.query("SELECT verdict FROM results")] == [("unknown",)]
    assert write(database, encode(Results(epoch="e1", rows=(as_before,)))).seq == 1
    assert database.events() == [], "what an older hub had kept as a fault is no conflict"


def test_the_acknowledgement_is_the_highest_contiguous_row(database: Database) -> None:
    assert write(database, message(1, 2, 3)).seq == 3
    assert write(database, message(6, 7)).seq == 3
    assert write(database, message(5)).seq == 3
    assert write(database, message(4)).seq == 7


def test_a_repeat_changes_nothing_and_is_acknowledged_again(database: Database) -> None:
    write(database, message(1, 2, 3))
    before = [tuple(row) for row in database.query("SELECT * FROM results")]
    assert write(database, message(2, 3)) == ResultsAck(epoch="e1", seq=3)
    assert [tuple(row) for row in database.query("SELECT * FROM results")] == before
    assert database.events() == []


def test_epochs_and_devices_have_their_own_watermarks(database: Database) -> None:
    write(database, message(1, 2))
    assert write(database, message(1, epoch="e2")).seq == 1
    assert write(database, message(2), device="cam-02").seq == 0
    assert database.acknowledgements()["cam-01"] == ResultsAck(epoch="e2", seq=1)
    assert database.query("SELECT count(*) FROM results")[0][0] == 4


def test_any_order_with_any_repeats_ends_in_every_row_once(database: Database) -> None:
    chance = random.Random(4)
    pieces = [tuple(range(start, start + 5)) for start in range(1, 201, 5)]
    order = pieces + chance.choices(pieces, k=40)
    chance.shuffle(order)
    for piece in order:
        write(database, message(*piece))
    rows = [row["seq"] for row in database.query("SELECT seq FROM results ORDER BY seq")]
    assert rows == list(range(1, 201))
    assert database.acknowledgements()["cam-01"].seq == 200


def test_a_repeat_that_says_something_else_is_kept_out_and_said(database: Database) -> None:
    write(database, message(1))
    other = ResultRow(seq=1, part_id="another", captured_at_ns=9, verdict="reject")
    write(database, encode(Results(epoch="e1", rows=(other,))))
    assert [row["part_id"] for row in database.query("SELECT part_id FROM results")] == ["part-1"]
    events = database.events()
    assert [event.kind for event in events] == ["conflict"]
    assert "another" in events[0].detail


def test_one_bad_row_spoils_no_other_and_blocks_nothing(database: Database) -> None:
    text = json.loads(message(1, 2, 3))
    text["rows"][1]["verdict"] = "perhaps"
    assert write(database, json.dumps(text).encode()).seq == 3
    assert [row["seq"] for row in database.query("SELECT seq FROM results")] == [1, 3]
    kept = database.query("SELECT seq, raw, reason FROM quarantine")
    assert [row["seq"] for row in kept] == [2]
    assert json.loads(kept[0]["raw"])["verdict"] == "perhaps"
    assert [event.kind for event in database.events()] == ["malformed"]
    write(database, json.dumps(text).encode())
    assert len(database.events()) == 1


@pytest.mark.parametrize("key", ["sequence", "captured_at_ns", "width", "height"])
def test_a_number_that_no_database_holds_goes_to_quarantine(database: Database, key: str) -> None:
    text = json.loads(message(1))
    text["rows"][0][key] = 2**70
    assert write(database, json.dumps(text).encode()).seq == 1
    assert database.query("SELECT count(*) FROM quarantine")[0][0] == 1


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        DEEP,
        b'{"v": 1, "epoch": "e1", "rows": [], "more": ' + DEEP + b"}",
        b'{"v": 1, "epoch": "e1", "rows": [{"seq": 1, "more": ' + DEEP + b"}]}",
        b"\xff\xfe",
        b"[]",
        b'{"v": 1, "epoch": "e1"}',
        b'{"v": 9, "epoch": "e1", "rows": []}',
        b'{"v": 1, "epoch": "", "rows": []}',
        b'{"v": 1, "epoch": "e1", "rows": [{"part_id": "p"}]}',
        b'{"v": 1, "epoch": "e1", "rows": [{"seq": 0}]}',
        b'{"v": 1, "epoch": "e1", "rows": [{"seq": 9223372036854775808}]}',
    ],
)
def test_what_is_no_message_has_a_code(payload: bytes) -> None:
    with pytest.raises(BadInputFormatError):
        read_batch("cam-01", payload)


def test_an_unknown_field_of_a_newer_device_is_ignored(database: Database) -> None:
    text = json.loads(message(1))
    text["colour"] = "blue"
    text["rows"][0]["colour"] = "blue"
    assert write(database, json.dumps(text).encode()).seq == 1
    assert database.query("SELECT count(*) FROM results")[0][0] == 1


@given(
    st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_nothing_that_arrives_raises_anything_else(payload: bytes) -> None:
    try:
        read_batch("cam-01", payload)
    except BadInputFormatError as error:
        assert error.code == 2003
