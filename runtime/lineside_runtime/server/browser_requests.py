"""What servers of pages check of a browser's request: the host that it names, and the size and time of its body."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from starlette.requests import Request

from lineside_runtime.errors import RequestError


class OwnNames:
    """The names of a server: a request for another one comes from a page whose name leads here (DNS rebinding).

    Args:
        names: By which browsers reach it, beside ``localhost``, this machine's name and addresses.
        is_local: Whether only this machine reaches it.
    """

    def __init__(self, names: Iterable[str], *, is_local: bool) -> None:
        self._is_local = is_local
        self._names = {name.lower() for name in names} | {"localhost"}
        if not is_local:
            self._names.add(socket.gethostname().lower())

    def include(self, host: str) -> bool:
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
