"""The dashboard of a hub's folder, its accounts, and clients of it."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page

from lineside_hub.config import HubConfig, WebConfig
from lineside_hub.web.accounts import ROLES, Role, begin_session, set_account
from lineside_hub.web.routing import COOKIE
from lineside_hub.web.server import WebServer
from lineside_link.config import LinkConfig
from tests.peers.waiting import wait_for
from tests.worlds.hub import open_database

NAMES: dict[Role, str] = {"watch": "Wanda", "operate": "Otto", "administer": "Ada"}

PASSWORD = "four words of chalk"

SIZES = {"desktop": (1440, 900), "tablet": (1024, 768), "phone": (390, 844)}


def barriers(page: Page) -> list[tuple[str, str]]:
    """Returns what axe finds serious or critical on a page: the rule, and the first element that breaks it."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def shoot(page: Page, name: str) -> None:
    """Saves a picture of the page for people, where a folder for them is named."""
    if folder := os.environ.get("LINESIDE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def check_in_all_sizes(page: Page, url: str, name: str, *, ready: Callable[[], None] = lambda: None) -> None:
    """A page is nowhere wider than its window, and axe finds nothing in either of its layouts.

    Of the three windows only a phone's is so narrow that other rules of the style sheet hold. No table has to be
    scrolled sideways there.

    Args:
        ready: Waits until the loaded page shows everything.
    """
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        if size != "tablet":
            page.goto(url)
            ready()
        fits = "document.documentElement.scrollWidth <= innerWidth"
        wait_for(lambda: page.evaluate(fits), 20.0, what=f"{name} fits a {size}")  # noqa: B023
        if size != "tablet":
            assert barriers(page) == [], (name, size)
        shoot(page, f"{name}-{size}")
        if size == "phone":
            wide = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
            assert page.evaluate(wide) == 0, f"a table of {name} goes out of a phone's window"


class DashboardWorld:
    """The dashboard of a hub's folder; one account of each role, all with `PASSWORD`.

    Args:
        folder: The hub's, with a repository.
        url: Of a dashboard that a hub's process serves; without it, it is served here.
        config: As ``hub.toml``; with an empty ``[web]`` if not given.
        web: Its ``[web]`` table.
    """

    def __init__(self, folder: Path, *, url: str = "", config: HubConfig | None = None, **web: Any) -> None:
        self.folder = folder
        self.config = config or HubConfig(folder=str(folder), link=LinkConfig(url="mqtt://127.0.0.1", site="test"))
        self.web = WebConfig(port=0, **web)
        with open_database(folder) as database, database.transaction():
            for role in ROLES:
                set_account(database, NAMES[role], role, PASSWORD)
        self.url, self.server = url, None
        if not url:
            self.server = WebServer(msgspec.structs.replace(self.config, web=self.web), self.web)
            self.server.start()
            self.url = self.server.url

    def close(self) -> None:
        if self.server is not None:
            self.server.close()

    def session(self, role: Role, *, label: str = "") -> str:
        """Begins a session of the account of a role; returns its token."""
        with open_database(self.folder) as database:
            return begin_session(database, NAMES[role], label=label)

    def client(self, role: Role | None = None) -> DashboardClient:
        """Returns a client that is signed in as somebody of a role, as a browser is."""
        return DashboardClient(self.url, self.session(role) if role else "")

    @contextlib.contextmanager
    def open_page(
        self, browser: Browser, role: Role | None, path: str = "/", size: str = "desktop", *, other: str = ""
    ) -> Iterator[Page]:
        """Opens a page in Chromium, signed in; it must ask no other host for anything, and no script may fail.

        Args:
            other: Address of an identity provider, whose own pages it may go to.
        """
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
        if role is not None:
            context.add_cookies([{"name": COOKIE, "value": self.session(role), "url": self.url}])
        asked: list[str] = []
        failed: list[str] = []
        page = context.new_page()
        page.on("request", lambda one: asked.append(one.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.on("console", lambda one: failed.append(one.text) if _is_blocked(one, other) else None)
        answer = page.goto(self.url + path)
        assert answer is not None and answer.status < 400, path
        yield page
        context.close()
        own = (self.url, "data:", "blob:", *filter(None, [other]))
        strangers = [url for url in asked if not url.startswith(own)]
        assert (strangers, failed) == ([], [])


class DashboardClient:
    """An HTTP client.

    Args:
        cookie: A session's token; empty for nobody.
        token: An API token instead.
    """

    def __init__(self, url: str, cookie: str = "", *, token: str = "") -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {token}"} if token else {"Origin": url}
        if cookie:
            self.headers["Cookie"] = f"{COOKIE}={cookie}"
        self.answer_headers: dict[str, str] = {}

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Returns status and body of the answer; a redirect is not followed.

        Args:
            body: Sent as JSON unless it is bytes.
        """
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=20) as answer:
                self.answer_headers = {name.lower(): text for name, text in answer.headers.items()}
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            self.answer_headers = {name.lower(): text for name, text in error.headers.items()}
            return error.code, error.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """Returns the JSON of an answer, which must be a success."""
        status, data = self.send(method, path, body)
        assert status < 300, (method, path, status, data)
        return json.loads(data)


def _is_blocked(said: ConsoleMessage, other: str) -> bool:
    is_others = bool(other) and said.location["url"].startswith(other)
    return "Content Security Policy" in said.text and not is_others


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
