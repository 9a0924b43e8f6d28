"""Who may send a request: the name that it was sent to, the page that it comes from, and the role it needs."""

from __future__ import annotations

from starlette.requests import Request

from lineside_agent.screen.people import Role, Visitor
from lineside_agent.screen.state import ScreenState
from lineside_runtime.errors import RequestError
from lineside_runtime.server.page_server import AllowedHosts

COOKIE = "lineside_session"

LOCAL = "local"
"""Name of somebody at the device itself, where nobody has a PIN."""


class Guard:
    """Decides on requests.

    Args:
        is_local: Whether only this machine reaches the screen.
    """

    def __init__(self, screen: ScreenState, *, is_local: bool) -> None:
        self._screen = screen
        self._is_local = is_local
        self._hosts = AllowedHosts(screen.config.names, is_local=is_local)

    def check_origin(self, request: Request) -> None:
        """Refuses requests of other sites' pages, also of one whose name leads to this machine (DNS rebinding).

        Raises:
            RequestError: The request names another host (421), or another site's page sends it (403).
        """
        host = request.headers.get("host", "")
        if not self._hosts.allows(host):
            raise RequestError(
                "this screen is not known by that name",
                status=421,
                expected="localhost, an address, or one of [screen] names",
                actual=host[:100],
                action="Add the name to [screen] names in agent.toml.",
            )
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{host}":
            raise RequestError(
                "a page of another site asked", status=403, expected="this screen's own page", actual=origin[:100]
            )

    def visitor(self, request: Request, *, acts: bool) -> Visitor:
        """Returns who sends a request.

        Args:
            acts: Whether the person does something, as opposed to a page that refreshes itself.
        """
        sessions = self._screen.sessions
        token = request.cookies.get(COOKIE, "")
        found = sessions.visitor(token, acts=acts) if token else None
        if found is not None:
            return found
        if not self._is_local:
            return Visitor("", None)
        return Visitor("", "watch") if sessions.people() else Visitor(LOCAL, "operate")

    def check_role(self, visitor: Visitor, role: Role) -> None:
        """Checks that a visitor may do what a role may.

        Raises:
            RequestError: Nobody is signed in (401), or the person may not (403).
        """
        if visitor.may(role):
            return
        if not visitor.name:
            raise RequestError("nobody is signed in", status=401, action="Sign in with your PIN.")
        raise RequestError(
            f"{visitor.name} may not do this now", status=403, expected=role, actual=visitor.role, action="Sign in."
        )
