"""A server of pages for browsers, in a thread of its own, and what it checks of requests: the operator screen's and the
hub's dashboard.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp

from lineside_runtime.errors import ConfigError, RequestError
from lineside_runtime.server.http_ import HttpServer, http_config, listening_socket
from lineside_runtime.server.limits import ServerLimits

LIMITS = ServerLimits(workers=1, request_timeout_s=30.0, header_timeout_s=10.0)
"""A client that takes nothing for 30 s is cut off by the kernel."""

ADDRESS_SHARE = 4
"""One address, such as a proxy's, gets this part of all connections."""

STOP_S = 5.0

SCRIPTS = Path(__file__).with_name("static")
"""Scripts that the pages of both have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PageAddress:
    """Where a server of pages listens.

    Attributes:
        setting: Its table in the configuration, for messages, such as ``$.web``.
        tls_certificate: Certificate chain in PEM.
    """

    setting: str
    address: str
    port: int
    tls_certificate: Path | None
    tls_key: Path | None

    def check_tls(self, *, is_local: bool) -> None:
        """Checks that other machines need TLS.

        Args:
            is_local: Whether only this machine reaches it.

        Raises:
            ConfigError: They don't, or a file is missing.
        """
        for path in filter(None, (self.tls_certificate, self.tls_key)):
            if not path.is_file():
                raise ConfigError(f"{self.setting}: {path} is not there", expected="a file in PEM")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError(self.setting, expected="both tls_certificate and tls_key", actual="one of them")
        if not is_local and self.tls_key is None:
            raise ConfigError(
                f"{self.setting}.address {self.address} lets other machines in without TLS",
                expected="tls_certificate and tls_key, or a loopback address",
            )


class PageServer:
    """Serves pages in a thread of its own.

    Args:
        connections_max: Browsers open six each; further ones are answered 503.
        on_started: Called in the server's event loop when it listens.

    Raises:
        ConfigError: The address can't be used, or the TLS files are no good.
    """

    def __init__(
        self,
        app: ASGIApp,
        where: PageAddress,
        *,
        name: str,
        connections_max: int,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        self._listener = listening_socket(
            where.address,
            where.port,
            setting=where.setting,
            connections_per_address=connections_max // ADDRESS_SHARE,
        )
        self._listener.listen(connections_max)  # a browser that is early waits
        host = f"[{where.address}]" if ":" in where.address else where.address
        self.url = f"{'https' if where.tls_key else 'http'}://{host}:{self._listener.getsockname()[1]}"
        http = http_config(
            app,
            LIMITS,
            tls_key=where.tls_key,
            tls_certificate=where.tls_certificate,
            connections_max=connections_max,
        )
        try:
            http.load()
        except (OSError, ssl.SSLError) as error:
            self._listener.close()
            raise ConfigError(
                f"{where.setting}.tls_certificate: {error}", expected="certificate and key that match"
            ) from error
        self._server = HttpServer(http, on_started)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the requests and the thread."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))


class AllowedHosts:
    """Hosts that a request may name, as a defence against DNS rebinding.

    Args:
        names: Names by which browsers reach the server, beside ``localhost``, this machine's name and addresses.
        is_local: Whether only this machine reaches it.
    """

    def __init__(self, names: Iterable[str], *, is_local: bool) -> None:
        self._is_local = is_local
        self._names = {name.lower() for name in names} | {"localhost"}
        if not is_local:
            self._names.add(socket.gethostname().lower())

    def allows(self, host: str) -> bool:
        """Returns whether a request's header ``Host`` names this server."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return address.is_loopback or not self._is_local


async def read_body(request: Request, *, bytes_max: int, timeout_s: float) -> bytes:
    """Reads a request's body.

    Raises:
        RequestError: It is too large (413) or too slow (408).
    """
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > bytes_max:
                raise RequestError("the request is too large", status=413, expected=f"{bytes_max} bytes")

    try:
        await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError as error:
        raise RequestError("the request did not come in time", status=408, action="") from error
    return bytes(body)
