"""The server's side, by HTTP: it holds the head and computes with what it cannot read.

::

    GET  /v1/head          the head's public description
    POST /v1/keys          evaluation keys of a device -> {"keys": NAME}
    POST /v1/head/NAME     encrypted features -> encrypted sums

Keys and counts are kept in memory only: nothing of a device is written to a disk. A head has as many unknowns as
features, so that a device which may ask often enough can compute its weights from the answers: `QueryLimit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lineside_runtime.encrypted.head import LinearHead
from lineside_runtime.encrypted.scheme import CipherHead
from lineside_runtime.errors import RequestError
from lineside_runtime.server.access import Access, resolve
from lineside_runtime.server.http_ import HttpServer, http_config, listening_socket, read_tls
from lineside_runtime.server.limits import AdmissionGate, ServerLimits
from lineside_runtime.server.responses import GuardedApp, error_handlers, json_response, read_body

KEYS_MAX_BYTES = 32 << 20
QUERY_MAX_BYTES = 1 << 20
DEVICES_MAX = 32
"""Devices whose keys are held, 5 to 10 MB each; the one that has not asked for longest sends its keys again."""

DAY_S = 86_400.0

log = logging.getLogger("lineside.privacy")


class QueryLimit:
    """Counts the queries of a day, of all devices together: a device may call itself anew at any time.

    Args:
        a_day: Most queries in any 24 hours, which begin with the first one.
        clock: Seconds.
    """

    def __init__(self, a_day: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_day = a_day
        self._clock = clock
        self._lock = threading.Lock()
        self._began_s = clock()
        self._count = 0

    def take(self) -> None:
        """Counts one.

        Raises:
            RequestError: The day's queries are used up (429).
        """
        with self._lock:
            now_s = self._clock()
            if now_s - self._began_s >= DAY_S:
                self._began_s, self._count = now_s, 0
            if self._count >= self._a_day:
                raise RequestError(
                    "the queries of this day are used up",
                    status=429,
                    expected=f"at most {self._a_day} a day",
                    action=f"Ask again in {(DAY_S - (now_s - self._began_s)) / 3600:.1f} hours, "
                    "or start the server with a larger --queries-per-day.",
                )
            self._count += 1


class HeadServer:
    """The routes.

    Args:
        head: Kept by this process.
        limits: Of connections and calls.
    """

    def __init__(self, head: LinearHead, access: Access, limits: ServerLimits, queries: QueryLimit) -> None:
        self._head = CipherHead(head)
        self._access = access
        self._limits = limits
        self._queries = queries
        self._gate = AdmissionGate(limits)
        self._keys: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def app(self) -> ASGIApp:
        """Returns the application for an ASGI server."""
        routes = [
            Route("/v1/head", self._describe, methods=["GET"]),
            Route("/v1/keys", self._take_keys, methods=["POST"]),
            Route("/v1/head/{keys}", self._query, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers=error_handlers("docs/privacy.md lists the server's paths."))
        app.router.redirect_slashes = False
        return GuardedApp(app, self._access)

    async def _describe(self, request: Request) -> Response:
        return json_response(self._head.description)

    async def _take_keys(self, request: Request) -> Response:
        body = await self._read(request, KEYS_MAX_BYTES)
        return json_response({"keys": await self._in_turn(self._keep, body)})

    async def _query(self, request: Request) -> Response:
        body = await self._read(request, QUERY_MAX_BYTES)
        answer = await self._in_turn(self._answer, request.path_params["keys"], body)
        return Response(answer, media_type="application/octet-stream")

    def _keep(self, data: bytes) -> str:
        keys = self._head.read_keys(data)
        name = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._keys[name] = keys
            while len(self._keys) > DEVICES_MAX:
                self._keys.popitem(last=False)
        return name

    def _answer(self, name: str, ciphertext: bytes) -> bytes:
        with self._lock:
            keys = self._keys.get(name)
            if keys is not None:
                self._keys.move_to_end(name)
        if keys is None:
            raise RequestError("no keys of this name are held", status=404, action="Send the evaluation keys again.")
        self._queries.take()
        return self._head.apply(ciphertext, keys)

    async def _in_turn(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self._gate.enter()
        try:
            return await asyncio.to_thread(self._work, work, *arguments)
        finally:
            self._gate.leave()

    def _work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with self._gate.turn(self._limits.request_timeout_s):
            return work(*arguments)

    async def _read(self, request: Request, limit: int) -> bytes:
        try:
            return bytes(await read_body(request, limit, self._limits.request_timeout_s))
        except ClientDisconnect as error:
            raise RequestError("the client closed the connection") from error


def serve_head(
    head: LinearHead,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    tls_key: Path | None = None,
    tls_certificate: Path | None = None,
    queries_per_day: int,
    on_started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves until SIGTERM or SIGINT; running calls end.

    Args:
        port: 0 for any free one.
        token: What devices must send; ``None`` for nothing, which only a loopback address allows.
        tls_key: Private key in PEM; ``None`` for plain text.
        tls_certificate: Certificate chain in PEM; goes with ``tls_key``.
        on_started: Called once with the server's URL.

    Raises:
        ConfigError: The address cannot be used, or others could reach it without a token.
        InputNotFoundError: Key or certificate is not there.
    """
    limits = ServerLimits()
    address = resolve(host, token)
    tls = read_tls(tls_key, tls_certificate)
    if tls is None and not address.startswith(("127.", "::1")):
        log.warning("token and answers' sizes travel in plain text; --tls-key and --tls-cert encrypt them")
    server = HeadServer(head, Access(token), limits, QueryLimit(queries_per_day))
    with contextlib.closing(listening_socket(address, port, setting="--port")) as listener:
        shown = f"[{address}]" if ":" in address else address
        url = f"{'http' if tls is None else 'https'}://{shown}:{listener.getsockname()[1]}"
        config = http_config(
            server.app(), limits, tls_key=tls_key, tls_certificate=tls_certificate, grace_s=limits.request_timeout_s
        )
        asyncio.run(_until_signal(HttpServer(config, lambda: on_started(url)), listener))


async def _until_signal(http: HttpServer, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, http, "should_exit", True)
    await http.serve(sockets=[listener])
