"""The HTTP server of the dashboard, in a thread of the hub's process.

Clients share one event loop, which never waits: handlers run in a few worker threads, a client that does not read is
cut off by the kernel, and connections, bodies and waiting requests are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from contextlib import closing
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
from lineside_hub.web.routing import Dashboard, NavigationEntry
from lineside_hub.web.thumbnails import ThumbnailCache
from lineside_link.config import is_loopback
from lineside_runtime.errors import ConfigError
from lineside_runtime.server.http_ import HttpServer, http_config, listening_socket
from lineside_runtime.server.limits import ServerLimits

log = logging.getLogger("lineside.hub.web")

CONNECTIONS_MAX = 256

CONNECTIONS_PER_ADDRESS = CONNECTIONS_MAX // 4
"""One address, such as a proxy's, cannot take all connections."""

LIMITS = ServerLimits(workers=1, request_timeout_s=30.0, header_timeout_s=10.0)

STOP_S = 5.0


class WebServer:
    """Serves the dashboard of one hub.

    Args:
        config: With its ``[web]`` table.

    Raises:
        ConfigError: Other machines could reach it without TLS, the address can't be used, or TLS files are no good.
    """

    def __init__(self, config: HubConfig, web: WebConfig) -> None:
        is_local = is_loopback(web.address)
        check_tls(web, is_local=is_local)
        policy = OriginPolicy(web.names, is_local=is_local)
        self._dashboard = Dashboard(
            config=config,
            templates=make_templates(),
            throttle=LoginThrottle(),
            provider=None if web.oidc is None else IdentityProvider(web.oidc),
            thumbnails=ThumbnailCache(),
            routes=ROUTES,
            navigation=tuple(NavigationEntry(one.menu, one.path, one.role or "watch") for one in ROUTES if one.menu),
        )
        self._runner = RouteRunner(self._dashboard, policy)
        self._listener = listening_socket(
            web.address, web.port, setting="$.web", connections_per_address=CONNECTIONS_PER_ADDRESS
        )
        self._listener.listen(CONNECTIONS_MAX)
        host = f"[{web.address}]" if ":" in web.address else web.address
        self.url = f"{'https' if web.tls_key else 'http'}://{host}:{self._listener.getsockname()[1]}"
        http = http_config(
            make_app(self._dashboard, ROUTES, self._runner, policy),
            LIMITS,
            tls_key=Path(web.tls_key) if web.tls_key else None,
            tls_certificate=Path(web.tls_certificate) if web.tls_certificate else None,
            connections_max=CONNECTIONS_MAX,
        )
        try:
            http.load()
        except (OSError, ssl.SSLError) as error:
            self._listener.close()
            raise ConfigError("$.web.tls_certificate", expected="certificate and key that match") from error
        self._server = HttpServer(http)
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread, after what an earlier process left pending in the audit log has become rows."""
        with closing(Database.open(self._dashboard.folder)) as database:
            audit.recover(database)
            is_empty = not list_accounts(database)
        self._thread.start()
        log.info("the dashboard is at %s", self.url)
        if is_empty:
            log.warning("nobody can sign in at the dashboard: lineside hub user add NAME --role administer")

    def close(self) -> None:
        """Ends the requests and the thread."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._runner.close()
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener]))


def check_tls(web: WebConfig, *, is_local: bool) -> None:
    """Checks that other machines need TLS.

    Raises:
        ConfigError: They don't, or a file is missing.
    """
    for path in filter(None, (web.tls_certificate, web.tls_key)):
        if not Path(path).is_file():
            raise ConfigError(f"$.web: {path} is not there", expected="a file in PEM")
    if bool(web.tls_certificate) != bool(web.tls_key):
        raise ConfigError("$.web", expected="both tls_certificate and tls_key", actual="one of them")
    if not is_local and not web.tls_key:
        raise ConfigError(
            f"$.web.address {web.address} lets other machines in without TLS",
            expected="tls_certificate and tls_key, or a loopback address",
        )
