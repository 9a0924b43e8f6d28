"""A socket that reads ahead gives the same bytes, however they come and are asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from lineside_link.read_ahead import READ_MAX_BYTES, ReadAhead, ReadAheadClient

Pair = tuple[ReadAhead, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield ReadAhead(near), far


def test_small_reads_come_from_memory(pair: Pair) -> None:
    ahead, far = pair
    far.sendall(b"abcdef")
    assert ahead.pending() == 0
    assert [ahead.recv(1), ahead.recv(2)] == [b"a", b"bc"]
    assert ahead.pending() == 3
    assert ahead.recv(100) == b"def"
    assert ahead.pending() == 0


def test_nothing_there_and_the_end_are_told_apart(pair: Pair) -> None:
    ahead, far = pair
    with pytest.raises(BlockingIOError):
        ahead.recv(1)
    far.sendall(b"x")
    far.close()
    assert ahead.recv(10) == b"x"
    assert ahead.recv(10) == b""


def test_the_rest_is_the_sockets_own(pair: Pair) -> None:
    ahead, far = pair
    assert ahead.send(b"hello") == 5
    assert far.recv(10) == b"hello"
    assert ahead.fileno() >= 0
    ahead.close()
    assert ahead.fileno() == -1


def test_only_a_busy_connection_holds_a_large_buffer(pair: Pair) -> None:
    ahead, far = pair
    far.sendall(b"x" * 100)
    assert len(ahead.recv(READ_MAX_BYTES)) == 100
    sizes = []
    for _ in range(8):
        far.sendall(bytes(READ_MAX_BYTES))
        left = READ_MAX_BYTES
        sizes.append(len(ahead.recv(left)))
        left -= sizes[-1]
        while left:
            left -= len(ahead.recv(left))
    assert sizes[0] < READ_MAX_BYTES
    assert sizes[-1] == READ_MAX_BYTES


@given(st.binary(max_size=20_000), st.lists(st.integers(1, 9_000), min_size=1, max_size=30))
def test_the_stream_is_the_same(data: bytes, counts: list[int]) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        ahead = ReadAhead(near)
        far.sendall(data)
        far.close()
        seen, turn = b"", 0
        while piece := ahead.recv(counts[turn % len(counts)]):
            seen, turn = seen + piece, turn + 1
        assert seen == data


def test_paho_makes_its_sockets_where_we_wrap_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = ReadAheadClient(CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", server.getsockname()[1])
        made = client.socket()
        assert isinstance(made, ReadAhead)
        made.close()
