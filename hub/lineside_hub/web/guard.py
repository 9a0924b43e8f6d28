"""Checks of a request before it is read: the host that it names, the page that it comes from, and its rate."""

from __future__ import annotations

import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

from lineside_runtime.errors import RequestError
from lineside_runtime.server.page_server import AllowedHosts

RATE_PER_S, BURST = 100.0, 400.0
"""Requests of one address; a page of thumbnails is 60 at once."""

_ADDRESSES_MAX = 4096


class OriginPolicy:
    """Refuses requests for another host (DNS rebinding) and changes that another site's page asks for.

    Args:
        names: By which browsers reach the dashboard.
        is_local: Whether only this machine reaches it.
    """

    def __init__(self, names: Iterable[str], *, is_local: bool) -> None:
        self._hosts = AllowedHosts(names, is_local=is_local)

    def check_host(self, request: Request) -> None:
        """Checks the name that a request was sent to.

        Raises:
            RequestError: It names another host (421).
        """
        host = request.headers.get("host", "")
        if not self._hosts.allows(host):
            raise RequestError(
                "the dashboard is not known by that name",
                status=421,
                expected="localhost, an address, or one of [web] names",
                actual=host[:100],
                action="Add the name to [web] names in hub.toml.",
            )

    def check_origin(self, request: Request) -> None:
        """Checks that a page of the dashboard itself asks for a change.

        Raises:
            RequestError: Another page does, or the client does not say which (403).
        """
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        host = request.headers.get("host", "")
        is_own = site == "same-origin" if origin is None else urlsplit(origin).netloc.lower() == host.lower()
        if not is_own or site not in (None, "same-origin"):
            raise RequestError(
                "a page of another site asked",
                status=403,
                expected="a page of the dashboard, or an API token",
                actual=(origin or site or "neither Origin nor Sec-Fetch-Site")[:100],
                action="Open the dashboard itself; a program uses a token (lineside hub user token).",
            )


class RateLimit:
    """A bucket of requests for each address, which fills again; used in the event loop's thread only."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def check(self, address: str) -> None:
        """Counts a request.

        Raises:
            RequestError: The address has sent too many (429).
        """
        now_s = time.monotonic()
        left, at_s = self._left.pop(address, (BURST, now_s))
        left = min(BURST, left + (now_s - at_s) * RATE_PER_S)
        self._left[address] = (max(0.0, left - 1.0), now_s)
        while len(self._left) > _ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        if left < 1.0:
            raise RequestError("too many requests", status=429, action="Wait a second.")
