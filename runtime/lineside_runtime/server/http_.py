"""The HTTP server: uvicorn's, with a bound on how long a client may take, and errors as JSON.

uvicorn closes a connection that idles after a request, but waits for ever for the first one and for the rest of a
header; and it answers what isn't HTTP in plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lineside_runtime.errors import ConfigError, InputNotFoundError, RequestError
from lineside_runtime.server.limits import ServerLimits

BACKLOG = 128
KEEP_ALIVE_S = 75
"""As nginx has it. uvicorn's 5 s end it between two parts of a slow line, and not every client tries again."""


class BoundedHttp(H11Protocol):
    """One connection.

    Attributes:
        limits: How long a client may take; `bounded` makes a class with the server's.
    """

    limits: ClassVar[ServerLimits] = ServerLimits()
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


def bounded(limits: ServerLimits) -> type[H11Protocol]:
    """Returns the protocol class for uvicorn's option ``http``."""
    return type("BoundedHttp", (BoundedHttp,), {"limits": limits})


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, and with a callback at its start."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and calls the callback."""
        await super().startup(sockets)
        self._on_started()


def http_config(
    app: ASGIApp,
    limits: ServerLimits,
    *,
    tls_key: Path | None = None,
    tls_certificate: Path | None = None,
    grace_s: float = 1.0,
    connections_max: int | None = None,
) -> uvicorn.Config:
    """Returns what uvicorn needs to serve an application within limits.

    Args:
        grace_s: How long running requests may take when the server ends.
        connections_max: Further ones are answered 503; ``None`` for no limit.
    """
    return uvicorn.Config(
        app,
        http=bounded(limits),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        limit_concurrency=connections_max,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        ssl_keyfile=tls_key,
        ssl_certfile=tls_certificate,
    )


def read_tls(key: Path | None, certificate: Path | None) -> tuple[bytes, bytes] | None:
    """Reads private key and certificate chain; ``None`` for plain text.

    Raises:
        ConfigError: One of them is given, or they are no pair in PEM, or the key has a password.
        InputNotFoundError: One of them is not there.
    """
    if key is None and certificate is None:
        return None
    if key is None or certificate is None:
        raise ConfigError("TLS", expected="both --tls-key and --tls-cert", actual="one of them", action="Give both.")
    for path in (key, certificate):
        if not path.is_file():
            raise InputNotFoundError(f"{path} is not there")
    try:
        # a password is never asked for: nobody sits before a server
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:  # `ssl.SSLError` is an `OSError`
        raise ConfigError(
            "TLS",
            expected="a private key without a password and its certificate chain, in PEM",
            actual=f"{key} and {certificate}: {error}",
            action="Give the files that belong together; `openssl pkey -in KEY -out PLAIN` removes a password.",
        ) from error
    return key.read_bytes(), certificate.read_bytes()


class BoundedListener(socket.socket):
    """A listening socket that closes each connection above the limit of its address as it accepts it.

    Connections count from here, so that those that never begin TLS count too; asyncio keeps such for 60 s.

    Attributes:
        connections_per_address: Open connections of one client address, such as a proxy's; ``None`` for no limit.
    """

    connections_per_address: int | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accepts a connection.

        Raises:
            ConnectionAbortedError: Its address has as many as it may.
        """
        accepted, address = super().accept()
        counted = _Connection(fileno=accepted.detach())
        counted.open_by_address, counted.address = self._open_by_address, str(address[0])
        self._open_by_address[counted.address] += 1
        most = self.connections_per_address
        if most is not None and self._open_by_address[counted.address] > most:
            counted.close()
            raise ConnectionAbortedError(f"{counted.address} has {most} connections")
        return counted, address

    @functools.cached_property
    def _open_by_address(self) -> Counter[str]:
        return Counter()


class _Connection(socket.socket):
    """A connection that is counted until it is closed."""

    open_by_address: Counter[str] | None = None
    address = ""

    def close(self) -> None:
        """Closes it."""
        super().close()
        counts, self.open_by_address = self.open_by_address, None
        if counts is not None:
            counts[self.address] -= 1
            if not counts[self.address]:
                del counts[self.address]


def listening_socket(
    address: str, port: int, *, setting: str = "--http-port", connections_per_address: int | None = None
) -> socket.socket:
    """Returns a bound socket; port 0 takes any free one.

    Args:
        setting: Names the port in the error.
        connections_per_address: As in `BoundedListener`.

    Raises:
        ConfigError: The port is taken, or the address is not of this machine.
    """
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, an answer waited 40 ms for an ACK.
    listener = BoundedListener(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listener.connections_per_address = connections_per_address
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            setting, expected="a free port", actual=f"{address}:{port}: {error}", action="Choose another port."
        ) from error
    return listener
