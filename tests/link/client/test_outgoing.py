"""Messages come out of the other end whole and in order, however little the socket takes at a time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lineside_link.client.outgoing import OutgoingMessage
from lineside_link.client.read_ahead import ReadAhead


@pytest.fixture
def pair() -> Iterator[tuple[ReadAhead, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with near, far:
        yield ReadAhead(near), far


def test_pieces_of_several_messages_go_out_in_order(pair: tuple[ReadAhead, socket.socket]) -> None:
    sock, far = pair
    outgoing = OutgoingMessage()
    for number in range(3):
        outgoing.append((b"head%d" % number, b"", b"body"))
    assert outgoing.waiting_bytes == 27
    assert outgoing.write(sock, all_of_it=True)
    assert far.recv(100) == b"head0bodyhead1bodyhead2body"
    assert not outgoing and not outgoing.begun and outgoing.waiting_bytes == 0


def test_what_the_socket_does_not_take_waits_and_a_message_that_was_begun_is_ended_alone(
    pair: tuple[ReadAhead, socket.socket],
) -> None:
    sock, far = pair
    outgoing = OutgoingMessage()
    first, second = bytes([1]) * 100_000, bytes([2]) * 50
    outgoing.append((first[:10], first[10:]))
    outgoing.append((second,))
    assert not outgoing.write(sock, all_of_it=True)
    assert outgoing.begun
    seen = bytearray()
    while not outgoing.write(sock, all_of_it=False):
        seen += far.recv(1 << 16)
    assert not outgoing.begun and outgoing.waiting_bytes == len(second)
    far.setblocking(False)
    while len(seen) < len(first):
        seen += far.recv(1 << 16)
    assert seen == first
    assert outgoing.write(sock, all_of_it=True)
    assert far.recv(100) == second


def test_a_broken_connection_is_told(pair: tuple[ReadAhead, socket.socket]) -> None:
    sock, far = pair
    far.close()
    outgoing = OutgoingMessage()
    outgoing.append((b"x",))
    with pytest.raises(OSError):
        outgoing.write(sock, all_of_it=True)
