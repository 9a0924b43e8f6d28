"""The HTTP connection: uvicorn's, with a bound on how long a client may take, and errors as JSON.

uvicorn closes a connection that idles after a request, but waits for ever for the first one and for the rest of a
header; and it answers what isn't HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import ClassVar

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from lineside_runtime.errors import RequestError
from lineside_runtime.server.limits import Limits


class BoundedHttp(H11Protocol):
    """One connection.

    Attributes:
        limits: How long a client may take; `bounded` makes a class with the server's.
    """

    limits: ClassVar[Limits] = Limits()
    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock, for the header and, by the kernel's help, for a client that doesn't read."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.request_timeout_s * 1e3))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Reads on; the clock runs while a request's header is incomplete."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()  # from here on the application bounds it
        elif self._closing is None and not self.transport.is_closing():
            self._closing = self.loop.call_later(self.limits.header_timeout_s, self._give_up)

    def _stop_clock(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _give_up(self) -> None:
        self._closing = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what isn't HTTP."""
        error = RequestError("this is not HTTP/1.1 as RFC 9112 has it, or its header is too large")
        body = msgspec.json.encode({"error": str(error), "code": error.code})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bounded(limits: Limits) -> type[H11Protocol]:
    """Returns the protocol class for uvicorn's option ``http``."""
    return type("BoundedHttp", (BoundedHttp,), {"limits": limits})
