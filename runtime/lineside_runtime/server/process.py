"""Start and stop the server with both protocols; no running call is lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineside_runtime.server import grpc_
from lineside_runtime.server.access import Access, resolve
from lineside_runtime.server.http_ import HttpServer, http_config, listening_socket, read_tls
from lineside_runtime.server.rest import RestApi
from lineside_runtime.server.service import Service

POLL_S = 0.05
GRACE_S = 30.0
"""How long running calls may take after `serve` has stopped to take further ones."""

LAST_ANSWERS_S = 0.5
"""From the end of the last call: so that its answer leaves."""

log = logging.getLogger("lineside.server")


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """Where the server listens.

    Attributes:
        host: Name or address.
        http_port: For REST and metrics; 0 for any free one.
        grpc_port: For gRPC; 0 for any free one.
        token: What callers must send; ``None`` for nothing, which only a loopback address allows.
        tls_key: Private key in PEM; ``None`` for plain text.
        tls_certificate: Certificate chain in PEM; goes with ``tls_key``.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    token: str | None = None
    tls_key: Path | None = None
    tls_certificate: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """Where the server was reached when it had started.

    Attributes:
        http: URL of the REST API, without ``/v2``.
        grpc: ``host:port`` of the gRPC API.
    """

    http: str
    grpc: str


def serve(
    service: Service,
    binding: Binding,
    *,
    on_started: Callable[[Running], None],
    drain_s: float = 1.0,
) -> None:
    """Serves until SIGTERM or SIGINT; then readiness turns false, running calls end, and the models are closed.

    Args:
        on_started: Called once, when both protocols answer.
        drain_s: From the signal, how long calls are still taken, so that a load balancer sees that the server isn't
            ready any more; a second signal ends it.

    Raises:
        ConfigError: The address can't be used, others could reach it without a token, or TLS is half given.
        InputNotFoundError: Key or certificate isn't there.
    """
    address = resolve(binding.host, binding.token)
    tls = read_tls(binding.tls_key, binding.tls_certificate)
    access = Access(binding.token)
    if tls is None and binding.token is not None and not address.startswith(("127.", "::1")):
        log.warning("the token and the frames travel in plain text; --tls-key and --tls-cert encrypt them")
    listener = listening_socket(address, binding.http_port)
    with contextlib.closing(listener):
        server = grpc_.make_server(service, access)
        shown = f"[{address}]" if ":" in address else address
        grpc_port = grpc_.bind(server, f"{shown}:{binding.grpc_port}", tls)
        scheme = "http" if tls is None else "https"
        running = Running(f"{scheme}://{shown}:{listener.getsockname()[1]}", f"{shown}:{grpc_port}")
        rest = RestApi(service, access)
        server.start()
        http = HttpServer(
            http_config(
                rest.app(),
                service.limits,
                tls_key=binding.tls_key,
                tls_certificate=binding.tls_certificate,
                grace_s=GRACE_S,
            ),
            lambda: on_started(running),
        )
        asyncio.run(_until_told(service, http, listener, server, drain_s))
        rest.close()
    service.repository.close()
    log.info("stopped")


async def _until_told(service: Service, http: HttpServer, listener: socket.socket, server: Any, drain_s: float) -> None:
    told = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    waiting = asyncio.create_task(told.get())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    service.accepting = False
    log.info("stopping: not ready any more, running calls go on")
    if not serving.done():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(told.get(), drain_s)
    stopped = server.stop(GRACE_S)
    http.should_exit = True
    await serving
    while service.gate.in_flight and not stopped.is_set():
        await asyncio.sleep(POLL_S)
    server.stop(LAST_ANSWERS_S)  # a stream that is open without a call would keep it for the whole grace
    await loop.run_in_executor(None, stopped.wait)
    waiting.cancel()
