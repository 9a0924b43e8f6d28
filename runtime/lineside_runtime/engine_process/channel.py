"""Messages and descriptors on a Unix socket: four bytes of length, then the message."""

from __future__ import annotations

import contextlib
import socket
import struct

_LENGTH = struct.Struct("<I")
_ANCILLARY = socket.CMSG_SPACE(struct.calcsize("i"))
_READ_BYTES = 1 << 16


class Channel:
    """One end. One thread at a time, and never more than one message on its way in each direction."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, body: bytes, descriptor: int | None = None) -> None:
        """Sends a message, with an open file if ``descriptor`` is given.

        Raises:
            OSError: The other end is gone.
        """
        frame = _LENGTH.pack(len(body)) + body
        if descriptor is None:
            self._socket.sendall(frame)
            return
        sent = socket.send_fds(self._socket, [frame], [descriptor])
        if sent < len(frame):
            self._socket.sendall(frame[sent:])

    def receive(self, timeout_s: float | None = None) -> tuple[bytes, int | None]:
        """Waits for a message.

        Returns:
            The message, and the open file that came with it; its receiver closes it.

        Raises:
            TimeoutError: None came.
            EOFError: The other end is gone.
        """
        self._socket.settimeout(timeout_s)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            descriptor = struct.unpack("i", ancillary[0][2])[0] if ancillary else None
            while len(data) < 4 or len(data) < 4 + _LENGTH.unpack_from(data)[0]:
                more = self._socket.recv(_READ_BYTES) if data else b""
                if not more:
                    raise EOFError("the other end is gone")
                data += more
        except (ConnectionError, BrokenPipeError) as error:
            raise EOFError("the other end is gone") from error
        return data[4:], descriptor

    def close(self) -> None:
        """Closes the socket."""
        with contextlib.suppress(OSError):
            self._socket.close()
