"""The ASGI application: each route behind its checks, its change in the audit log, errors as page or JSON."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_origin, get_type_hints
from urllib.parse import parse_qsl, quote

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lineside_hub.results.database import Database
from lineside_hub.web import audit
from lineside_hub.web.accounts import Principal, find_principal
from lineside_hub.web.guard import OriginPolicy, RateLimit
from lineside_hub.web.routing import API, COOKIE, Dashboard, DashboardRequest, DashboardRoute
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, LinesideError, OverloadedError, RequestError
from lineside_runtime.server.page_server import read_body

log = logging.getLogger("lineside.hub.web")


STATIC = Path(__file__).with_name("static")
SHARED = ("lineside_runtime.server", "static")
"""Package and folder of the scripts that the operator screen has, too."""

BODY_TIMEOUT_S = 20.0

COMPRESSED_FROM_BYTES = 1024

COMPRESSION_LEVEL = 4
"""Of zlib: beyond it pages get hardly smaller and take longer."""

WORKERS = 4

WAITING_MAX = 64
"""Requests that run or wait for a worker; further ones are answered 503."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"

_STATUSES: tuple[tuple[type[LinesideError], int], ...] = ((InputNotFoundError, 404), (OverloadedError, 503))


class SecurityHeaders:
    """Checks host and rate of every request, and adds the headers to every response."""

    def __init__(self, app: ASGIApp, policy: OriginPolicy, rate: RateLimit) -> None:
        self._app, self._policy, self._rate = app, policy, rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        try:
            self._policy.check_host(request)
            self._rate.check(request.client.host if request.client else "")
        except RequestError as error:
            await _error_response(request, error, None)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


class Compression:
    """Compresses pages, JSON, scripts and styles.

    A page whose compressed size shows a secret (BREACH) has both that secret and text of a request in it. No page has:
    what protects changes is the request's origin and not a token in the page, and sessions are in cookies. Pages of the
    sign-in, which hold a code of the identity provider, are not compressed all the same.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app, minimum_size=COMPRESSED_FROM_BYTES, compresslevel=COMPRESSION_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        is_plain = scope["path"].startswith(("/sign-in", "/frames/", "/results/export"))
        await (self._app if is_plain else self._compressed)(scope, receive, send)


class RouteRunner:
    """Runs the handlers of routes in worker threads."""

    def __init__(self, dashboard: Dashboard, policy: OriginPolicy) -> None:
        self._dashboard, self._policy = dashboard, policy
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="dashboard")
        self._waiting = 0
        self._issuer = dashboard.provider.issuer if dashboard.provider else ""

    def close(self) -> None:
        """Ends the worker threads after what they run."""
        self._workers.shutdown(cancel_futures=True)

    def endpoint(self, route: DashboardRoute) -> Callable[[Request], Awaitable[Response]]:
        """Returns what answers the requests of a route."""

        async def answer(request: Request) -> Response:
            if self._waiting >= WAITING_MAX:
                raise OverloadedError("the dashboard is busy", action="Try again in a moment.")
            self._waiting += 1
            try:
                body = b""
                if route.body is not None:
                    body = await read_body(request, bytes_max=route.body_max_bytes, timeout_s=BODY_TIMEOUT_S)
                return await asyncio.get_running_loop().run_in_executor(
                    self._workers, self._serve, route, request, body
                )
            finally:
                self._waiting -= 1

        return answer

    def _serve(self, route: DashboardRoute, request: Request, body: bytes) -> Response:
        with Database.open(self._dashboard.folder) as database:
            principal, token = self._principal(database, request)
            try:
                if route.role is not None and not principal.may(route.role):
                    raise _refusal(principal, route)
                call = DashboardRequest(
                    dashboard=self._dashboard,
                    database=database,
                    principal=principal,
                    address=request.client.host if request.client else "",
                    token=token,
                    is_secure=request.url.scheme == "https",
                    host=request.headers.get("host", ""),
                    cookies=request.cookies,
                    path=request.path_params,
                    query=_convert(request.query_params.multi_items(), route.query),
                    body=_decode(request, body, route),
                    url=f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path,
                )
                if route.method == "GET":
                    return _response(route.handler(call), request, call)
                return _response(_change(route, call), request, call, is_change=True)
            except LinesideError as error:
                return self._failed(request, error, principal)

    def _principal(self, database: Database, request: Request) -> tuple[Principal, str]:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = bearer.strip()
            return find_principal(database, token, is_token=True, acts=True, issuer=self._issuer), token
        if request.method not in ("GET", "HEAD"):
            self._policy.check_origin(request)
        token = request.cookies.get(COOKIE, "")
        acts = "x-refresh" not in request.headers
        if not token:
            return Principal(), ""
        return find_principal(database, token, is_token=False, acts=acts, issuer=self._issuer), token

    def _failed(self, request: Request, error: LinesideError, principal: Principal) -> Response:
        is_page = request.method == "GET" and not request.url.path.startswith(f"{API}/")
        if is_page and status_of(error) == 401:
            target = quote(f"{request.url.path}?{request.url.query}".rstrip("?"))
            if "hx-request" in request.headers:
                return Response(status_code=204, headers={"HX-Redirect": "/sign-in"})
            return RedirectResponse(f"/sign-in?next={target}" if target != "/" else "/sign-in", 303)
        return _error_response(request, error, self._dashboard, principal)


def _refusal(principal: Principal, route: DashboardRoute) -> RequestError:
    if principal.role is None:
        return RequestError("nobody is signed in", status=401, action="Sign in.")
    action = "Ask somebody who may administer the dashboard for the role."
    return RequestError(
        f"{principal.name} may not do this", status=403, expected=route.role, actual=principal.role, action=action
    )


def _change(route: DashboardRoute, call: DashboardRequest) -> Any:
    """Runs a handler that changes something, and leaves one row in the audit log."""
    subject = " ".join(str(value) for value in call.path.values())
    pending = audit.begin(
        call.database, who=call.principal.name, address=call.address, action=route.action, subject=subject
    )
    try:
        done = route.handler(call)
    except BaseException as error:
        said = str(error) if isinstance(error, LinesideError) else f"the dashboard failed: {type(error).__name__}"
        if status_of(error) == 429:
            audit.discard(call.database, pending)
        else:
            audit.finish(call.database, pending, **{"subject": subject, **call.noted}, error=said)
        raise
    audit.finish(call.database, pending, **{"subject": subject, **call.noted})
    return done


def _response(value: Any, request: Request, call: DashboardRequest, *, is_change: bool = False) -> Response:
    if isinstance(value, Response):
        response = value
    elif is_change and "hx-request" in request.headers:
        response = Response(status_code=204)
        response.headers.update({"HX-Redirect": call.after} if call.after else {"HX-Refresh": "true"})
    else:
        response = Response(msgspec.json.encode(value), media_type=_JSON)
    for name, text in call.response_headers:
        response.headers.append(name, text)
    return response


def _decode(request: Request, body: bytes, route: DashboardRoute) -> Any:
    wanted: Any = route.body
    if wanted is None or wanted is bytes:
        return body or None
    kind = request.headers.get("content-type", "").partition(";")[0]
    try:
        if kind == _JSON:
            return decode_json(body, type=wanted)
        if kind == _FORM:
            return _convert(parse_qsl(body.decode(), max_num_fields=1000), wanted)
    except (msgspec.DecodeError, ValueError) as error:
        raise RequestError(f"the request is malformed: {error}", action="") from error
    raise RequestError("no JSON and no form", status=415, expected=f"Content-Type: {_JSON} or {_FORM}", action="")


def _convert(fields: Sequence[tuple[str, str]], kind: type[msgspec.Struct] | None) -> Any:
    """Reads fields of a form or a query; empty ones are left out."""
    if kind is None:
        return None
    hints = _field_types(kind)
    found: dict[str, Any] = {}
    for name, value in fields:
        if value == "":
            continue
        if get_origin(hints.get(name)) is tuple:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(hints) if found.keys() - hints.keys() else None
        raise RequestError(f"a field is wrong: {error}", expected=known, action="Correct it.") from error


@functools.cache
def _field_types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind)


def status_of(error: BaseException) -> int:
    """Returns the HTTP status of an error."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return int(getattr(error, "status", 409)) if isinstance(error, LinesideError) else 500


def _error_response(
    request: Request, error: LinesideError, dashboard: Dashboard | None, principal: Principal | None = None
) -> Response:
    """Answers with a page, with a message for the page that is shown, or with JSON."""
    status = status_of(error)
    fields = {**error.as_dict(), "text": str(error)}
    if "hx-request" in request.headers and dashboard is not None:
        return HTMLResponse(dashboard.templates.get_template("message.html").render(error=fields), status)
    if dashboard is None or request.url.path.startswith(f"{API}/") or request.method != "GET":
        return Response(msgspec.json.encode(fields), status, media_type=_JSON)
    page = dashboard.render("error.html", principal or Principal(), error=fields, status=status, path="", url="")
    return HTMLResponse(page, status)


def make_app(dashboard: Dashboard, runner: RouteRunner, policy: OriginPolicy) -> ASGIApp:
    """Returns the application."""

    async def failed(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, LinesideError) else RequestError(str(error), status=500)
        return _error_response(request, known, dashboard)

    async def not_served(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        action = "Start at the dashboard's first page." if status == 404 else ""
        return _error_response(
            request, RequestError(HTTPStatus(status).phrase.lower(), status=status, action=action), dashboard
        )

    async def crashed(request: Request, error: Exception) -> Response:
        log.error("%s %s crashed", request.method, request.url.path[:200], exc_info=error)
        text = "the dashboard failed; the hub's log says why"
        return _error_response(request, RequestError(text, status=500, action=""), dashboard)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)

    table = [Route(route.path, runner.endpoint(route), methods=[route.method]) for route in dashboard.routes]
    app = Starlette(
        routes=[*table, Mount("/static", StaticFiles(directory=STATIC, packages=[SHARED]))],
        exception_handlers={
            LinesideError: failed,
            HTTPException: not_served,
            ClientDisconnect: gone,
            Exception: crashed,
        },
    )
    return SecurityHeaders(Compression(app), policy, RateLimit())
