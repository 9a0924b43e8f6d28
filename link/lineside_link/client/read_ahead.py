"""The receiving side of a connection: reads chunks directly from the socket and leaves other packets to paho.

paho reads the first byte of a packet, each byte of its length, and the rest with separate calls: six calls and three
copies for a chunk. Here each PUBLISH of QoS 0 is read with one call into the memory in which it stays. All other
packets, and those larger than any chunk, are read by paho's `loop_read`.
"""

from __future__ import annotations

import ssl
import time
from typing import Any

import paho.mqtt.client as mqtt

from lineside_link.client.packets import PUBLISH_KIND, fixed_header

READ_FIRST_BYTES = 4096
"""Bytes that are read beyond a chunk: the start of the next packet."""

READ_MAX_BYTES = 128 * 1024
"""Largest buffer for paho's packets; it grows with need."""

TAKEN_MAX_BYTES = 256 * 1024
"""Larger packets are left to paho, which allocates memory only as they arrive."""


class ReadAhead:
    """Wraps a connected, non-blocking socket, with TLS or without.

    Other attributes are those of the socket.

    Attributes:
        drained: The last attempt to read returned nothing.
    """

    def __init__(self, sock: Any) -> None:
        self.drained = False
        self.tls = isinstance(sock, ssl.SSLSocket)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_FIRST_BYTES))
        self._start = self._end = 0
        self._ended = False
        self._passing = 0  # remaining bytes of a packet for paho
        self._packet = bytearray()  # a packet that is read here
        self._lacking = 0  # its missing bytes

    @property
    def for_paho(self) -> bool:
        """Whether paho has something to read: a packet or the end of the stream."""
        return self._passing > 0 or self._ended

    def recv(self, count: int) -> bytes:
        """Returns at most ``count`` bytes of a packet for paho; none at the end of the stream."""
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
        """Returns the next PUBLISH of QoS 0 behind its fixed header; ``None`` if another packet, or a retained one, is
        first.
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
        """Starts the next packet; false if too little of it has been received."""
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
        """Reads from the socket; false if there is nothing to read."""
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
            if self.tls:  # cannot read into two buffers
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
        # paho has no public hook for its socket; a test fails if this one disappears.
        return ReadAhead(super()._create_socket())

    def note_received(self) -> None:
        """Tells paho that something was received; it would consider the connection dead otherwise."""
        with self._msgtime_mutex:
            self._last_bytes_received = time.monotonic()
