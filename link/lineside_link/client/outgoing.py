"""Queue of outgoing messages of QoS 0, written to a socket without copying."""

from __future__ import annotations

import collections
import ssl
from collections.abc import Sequence

from lineside_link.client.read_ahead import ReadAhead

_AT_ONCE = 64
"""Pieces of one system call; the kernel takes up to 1,024 (``IOV_MAX``)."""


class OutgoingMessage:
    """A queue of messages, each of several pieces.

    Any thread may append; only the thread that may write to the socket calls `write`.

    Attributes:
        begun: A message is partly written: no other packet may be written before its end.
    """

    def __init__(self) -> None:
        self.begun = False
        self._messages: collections.deque[list[memoryview]] = collections.deque()
        self._taken_bytes = 0
        self._written_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were appended and not written."""
        return self._taken_bytes - self._written_bytes

    def append(self, pieces: Sequence[bytes]) -> None:
        """Appends a message; one thread at a time."""
        message = [memoryview(piece) for piece in pieces if piece]
        self._taken_bytes += sum(map(len, message))
        self._messages.append(message)

    def write(self, sock: ReadAhead, *, all_of_it: bool) -> bool:
        """Writes what the socket takes without waiting; returns whether all of that is written.

        Args:
            all_of_it: Whether to write all messages, or only the partly written one.
        """
        while self._messages and (all_of_it or self.begun):
            # A refused TLS write must be repeated with the same buffer.
            pieces = self._next_pieces(most=_AT_ONCE if all_of_it and not sock.tls else 1)
            try:
                count = sock.send(b"".join(pieces)) if sock.tls else sock.sendmsg(pieces)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            self._written(count)
        return True

    def _next_pieces(self, most: int) -> list[memoryview]:
        """Returns the first message and following ones, up to ``most`` pieces."""
        pieces = list(self._messages[0])
        for index in range(1, len(self._messages)):
            if len(pieces) + len(self._messages[index]) > most:
                break
            pieces += self._messages[index]
        return pieces

    def _written(self, count: int) -> None:
        self._written_bytes += count
        while count:
            message = self._messages[0]
            self.begun = True
            while message and count >= len(message[0]):
                count -= len(message.pop(0))
            if message:
                message[0] = message[0][count:]
                return
            self.begun = False
            self._messages.popleft()
