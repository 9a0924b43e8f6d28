"""Start and stop the server with both protocols; no running call is lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from lineside_runtime.errors import ConfigError, InputNotFoundError
from lineside_runtime.server import grpc_
from lineside_runtime.server.access import Access, resolve
from lineside_runtime.server.http_ import bounded
from lineside_runtime.server.limits import Limits
from lineside_runtime.server.rest import RestApi
from lineside_runtime.server.service import Service

BACKLOG = 128
KEEP_ALIVE_S = 75
"""As nginx has it. uvicorn's 5 s end it between two parts of a slow line, and not every client tries again."""

POLL_S = 0.05
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
    grace_s: float = 30.0,
) -> None:
    """Serves until SIGTERM or SIGINT; then readiness turns false, running calls end, and the models are closed.

    Args:
        service: What is served.
        on_started: Called once, when both protocols answer.
        drain_s: From the signal, how long calls are still taken, so that a load balancer sees that the server isn't
            ready any more; a second signal ends it.
        grace_s: How long running calls may take after that.

    Raises:
        ConfigError: The address can't be used, others could reach it without a token, or TLS is half given.
        InputNotFoundError: Key or certificate isn't there.
    """
    address = resolve(binding.host, binding.token)
    tls = read_tls(binding)
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
        http = HttpServer(uvicorn_config(rest.app(), service.limits, binding, grace_s), lambda: on_started(running))
        asyncio.run(_until_told(service, http, listener, server, drain_s, grace_s))
        rest.close()
    service.repository.close()
    log.info("stopped")


async def _until_told(
    service: Service, http: HttpServer, listener: socket.socket, server: Any, drain_s: float, grace_s: float
) -> None:
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
    stopped = server.stop(grace_s)
    http.should_exit = True
    await serving
    while service.gate.in_flight and not stopped.is_set():
        await asyncio.sleep(POLL_S)
    server.stop(LAST_ANSWERS_S)  # a stream that is open without a call would keep it for the whole grace
    await loop.run_in_executor(None, stopped.wait)
    waiting.cancel()


class HttpServer(uvicorn.Server):
    """uvicorn, which leaves the signals to us and says when it has started."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts and says so."""
        await super().startup(sockets)
        self._on_started()


def uvicorn_config(app: ASGIApp, limits: Limits, binding: Binding, grace_s: float) -> uvicorn.Config:
    """Returns what uvicorn needs to serve an application within limits."""
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
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        ssl_keyfile=binding.tls_key,
        ssl_certfile=binding.tls_certificate,
    )


def read_tls(binding: Binding) -> tuple[bytes, bytes] | None:
    """Reads private key and certificate chain; ``None`` for plain text."""
    if binding.tls_key is None and binding.tls_certificate is None:
        return None
    if binding.tls_key is None or binding.tls_certificate is None:
        raise ConfigError("TLS", expected="both --tls-key and --tls-cert", actual="one of them", action="Give both.")
    for path in (binding.tls_key, binding.tls_certificate):
        if not path.is_file():
            raise InputNotFoundError(f"{path} is not there")
    return binding.tls_key.read_bytes(), binding.tls_certificate.read_bytes()


def listening_socket(address: str, port: int) -> socket.socket:
    """Returns a bound socket; port 0 takes any free one."""
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, an answer waited 40 ms for an ACK.
    listener = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            "--http-port", expected="a free port", actual=f"{address}:{port}: {error}", action="Choose another port."
        ) from error
    return listener
