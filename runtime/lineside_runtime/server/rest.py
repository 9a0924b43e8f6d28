"""The protocol over HTTP: reads requests, hands them to the service in a worker thread, sends answers.

The event loop only moves bytes: inflating, parsing, running and encoding happen in the worker.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import RequestError
from lineside_runtime.server import metrics
from lineside_runtime.server.access import Access
from lineside_runtime.server.calls import SHARED_MEMORY, SHARED_MEMORY_ACTION
from lineside_runtime.server.limits import MemoryBudget
from lineside_runtime.server.repository import ServedModel, configuration_of, index_of, metadata_of
from lineside_runtime.server.responses import GuardedApp, error_handlers, json_response, read_body
from lineside_runtime.server.rest_codec import compress, decompress, encode_answer, parse_request
from lineside_runtime.server.service import Cancelled, Service

HEADER_LENGTH = "Inference-Header-Content-Length"
BODIES_HELD = 4
"""As many requests of the largest size may be held at once."""

COMPRESS_FROM_BYTES = 1024  # a packet; less isn't worth the time
SMALL_BODY_BYTES = 1 << 16  # for what carries no tensors

_PATHS = "GET /v2 says what this server is; docs/guides/serve.md lists its paths."

Handler = Callable[[Request], Awaitable[Response]]


class _Options(msgspec.Struct):
    """Body of the requests to the model repository, each of which uses one of these."""

    ready: bool = False
    parameters: dict[str, Any] | None = None


_OPTIONS = JsonDecoder(_Options)


class RestApi:
    """The routes."""

    def __init__(self, service: Service, access: Access) -> None:
        self._service = service
        self._access = access
        self._budget = MemoryBudget(BODIES_HELD * service.limits.max_body_bytes)
        self._workers = ThreadPoolExecutor(service.limits.max_in_flight, "lineside-rest")

    def app(self) -> ASGIApp:
        """Returns the application for an ASGI server."""
        app = Starlette(
            routes=self._routes(),
            exception_handlers={**error_handlers(_PATHS), Cancelled: _gone},
        )
        app.router.redirect_slashes = False  # to an address made of the client's own Host header, without a body
        return GuardedApp(app, self._access, lambda: self._service.metrics.access_refused("rest"))

    def close(self) -> None:
        """Ends the workers when their calls are done."""
        self._workers.shutdown()

    def _routes(self) -> list[Route]:
        gets: dict[str, Handler] = {
            "/v2": self._metadata,
            "/v2/health/live": self._live,
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics,
        }
        posts: dict[str, Handler] = {
            "/v2/repository/index": self._index,
            "/v2/repository/models/{name}/load": self._load,
            "/v2/repository/models/{name}/unload": self._unload,
        }
        for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            gets |= {
                prefix: self._model,
                f"{prefix}/ready": self._model_ready,
                f"{prefix}/config": self._model_config,
            }
            posts[f"{prefix}/infer"] = self._infer
        return [
            *(Route(path, handler, methods=["POST"]) for path, handler in posts.items()),
            *(Route(path, handler, methods=["GET"]) for path, handler in gets.items()),
            *(
                Route(f"/v2/{kind}sharedmemory/{{rest:path}}", _no_shared_memory, methods=["GET", "POST"])
                for kind in ("system", "cuda")
            ),
        ]

    async def _infer(self, request: Request) -> Response:
        arrived_s = time.perf_counter()
        name = request.path_params["name"]
        held = [0]
        try:
            with self._service.counted(name, "rest"):
                body = await self._body(request, self._service.limits.max_body_bytes, held)
                self._service.gate.enter()
                work = functools.partial(self._work, request, body, arrived_s)
                return await asyncio.get_running_loop().run_in_executor(self._workers, work)
        finally:
            self._budget.give_back(held[0])

    def _work(self, request: Request, body: bytearray, arrived_s: float) -> Response:
        headers = request.headers
        try:
            plain = decompress(body, headers.get("content-encoding", ""), self._service.limits.max_body_bytes)
            name, version = request.path_params["name"], request.path_params.get("version", "")
            parsed = parse_request(name, version, plain, headers.get(HEADER_LENGTH, ""))
            answer = self._service.infer(parsed.request, arrived_s=arrived_s)
            content, length = encode_answer(answer, parsed)
            return _answer(content, length, _accepted(headers.get("accept-encoding", "")))
        finally:
            self._service.gate.leave()

    async def _body(self, request: Request, limit: int, held: list[int]) -> bytearray:
        """Reads the body; ``held`` counts what was taken from the budget."""

        def take(count: int) -> None:
            self._budget.take(count)
            held[0] += count

        try:
            return await read_body(request, limit, self._service.limits.request_timeout_s, take)
        except ClientDisconnect as error:
            raise Cancelled from error

    async def _live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, request: Request) -> Response:
        return json_response({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def _metadata(self, request: Request) -> Response:
        return json_response(self._service.metadata())

    async def _metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    def _named(self, request: Request) -> ServedModel:
        return self._service.repository.get(request.path_params["name"], request.path_params.get("version", ""))

    async def _model(self, request: Request) -> Response:
        return json_response(metadata_of(self._named(request)))

    async def _model_ready(self, request: Request) -> Response:
        model = self._named(request)
        ready = self._service.accepting and model.session is not None
        return json_response({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def _model_config(self, request: Request) -> Response:
        return json_response(configuration_of(self._named(request)))

    async def _index(self, request: Request) -> Response:
        wanted = await self._options(request)
        return json_response(index_of(self._service.repository.models, only_ready=wanted.ready))

    async def _load(self, request: Request) -> Response:
        return await self._change(request, ServedModel.load)

    async def _unload(self, request: Request) -> Response:
        return await self._change(request, ServedModel.unload)

    async def _change(self, request: Request, change: Callable[[ServedModel], None]) -> Response:
        self._service.control()
        model = self._named(request)
        options = await self._options(request)
        self._service.refuse_load_parameters(options.parameters or {})
        await asyncio.get_running_loop().run_in_executor(self._workers, change, model)
        return json_response({})

    async def _options(self, request: Request) -> _Options:
        held = [0]
        try:
            body = await self._body(request, SMALL_BODY_BYTES, held)
            return _OPTIONS.decode(body) if body else _Options()
        except msgspec.DecodeError as error:
            raise RequestError(f"the request is not as the protocol says: {error}") from error
        finally:
            self._budget.give_back(held[0])


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the client is gone


async def _no_shared_memory(request: Request) -> Response:
    raise RequestError(SHARED_MEMORY, action=SHARED_MEMORY_ACTION)


def _answer(content: bytes, header_length: int | None, encoding: str) -> Response:
    headers: dict[str, str] = {}
    if header_length is not None:
        headers[HEADER_LENGTH] = str(header_length)
    if encoding and len(content) >= COMPRESS_FROM_BYTES:
        content = compress(content, encoding)
        headers["Content-Encoding"] = encoding
    media_type = "application/json" if header_length is None else "application/octet-stream"
    return Response(content, headers=headers, media_type=media_type)


def _accepted(header: str) -> str:
    """Returns which encoding to use for an ``Accept-Encoding`` header; empty for none."""
    offered = {}
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        offered[name.strip()] = quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((encoding for encoding in ("gzip", "deflate") if offered.get(encoding)), "")
