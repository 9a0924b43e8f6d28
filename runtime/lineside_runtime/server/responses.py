"""What the HTTP servers share: errors as JSON, access control before everything else, bodies with a bound."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lineside_runtime.errors import LinesideError, OverloadedError, RequestError
from lineside_runtime.server.access import Access
from lineside_runtime.server.rest_codec import too_large
from lineside_runtime.server.service import status_of

RETRY_AFTER_S = 1

log = logging.getLogger("lineside.server")


class GuardedApp:
    """Checks the token before anything else.

    Args:
        app: What answers whoever may call.
        on_refused: Called for each call that is refused.
    """

    def __init__(self, app: ASGIApp, access: Access, on_refused: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._access = access
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            named = (headers.get(name, b"").decode("latin-1") for name in (b"authorization", b"host", b"origin"))
            try:
                self._access.check(*named)
            except RequestError as error:
                self._on_refused()
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def error_response(error: LinesideError) -> Response:
    """Returns an error: its text under ``error``, as the Open Inference Protocol wants it, and its parts."""
    response = json_response({**error.as_dict(), "error": str(error), "name": type(error).__name__}, status_of(error))
    if isinstance(error, OverloadedError):
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if response.status_code == 408:
        response.headers["Connection"] = "close"
    return response


def json_response(value: Any, status: int = 200) -> Response:
    """Returns a value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def error_handlers(paths: str) -> dict[Any, Any]:
    """Returns handlers for Starlette.

    Args:
        paths: Where a client finds what is served.
    """
    return {
        LinesideError: _failed,
        HTTPException: functools.partial(_not_found, paths),
        Exception: _crashed,
    }


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(error if isinstance(error, LinesideError) else LinesideError("internal error"))


async def _not_found(paths: str, request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path[:200]} is not served"
    return error_response(RequestError(message, status=status, action=paths))


async def _crashed(request: Request, error: Exception) -> Response:
    log.error("%s %s crashed", request.method, request.url.path[:200], exc_info=error)
    return error_response(LinesideError("the server failed; its log says why"))


async def read_body(
    request: Request, limit: int, timeout_s: float, on_bytes: Callable[[int], None] = lambda count: None
) -> bytearray:
    """Reads a request's body.

    Args:
        timeout_s: Longest time that the client may take.
        on_bytes: Called with the size of each piece before it is kept.

    Raises:
        RequestError: It is too large (413), or came too slowly (408).
        ClientDisconnect: The client is gone.
    """
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large(limit)
    body = bytearray()
    try:
        with anyio.fail_after(timeout_s):
            async for chunk in request.stream():
                on_bytes(len(chunk))
                if len(body) + len(chunk) > limit:
                    raise too_large(limit)
                body += chunk
    except TimeoutError as error:
        raise RequestError("the request's body did not come in time", status=408) from error
    return body
