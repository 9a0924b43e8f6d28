"""The HTTP server of the dashboard, in a thread of the hub's process.

Clients share one event loop, which never waits: handlers run in a few worker threads, a client that does not read is
cut off by the kernel, and connections, bodies and waiting requests are bounded.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lineside_hub.config import HubConfig, WebConfig
from lineside_hub.results.database import Database
from lineside_hub.web import audit
from lineside_hub.web.accounts import LoginThrottle, list_accounts
from lineside_hub.web.app import RouteRunner, make_app
from lineside_hub.web.guard import OriginPolicy
from lineside_hub.web.identity_provider import IdentityProvider
from lineside_hub.web.pages import ROUTES
from lineside_hub.web.rendering import make_templates
from lineside_hub.web.routing import Dashboard
from lineside_hub.web.thumbnails import ThumbnailCache
from lineside_link.config import is_loopback
from lineside_runtime.server.page_server import PageAddress, PageServer

log = logging.getLogger("lineside.hub.web")

CONNECTIONS_MAX = 256


class WebServer:
    """Serves the dashboard of one hub.

    Args:
        config: With its ``[web]`` table.

    Raises:
        ConfigError: Other machines could reach it without TLS, the address can't be used, or TLS files are no good.
    """

    def __init__(self, config: HubConfig, web: WebConfig) -> None:
        is_local = is_loopback(web.address)
        where = PageAddress(
            setting="$.web",
            address=web.address,
            port=web.port,
            tls_certificate=Path(web.tls_certificate) if web.tls_certificate else None,
            tls_key=Path(web.tls_key) if web.tls_key else None,
        )
        where.check_tls(is_local=is_local)
        policy = OriginPolicy(web.names, is_local=is_local)
        self._dashboard = Dashboard(
            config=config,
            templates=make_templates(),
            throttle=LoginThrottle(),
            provider=None if web.oidc is None else IdentityProvider(web.oidc),
            thumbnails=ThumbnailCache(),
            routes=ROUTES,
        )
        self._runner = RouteRunner(self._dashboard, policy)
        app = make_app(self._dashboard, self._runner, policy)
        self._server = PageServer(app, where, name="dashboard", connections_max=CONNECTIONS_MAX)
        self.url = self._server.url

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._server.alive

    def start(self) -> None:
        """Starts the thread, after what an earlier process left pending in the audit log has become rows."""
        with Database.open(self._dashboard.folder) as database:
            audit.recover(database)
            is_empty = not list_accounts(database)
        self._server.start()
        log.info("the dashboard is at %s", self.url)
        if is_empty:
            log.warning("nobody can sign in at the dashboard: lineside hub user add NAME --role administer")

    def close(self) -> None:
        """Ends the requests and the thread."""
        self._server.close()
        self._runner.close()
