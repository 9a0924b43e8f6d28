"""The incoming half of a connection: chunks are taken straight from the socket, everything else is paho's to read.

paho takes a packet's first byte, each byte of its length, and then the rest, each with a call of its own, and puts it
together from what came: six calls and three copies for a chunk. Here each PUBLISH of QoS 0 is read into the memory in
which it stays, with one call in which the start of the next packet comes along. All other packets, and what is larger
than any chunk, paho reads by its own `loop_read` as if they were all that there is.
"""

from __future__ import annotations

import ssl
import time
from typing import Any

import paho.mqtt.client as mqtt

from lineside_link.client.packets import PUBLISH_KIND, fixed_header

READ_FIRST_BYTES = 4096
"""What is read beyond a chunk, and copied then: the start of the next packet."""

READ_MAX_BYTES = 128 * 1024
"""What is read at a time for paho. Only a connection over which so much comes for it holds that."""

TAKEN_MAX_BYTES = 256 * 1024
"""Larger packets are left to paho, which takes memory for them only as they come."""


class ReadAhead:
    """Wraps a connected, non-blocking socket, with TLS or without.

    Everything but reading is the socket's own.

    Attributes:
        drained: Nothing more could be read when that was tried last.
    """

    def __init__(self, sock: Any) -> None:
        self.drained = False
        self.tls = isinstance(sock, ssl.SSLSocket)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_FIRST_BYTES))
        self._start = self._end = 0
        self._ended = False
        self._passing = 0  # what is left of a packet that paho reads
        self._packet = bytearray()  # one that is taken
        self._lacking = 0  # the end of it that has not come

    @property
    def for_paho(self) -> bool:
        """Whether paho has something to read: a packet that isn't taken, or the end of the stream."""
        return self._passing > 0 or self._ended

    def recv(self, count: int) -> bytes:
        """Returns at most so many bytes of a packet that is paho's; none at the end of the stream.

        Raises:
            BlockingIOError: Nothing of such a packet is here.
        """
        if self._passing and self._start == self._end:
            self._grow()
            self._fill()
        if self._ended and not self._passing:
            return b""
        count = min(count, self._passing, self._end - self._start)
        if not count:
            if self._ended:
                return b""
            raise BlockingIOError
        self._passing -= count
        self._start += count
        return bytes(self._buffer[self._start - count : self._start])

    def _grow(self) -> None:
        if self._end == len(self._buffer) < READ_MAX_BYTES:
            self._buffer = memoryview(bytearray(2 * len(self._buffer)))
            self._start = self._end = 0

    def take(self) -> bytearray | None:
        """Returns what follows the fixed header of the next PUBLISH of QoS 0; ``None`` if another packet comes first.

        One that the broker had kept (retained) is another packet: paho tells those apart.

        Raises:
            OSError: The connection broke.
        """
        while not self.for_paho:
            if not self._packet:
                if not self._begin() and not self._fill():
                    return None
            elif self._lacking:
                if not self._fill():
                    return None
            else:
                taken, self._packet = self._packet, bytearray()
                return taken
        return None

    def _begin(self) -> bool:
        """Looks at the next packet; false if too little of it is here."""
        head = fixed_header(self._buffer[self._start : self._end])
        if head is None:
            return False
        kind, header_bytes, remaining = head
        if kind != PUBLISH_KIND or not 0 < remaining <= TAKEN_MAX_BYTES:
            self._passing = header_bytes + remaining
            return True
        self._start += header_bytes
        here = min(remaining, self._end - self._start)
        self._packet, self._lacking = bytearray(remaining), remaining - here
        self._packet[:here] = self._buffer[self._start : self._start + here]
        self._start += here
        return True

    def _fill(self) -> bool:
        """Reads what has arrived; false if nothing has."""
        left = self._end - self._start
        self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left
        try:
            count = self._read_packet() if self._lacking else self._sock.recv_into(self._buffer[left:])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.drained = True
            return False
        self.drained = False
        self._ended = count == 0
        self._note_read(count)
        return True

    def _read_packet(self) -> int:
        with memoryview(self._packet)[-self._lacking :] as rest:
            if self.tls:  # which cannot read into two places
                return int(self._sock.recv_into(rest))
            return int(self._sock.recvmsg_into((rest, self._buffer[:READ_FIRST_BYTES]))[0])

    def _note_read(self, count: int) -> None:
        of_packet = min(count, self._lacking)
        self._lacking -= of_packet
        self._end += count - of_packet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class ReadAheadClient(mqtt.Client):
    """A paho client whose socket is a `ReadAhead`."""

    def _create_socket(self) -> Any:
        # paho has no public way to give it a socket; a test says when this one is gone.
        return ReadAhead(super()._create_socket())

    def note_received(self) -> None:
        """Says that something has arrived past paho, which otherwise takes the connection for dead."""
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
