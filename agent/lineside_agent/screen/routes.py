"""The routes of the operator screen, each with the role that it needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from lineside_agent.line_io.local import TriggerRequest, ask
from lineside_agent.screen.feed import Part, Reject, part_fields
from lineside_agent.screen.guard import COOKIE, Guard
from lineside_agent.screen.heat_map import LiveHeat
from lineside_agent.screen.marks import MarkedBox, MarkKind
from lineside_agent.screen.people import SESSION_MAX_S, Visitor
from lineside_agent.screen.records import ScreenRecords
from lineside_agent.screen.routing import (
    RouteContext,
    ScreenRoute,
    jpeg_response,
    json_response,
    read_body,
    require_control,
)
from lineside_agent.screen.set_up.routes import SET_UP_ROUTES
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_agent.screen.state import ScreenState
from lineside_runtime.errors import InputNotFoundError, LinesideError, RequestError
from lineside_runtime.server.page_server import SCRIPTS

log = logging.getLogger("lineside.screen")

STREAMS_MAX = 32
"""More than one address may have connections, so that it cannot take all streams."""

HEARTBEAT_S = 5.0
"""Time between two signs of life of a stream; the page says that the agent is gone after three times that."""

ACTIONS_SHOWN = 200

STATIC = Path(__file__).with_name("static")

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

T = TypeVar("T")


class MarkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says of a verdict; ``kind`` is ``None`` to take it back."""

    source: str
    sequence: int
    kind: MarkKind | None
    box: MarkedBox | None = None


class SignInRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person and a PIN."""

    name: str
    pin: str


class AcknowledgeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alarm."""

    key: str


class ScreenRoutes(RouteContext):
    """Answers requests.

    Args:
        is_local: Whether only this machine reaches the screen.
    """

    def __init__(self, screen: ScreenState, *, is_local: bool, set_up: SetUpViews | None) -> None:
        super().__init__(screen, set_up)
        self._guard = Guard(screen, is_local=is_local)
        self._records = ScreenRecords(screen)
        self._heat = LiveHeat(screen)
        self._signing_in = False
        self._state = (0.0, b"")
        self._part = (-1, b"")

    def endpoint(self, route: ScreenRoute) -> Callable[[Request], Awaitable[Response]]:
        """Returns the route's handler behind the checks of host, origin and role."""

        async def answer(request: Request) -> Response:
            self._guard.check_origin(request)
            visitor = self._guard.visitor(request, acts=route.method == "POST")
            if route.role is not None:
                self._guard.check_role(visitor, route.role)
            response = await route.handler(self, request, visitor)
            response.headers.update(_HEADERS)
            return response

        return answer

    # What everybody gets.

    async def page(self, request: Request, visitor: Visitor) -> Response:
        """Returns the page and its files."""
        name = request.path_params.get("name", "index.html")
        folder = SCRIPTS if name in SHARED_FILES else STATIC
        return FileResponse(folder / name, media_type=_TYPES[Path(name).suffix])

    async def session(self, request: Request, visitor: Visitor) -> Response:
        """Returns who is signed in, and who could."""
        people = [one.name for one in self.screen.sessions.people()]
        return json_response({"name": visitor.name, "role": visitor.role, "people": people})

    async def sign_in(self, request: Request, visitor: Visitor) -> Response:
        """Begins a session."""
        given = await read_body(request, SignInRequest)
        if self._signing_in:
            raise RequestError("another person signs in", status=429, action="Try again.")
        self._signing_in = True
        try:
            token = await self.run_in_worker(lambda: self.screen.sessions.begin(given.name, given.pin))
        finally:
            self._signing_in = False
        await self.note(given.name, "sign in")
        response = json_response({})
        secure = request.url.scheme == "https"
        age_s = int(SESSION_MAX_S)
        response.set_cookie(COOKIE, token, max_age=age_s, path="/", secure=secure, httponly=True, samesite="strict")
        return response

    async def sign_out(self, request: Request, visitor: Visitor) -> Response:
        """Ends the session."""
        self.screen.sessions.end(request.cookies.get(COOKIE, ""))
        response = json_response({})
        response.delete_cookie(COOKIE, path="/")
        return response

    # What is shown.

    async def events(self, request: Request, visitor: Visitor) -> Response:
        """Returns the stream: ``part`` and ``state``, the newest of each whenever the browser has taken the last."""
        if self.screen.viewers.count >= STREAMS_MAX:
            raise RequestError(f"{STREAMS_MAX} pages are open", status=503, action="Close one of them.")
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    async def _stream(self, request: Request) -> AsyncIterator[bytes]:
        screen, shown, state_s = self.screen, -1, 0.0
        news = screen.viewers.add()
        screen.request_encoding()
        try:
            loop = asyncio.get_running_loop()
            while not screen.is_ending and self._guard.visitor(request, acts=False).may("watch"):
                if loop.time() - state_s >= STATE_EVERY_S:
                    state_s = loop.time()
                    yield self._state_event(state_s)
                part = screen.feed.published
                if part is not None and part.number != shown:
                    shown = part.number
                    yield self._part_event(part)
                news.clear()
                try:
                    await asyncio.wait_for(news.wait(), HEARTBEAT_S)
                except asyncio.TimeoutError:
                    yield b": \n\n"
        finally:
            screen.viewers.remove(news)

    def _state_event(self, now_s: float) -> bytes:
        """The state, the same for streams that ask for it at about the same time."""
        made_s, event = self._state
        if now_s - made_s >= STATE_EVERY_S / 2:
            event = _event("state", self.screen.snapshot())
            self._state = (now_s, event)
        return event

    def _part_event(self, part: Part) -> bytes:
        number, event = self._part
        if number != part.number:
            event = _event("part", {"number": part.number, **part_fields(part.row)})
            self._part = (part.number, event)
        return event

    async def part_image(self, request: Request, visitor: Visitor) -> Response:
        """Returns the image of a camera of one of the last parts."""
        found = self.screen.feed.image(request.path_params["number"], request.path_params["view"])
        return jpeg_response(found)

    async def part_heat(self, request: Request, visitor: Visitor) -> Response:
        """Returns the image of a camera of one of the last parts under its heat map."""
        return jpeg_response(await self._heat.get(request.path_params["number"], request.path_params["view"]))

    async def rejects(self, request: Request, visitor: Visitor) -> Response:
        """Returns the rejects after a number, newest first."""
        after = int(request.query_params.get("after", "0"))
        return json_response([_reject_fields(one) for one in self.screen.feed.rejects(after)])

    async def thumbnail(self, request: Request, visitor: Visitor) -> Response:
        """Returns the thumbnail of a reject."""
        return jpeg_response(self.screen.feed.thumbnail(request.path_params["number"]))

    async def record(self, request: Request, visitor: Visitor) -> Response:
        """Returns a record with the thresholds that it was judged by."""
        source, sequence = _frame(request)
        return json_response(await self.run_in_worker(lambda: self._records.details(source, sequence)))

    async def record_image(self, request: Request, visitor: Visitor) -> Response:
        """Returns the image of a record, as it was kept."""
        source, sequence = _frame(request)
        view = int(request.query_params.get("view", "0"))
        path = await self.run_in_worker(lambda: self._records.image(source, sequence, view))
        if path is not None:
            return FileResponse(path, media_type="image/png")
        found = self.screen.good_parts.image(source, sequence, view)
        if found is None:
            found = await self.run_in_worker(lambda: self._records.recent_image(source, sequence, view))
        reject = self.screen.feed.reject(source, sequence)
        return jpeg_response(found if found is not None or reject is None else reject.thumbnail)

    async def record_heat(self, request: Request, visitor: Visitor) -> Response:
        """Returns the image of a record under its heat map."""
        source, sequence = _frame(request)
        view = int(request.query_params.get("view", "0"))
        return jpeg_response(await self.run_in_worker(lambda: self._records.heat(source, sequence, view)))

    async def similar(self, request: Request, visitor: Visitor) -> Response:
        """Returns the good part that looks most like a record's image; ``null`` if there is none."""
        source, sequence = _frame(request)
        view = int(request.query_params.get("view", "0"))
        return json_response(await self.run_in_worker(lambda: self._records.similar(source, sequence, view)))

    async def action_list(self, request: Request, visitor: Visitor) -> Response:
        """Returns the last actions of people."""
        return json_response(await self.run_in_worker(lambda: self.screen.actions.last(ACTIONS_SHOWN)))

    # What people do.

    async def mark(self, request: Request, visitor: Visitor) -> Response:
        """Marks a verdict for the hub's queue of frames to correct, or takes the mark back."""
        given = await read_body(request, MarkRequest)

        def work() -> dict[str, Any]:
            return self._records.mark(given.source, given.sequence, given.kind, given.box, by=visitor.name)

        done = await self.perform(visitor, "mark", work, subject=f"{given.source} {given.sequence}", detail=given.kind)
        return json_response(done)

    async def acknowledge(self, request: Request, visitor: Visitor) -> Response:
        """Acknowledges an alarm."""
        given = await read_body(request, AcknowledgeRequest)
        if not self.screen.alarms.acknowledge(given.key, visitor.name):
            raise InputNotFoundError("there is no such alarm any more", action="")
        await self.note(visitor.name, "acknowledge", given.key)
        self.screen.viewers.notify()
        return json_response({})

    async def control(self, request: Request, visitor: Visitor) -> Response:
        """Sends a request to the line, as ``lineside agent trigger`` does."""
        given = await read_body(request, TriggerRequest)
        require_control(self.screen)

        def work() -> dict[str, Any]:
            return ask(self.screen.agent.folder, given)

        # Not in the worker: a recipe takes seconds, and the screen goes on showing.
        done = await self.perform(visitor, given.do, work, subject=given.recipe or given.part_id, in_worker=False)
        return json_response(done)


STATE_EVERY_S = 0.4
"""Least time between two states of a stream; the agent's status changes every 0.5 s."""

ROUTES = (
    ScreenRoute("GET", "/", None, ScreenRoutes.page),
    ScreenRoute("GET", "/session", None, ScreenRoutes.session),
    ScreenRoute("POST", "/session", None, ScreenRoutes.sign_in),
    ScreenRoute("POST", "/session/end", None, ScreenRoutes.sign_out),
    ScreenRoute("GET", "/events", "watch", ScreenRoutes.events),
    ScreenRoute("GET", "/parts/{number:int}/{view:int}.jpg", "watch", ScreenRoutes.part_image),
    ScreenRoute("GET", "/parts/{number:int}/{view:int}/heat.jpg", "watch", ScreenRoutes.part_heat),
    ScreenRoute("GET", "/rejects", "watch", ScreenRoutes.rejects),
    ScreenRoute("GET", "/rejects/{number:int}.jpg", "watch", ScreenRoutes.thumbnail),
    ScreenRoute("GET", "/record", "watch", ScreenRoutes.record),
    ScreenRoute("GET", "/record/image", "watch", ScreenRoutes.record_image),
    ScreenRoute("GET", "/record/heat", "watch", ScreenRoutes.record_heat),
    ScreenRoute("GET", "/record/similar", "watch", ScreenRoutes.similar),
    ScreenRoute("GET", "/actions", "set_up", ScreenRoutes.action_list),
    ScreenRoute("POST", "/mark", "operate", ScreenRoutes.mark),
    ScreenRoute("POST", "/acknowledge", "operate", ScreenRoutes.acknowledge),
    ScreenRoute("POST", "/line", "operate", ScreenRoutes.control),
    *SET_UP_ROUTES,
)
"""Every route; a test compares what each role may do with a table."""

FILES = ("screen.js", "setup.js", "screen.css", "strings.json")
SHARED_FILES = ("pressed.js",)
"""In the folder of scripts that the hub's pages have, too."""


def make_app(screen: ScreenState, *, is_local: bool, set_up: SetUpViews | None = None) -> Starlette:
    """Returns the ASGI application; the arguments are those of `ScreenRoutes`."""
    routes = ScreenRoutes(screen, is_local=is_local, set_up=set_up)
    files = ScreenRoute("GET", "/{name}", None, ScreenRoutes.page)
    table = [Route(route.path, routes.endpoint(route), methods=[route.method]) for route in ROUTES]
    table += [
        Route(f"/{name}", _named(routes.endpoint(files), name), methods=["GET"]) for name in (*FILES, *SHARED_FILES)
    ]
    handlers = {LinesideError: _failed, HTTPException: _not_served, ValueError: _malformed, Exception: _crashed}
    return Starlette(routes=table, exception_handlers={**handlers, ClientDisconnect: _gone})


def _named(endpoint: Callable[[Request], Awaitable[Response]], name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        request.path_params["name"] = name
        return await endpoint(request)

    return answer


def _frame(request: Request) -> tuple[str, int]:
    """Source and number of the frame that a request names."""
    return request.query_params.get("source", ""), int(request.query_params.get("sequence", "-1"))


def _reject_fields(reject: Reject) -> dict[str, Any]:
    return {
        "number": reject.number,
        "has_thumbnail": reject.thumbnail is not None,
        "mark": reject.mark,
        **part_fields(reject.row),
    }


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


async def _failed(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, InputNotFoundError) else getattr(error, "status", 409)
    fields = error.as_dict() if isinstance(error, LinesideError) else {}
    response = json_response({**fields, "text": str(error)}, status)
    response.headers.update(_HEADERS)
    return response


async def _malformed(request: Request, error: Exception) -> Response:
    return await _failed(request, RequestError("a parameter is no number", action=""))


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return await _failed(request, RequestError(HTTPStatus(status).phrase, status=status, action=""))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


async def _crashed(request: Request, error: Exception) -> Response:
    log.error("%s %s crashed", request.method, request.url.path[:200], exc_info=error)
    return await _failed(request, RequestError("the screen failed; the agent's log says why", status=500, action=""))
