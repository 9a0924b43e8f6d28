"""What routes of the screen share: `ScreenRoute`, bodies of requests and answers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lineside_agent.screen.people import Role, Visitor
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_agent.screen.state import ScreenState
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import InputNotFoundError, LinesideError, RequestError, StoreError
from lineside_runtime.server import page_server

log = logging.getLogger("lineside.screen")

BODY_MAX_BYTES = 16 << 10

BODY_TIMEOUT_S = 10.0

T = TypeVar("T")


class RouteContext:
    """What a route may use.

    Args:
        set_up: The set-up views; ``None`` where there are none.
    """

    def __init__(self, screen: ScreenState, set_up: SetUpViews | None) -> None:
        self.screen = screen
        self.set_up = set_up

    async def run_in_worker(self, work: Callable[[], T]) -> T:
        """Runs what waits for the disk in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self.screen.worker, work)

    async def perform(
        self,
        visitor: Visitor,
        action: str,
        work: Callable[[], T],
        *,
        subject: str = "",
        detail: str | None = "",
        in_worker: bool = True,
    ) -> T:
        """Does something for a person, and writes down what and how it went."""
        try:
            done = await (self.run_in_worker(work) if in_worker else asyncio.to_thread(work))
        except LinesideError as error:
            await self.note(visitor.name, action, subject, detail or "", str(error))
            raise
        await self.note(visitor.name, action, subject, detail or "")
        return done

    async def note(self, by: str, action: str, subject: str = "", detail: str = "", error: str = "") -> None:
        """Writes down what a person did; on a full disk, where people are needed most, only the log has it."""
        try:
            await self.run_in_worker(lambda: self.screen.actions.add(by, action, subject, detail, error))
        except StoreError as problem:
            log.error("%r did %r %r %r %r: %s", by, action, subject, detail, error, problem)


Handler = Callable[[Any, Request, Visitor], Awaitable[Response]]
"""Takes a `RouteContext`."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScreenRoute:
    """One route.

    Attributes:
        role: The least role that may use it; ``None`` for everybody who reaches the screen.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler


async def read_body(request: Request, kind: type[T]) -> T:
    """Reads a small JSON body, which a page of another site can't send without being asked first.

    Raises:
        RequestError: It is none, too large, too slow or malformed.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RequestError("no JSON", status=415, expected="Content-Type: application/json", action="")
    body = await page_server.read_body(request, bytes_max=BODY_MAX_BYTES, timeout_s=BODY_TIMEOUT_S)
    try:
        return decode_json(body, type=kind)
    except msgspec.DecodeError as error:
        raise RequestError(f"the request is malformed: {error}", action="") from error


def json_response(value: Any, status: int = 200) -> Response:
    """Returns a value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def jpeg_response(data: bytes | None) -> Response:
    """Returns an image; raises `InputNotFoundError` without one."""
    if data is None:
        raise InputNotFoundError("no image", action="Images of passed parts are kept for some seconds only.")
    return Response(data, media_type="image/jpeg")


def require_control(screen: ScreenState) -> None:
    """Raises `RequestError` where the line has not given the screen control."""
    if not screen.config.control:
        action = "Set control = true under [screen] in agent.toml."
        raise RequestError("the line has not given the screen control", status=403, action=action)
