"""A socket that reads more than it is asked for, so that paho's small reads cost no system call each.

paho takes a packet's first byte, each byte of its length, and then the rest, each with a call of its own, and waits
(`select`) before the next packet: six calls for a chunk. Each of them lets another thread have the interpreter, which
in a device that hashes and writes what arrives must then be waited for. What paho asks for and when stays as it is,
so this is right for every packet; it only comes from memory.
"""

from __future__ import annotations

import ssl
from typing import Any

import paho.mqtt.client as mqtt

READ_FIRST_BYTES = 4096
READ_MAX_BYTES = 128 * 1024
"""Two chunks; more brought nothing. Only a connection over which so much comes at a time holds it."""


class ReadAhead:
    """Wraps a connected, non-blocking socket, with TLS or without.

    Everything but reading is the socket's own. Like a TLS socket it has `pending`, which paho looks at before it waits.

    Args:
        sock: What to read from.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_FIRST_BYTES))
        self._start = self._end = 0
        self._pending_below = sock.pending if isinstance(sock, ssl.SSLSocket) else _nothing

    def recv(self, count: int) -> bytes:
        """Returns at most so many bytes, from memory if there are any; none at the end of the stream.

        Raises:
            BlockingIOError: Nothing has arrived; a TLS socket says that with an ``SSLWantReadError``.
        """
        if self._start == self._end:
            if self._end == len(self._buffer) < READ_MAX_BYTES:
                self._buffer = memoryview(bytearray(len(self._buffer) * 2))
            self._start = self._end = 0
            self._end = self._sock.recv_into(self._buffer)
        start = self._start
        self._start = min(start + count, self._end)
        return bytes(self._buffer[start : self._start])

    def pending(self) -> int:
        """Returns how many bytes can be had without asking the kernel."""
        return self._end - self._start + self._pending_below()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _nothing() -> int:
    return 0


class ReadAheadClient(mqtt.Client):
    """A paho client whose socket reads ahead."""

    def _create_socket(self) -> Any:
        # paho has no public way to give it a socket; a test says when this one is gone.
        return ReadAhead(super()._create_socket())
