"""Requests that a Modbus server can't serve are refused as the specification says, on the wire."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from lineside_agent.line_io.modbus.server import ModbusServer, Tcp
from tests.peers.waiting import free_port, wait_for


@pytest.fixture(scope="module")
def plc() -> Iterator[socket.socket]:
    port = free_port()
    with contextlib.closing(ModbusServer(Tcp("127.0.0.1", port))) as line:
        line.listen(lambda *_: None)
        wait_for(lambda: line.connected, what="the server")
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            yield connection


def ask(plc: socket.socket, request: bytes) -> bytes:
    """Sends a request as unit 9 in transaction 513, and returns the answer without its header."""
    plc.sendall(struct.pack(">HHHB", 513, 0, len(request) + 1, 9) + request)
    transaction, protocol, length, unit = struct.unpack(">HHHB", plc.recv(7, socket.MSG_WAITALL))
    assert (transaction, protocol, unit) == (513, 0, 9)
    return plc.recv(length - 1, socket.MSG_WAITALL)


@pytest.mark.parametrize("function", [1, 2, 3, 4])
def test_number_of_a_read_that_is_none_or_too_many_is_a_wrong_value(plc: socket.socket, function: int) -> None:
    too_many = 2001 if function < 3 else 126
    for count in (0, too_many, 0xFFFF):
        assert ask(plc, struct.pack(">BHH", function, 0, count)) == bytes((0x80 | function, 3)), count
    assert ask(plc, struct.pack(">BHH", function, 0, 1))[0] == function, "the connection goes on"


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("04 0000", "84 03"),  # cut
        ("05 0002 0001", "85 03"),  # neither on nor off
        ("06 0000 01", "86 03"),
        ("0f 0000 0000 00", "8f 03"),
        ("10 0000 0000 00", "90 03"),
        ("10 0000 0002 02 0001", "90 03"),  # fewer than it says
        ("17 0000 007e 0000 0001 02 0001", "97 03"),
        ("41 0000", "c1 01"),  # no function of the specification
        ("04 ffff 0001", "84 02"),  # not on the map
    ],
)
def test_refusal_names_the_function_and_why(plc: socket.socket, request_hex: str, answer_hex: str) -> None:
    assert ask(plc, bytes.fromhex(request_hex)) == bytes.fromhex(answer_hex)


def test_coil_value_that_is_neither_on_nor_off_changes_nothing(plc: socket.socket) -> None:
    coil_2 = bytes.fromhex("01 0002 0001")
    for value in ("0001", "00ff", "ffff", "ff01"):
        assert ask(plc, bytes.fromhex("05 0002" + value)) == b"\x85\x03", value
        assert ask(plc, coil_2) == b"\x01\x01\x00", value
    for value, level in (("ff00", 1), ("0000", 0)):
        request = bytes.fromhex("05 0002" + value)
        assert ask(plc, request) == request
        assert ask(plc, coil_2) == bytes((1, 1, level))
