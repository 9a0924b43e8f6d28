"""What comes over a socket is divided between us and paho by packets, however it is cut on its way."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from lineside_link.client.packets import fixed_header, publish_head, split_publish
from lineside_link.client.read_ahead import TAKEN_MAX_BYTES, ReadAhead, ReadAheadClient

Pair = tuple[ReadAhead, socket.socket]
PINGRESP = b"\xd0\x00"


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield ReadAhead(near), far


def message(topic: str, payload: bytes) -> bytes:
    return publish_head(topic.encode(), len(payload)) + payload


def test_a_message_of_qos_0_is_taken_and_a_packet_of_another_kind_is_left_to_paho(pair: Pair) -> None:
    ahead, far = pair
    far.sendall(message("a", b"one") + PINGRESP + message("b/c", b"two"))
    assert split_publish(ahead.take() or bytearray()) == ("a", bytearray(b"one"))
    assert ahead.take() is None and ahead.for_paho
    assert [ahead.recv(1), ahead.recv(100)] == [PINGRESP[:1], PINGRESP[1:]]
    assert not ahead.for_paho
    assert split_publish(ahead.take() or bytearray()) == ("b/c", bytearray(b"two"))
    assert ahead.take() is None and ahead.drained


def test_paho_sees_nothing_of_what_was_taken(pair: Pair) -> None:
    ahead, far = pair
    far.sendall(message("a", b"one"))
    assert ahead.take() is not None
    with pytest.raises(BlockingIOError):
        ahead.recv(1)


def test_nothing_there_and_the_end_are_told_apart(pair: Pair) -> None:
    ahead, far = pair
    assert ahead.take() is None and not ahead.for_paho
    far.sendall(message("a", b"one")[:4])
    assert ahead.take() is None and ahead.drained and not ahead.for_paho
    far.close()
    assert ahead.take() is None and ahead.for_paho
    assert ahead.recv(10) == b""


def test_qos_1_what_is_empty_and_what_is_larger_than_any_chunk_are_pahos(pair: Pair) -> None:
    ahead, far = pair
    large = message("t", bytes(TAKEN_MAX_BYTES))
    for packet in (b"\x32\x06\x00\x01t\x00\x07x", b"\x30\x00", large[: TAKEN_MAX_BYTES // 4]):
        far.sendall(packet)
        assert ahead.take() is None and ahead.for_paho
        seen = b""
        while len(seen) < len(packet):
            seen += ahead.recv(1000)
        assert seen == packet


def test_the_rest_is_the_sockets_own(pair: Pair) -> None:
    ahead, far = pair
    assert ahead.send(b"hello") == 5
    assert far.recv(10) == b"hello"
    assert ahead.fileno() >= 0
    ahead.close()
    assert ahead.fileno() == -1


@given(
    st.lists(st.one_of(st.binary(max_size=9000), st.just(PINGRESP), st.just(None)), max_size=12),
    st.lists(st.integers(1, 9000), min_size=1, max_size=20),
)
def test_every_packet_comes_whole_and_in_its_place(items: list[bytes | None], cuts: list[int]) -> None:
    """Payloads are ours, PINGRESP and a message of QoS 1 (``None``) are paho's."""
    acknowledged = b"\x32\x08\x00\x01t\x00\x07xyz"
    packets = [acknowledged if item is None else item if item == PINGRESP else message("t/ö", item) for item in items]
    data = b"".join(packets)
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        ahead, at, turn = ReadAhead(near), 0, 0
        seen: list[bytes] = []
        while at < len(data):
            cut = cuts[turn % len(cuts)]
            far.sendall(data[at : at + cut])
            at, turn = at + cut, turn + 1
            _take_all(ahead, seen, turn)
        assert b"".join(seen) == b"".join(packets)


def _take_all(ahead: ReadAhead, seen: list[bytes], most: int) -> None:
    """Appends what there is, ours as it looked on the wire."""
    while True:
        packet = ahead.take()
        if packet is not None:
            topic, payload = split_publish(packet)
            seen.append(message(topic, bytes(payload)))
        elif ahead.for_paho:
            try:
                seen.append(ahead.recv(most))
            except BlockingIOError:
                return
        else:
            assert ahead.drained
            return


@given(st.text(min_size=1, max_size=100), st.integers(0, 300_000))
def test_a_head_says_how_much_follows(topic: str, size: int) -> None:
    name = topic.encode("utf-8", "replace")
    head = publish_head(name, size)
    found = fixed_header(memoryview(head))
    assert found is not None
    assert found == (0x30, len(head) - 2 - len(name), 2 + len(name) + size)
    assert fixed_header(memoryview(head)[: found[1] - 1]) is None


def test_what_mqtt_cannot_carry_is_refused() -> None:
    for topic, size in ((b"", 1), (b"x" * 65_536, 1), (b"t", 1 << 28)):
        with pytest.raises(ValueError, match="does not fit"):
            publish_head(topic, size)


def test_a_topic_longer_than_its_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="ends at 11"):
        split_publish(bytearray(b"\x00\x09short"))


def test_paho_makes_its_sockets_where_we_wrap_them_and_counts_what_it_received() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = ReadAheadClient(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", server.getsockname()[1])
        made = client.socket()
        assert isinstance(made, ReadAhead)
        assert isinstance(client._last_bytes_received, float)
        client._last_bytes_received = 0.0
        client.note_received()
        assert client._last_bytes_received > 0.0
        made.close()
