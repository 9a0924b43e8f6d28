"""What a page module of the dashboard is written with: `DashboardRoute` and `DashboardRequest`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import jinja2
import msgspec
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lineside_hub.config import HubConfig
from lineside_hub.link_monitor import link_warning
from lineside_hub.results.database import Database
from lineside_hub.web.accounts import LoginThrottle, Principal, Role
from lineside_hub.web.identity_provider import IdentityProvider
from lineside_hub.web.thumbnails import ThumbnailCache

BODY_MAX_BYTES = 64 << 10

API = "/api/v1"

RowNumber = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Number of a row in a query or form: what a column of SQLite holds."""

COOKIE = "lineside_dashboard"
"""Holds a session's token."""


def row_number(text: str) -> int:
    """Returns the number of a row that a path names; 0, which no row has, if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """What all requests share.

    Attributes:
        provider: Who else lets people sign in; ``None`` for local accounts only.
    """

    config: HubConfig
    templates: jinja2.Environment
    throttle: LoginThrottle
    provider: IdentityProvider | None
    thumbnails: ThumbnailCache
    routes: tuple[DashboardRoute, ...]

    @property
    def folder(self) -> Path:
        """The hub's."""
        return Path(self.config.folder)

    def render(self, template: str, principal: Principal, **values: Any) -> str:
        """Renders a template, which extends ``base.html``.

        Args:
            principal: Sees the pages of its role in the navigation.
            values: For the template, beside ``principal`` and ``navigation``.
        """
        navigation = [route for route in self.routes if route.menu and principal.may(route.role or "watch")]
        return self.templates.get_template(template).render(principal=principal, navigation=navigation, **values)


@dataclasses.dataclass(slots=True, kw_only=True)
class DashboardRequest:
    """One request that has passed the checks of host, origin, rate, role and body.

    Attributes:
        token: Of its session; empty for none.
        is_secure: Whether it came over TLS.
        host: That the client named, with its port.
        path: Parameters of the route's path.
        query: The route's ``query`` struct; ``None`` if it has none.
        body: The route's ``body`` struct, or bytes if that is ``bytes``; ``None`` if it has none.
        url: Path and query as sent.
        after: Where a browser goes after a change; the page that it is on if empty.
        response_headers: Added to the response, such as a cookie.
    """

    dashboard: Dashboard
    database: Database
    principal: Principal
    address: str
    token: str
    is_secure: bool
    host: str
    cookies: Mapping[str, str]
    path: Mapping[str, Any]
    query: Any
    body: Any
    url: str
    after: str = ""
    response_headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    noted: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The hub's."""
        return self.dashboard.folder

    @property
    def origin(self) -> str:
        """Address of the dashboard, as the browser has it."""
        return f"{'https' if self.is_secure else 'http'}://{self.host}"

    def note(self, subject: str, *, before: Any = None, after: Any = None, who: str | None = None) -> None:
        """Says what the request's row in the audit log tells; a second call replaces the first.

        Args:
            before: Any value that msgspec encodes.
            after: As ``before``.
            who: Instead of the principal, as for a sign-in.
        """
        self.noted = {"subject": subject, "before": before, "after": after, "who": who}

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Renders a template, which extends ``base.html``.

        Args:
            values: For the template, beside ``principal``, ``navigation``, ``path``, ``url`` and ``link_problem``.
        """
        values |= {"path": urlsplit(self.url).path, "url": self.url, "link_problem": link_warning(self.folder)}
        return HTMLResponse(self.dashboard.render(template, self.principal, **values), status)

    def set_cookie(self, name: str, value: str, *, age_s: int, path: str, same_site: str) -> None:
        """Gives the browser a cookie that no script reads; with an age of 0 it takes the cookie back."""
        secure = "; Secure" if self.is_secure else ""
        text = f"{name}={value}; Max-Age={age_s}; Path={path}; HttpOnly; SameSite={same_site}{secure}"
        self.response_headers.append(("Set-Cookie", text))

    def set_session(self, token: str, *, age_s: int) -> None:
        """Gives the browser a session's token; with an age of 0 it takes the token back."""
        self.set_cookie(COOKIE, token, age_s=age_s, path="/", same_site="Lax")

    def redirect(self, url: str) -> Response:
        """Sends the browser to another page of the dashboard."""
        return RedirectResponse(url, 303)


Handler = Callable[[DashboardRequest], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class DashboardRoute:
    """One route.

    Attributes:
        method: ``GET``, or ``POST`` or ``DELETE`` for what changes something.
        path: As Starlette has it; below `API` it is part of the REST API and its errors are JSON.
        role: The least role that may use it; ``None`` for everybody who reaches the dashboard.
        handler: Returns a response, or a value that is sent as JSON. It runs in a worker thread and may wait. After a
            change the browser's page is loaded again, or the one that `DashboardRequest.after` names. The API's
            description has its docstring.
        action: What the audit log calls the change; needed for everything but ``GET``.
        query: Struct of the query's parameters; others are an error.
        body: Struct of the body, JSON or a form; or ``bytes`` for the body as it is.
        menu: Name in the navigation; empty for none.
    """

    method: str
    path: str
    role: Role | None
    handler: Handler
    action: str = ""
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | type[bytes] | None = None
    menu: str = ""
    body_max_bytes: int = BODY_MAX_BYTES

    def __post_init__(self) -> None:
        """Checks that a change has an action, and that a read has none."""
        if (self.method == "GET") == bool(self.action):
            raise TypeError(f"{self.method} {self.path}: an action is needed for a change, and for nothing else")

    @property
    def is_api(self) -> bool:
        """Whether it is part of the REST API."""
        return self.path.startswith(f"{API}/")

    @property
    def summary(self) -> str:
        """What it is, for the API's description."""
        return (inspect.getdoc(self.handler) or "").partition("\n")[0].rstrip(".")

    @property
    def answer(self) -> Any:
        """Type of the JSON in the response, by the handler's annotation; ``None`` for none."""
        made = get_type_hints(self.handler)["return"]
        return None if made in (Response, type(None)) else made
