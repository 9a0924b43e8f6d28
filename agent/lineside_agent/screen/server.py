"""The HTTP server of the operator screen, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading

from lineside_agent.screen.routes import make_app
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_agent.screen.state import ScreenState
from lineside_runtime.errors import ConfigError
from lineside_runtime.server.http_ import HttpServer, http_config, listening_socket
from lineside_runtime.server.limits import ServerLimits

log = logging.getLogger("lineside.screen")

CONNECTIONS_MAX = 64
"""Browsers open six each; further ones are answered 503."""

CONNECTIONS_PER_ADDRESS = CONNECTIONS_MAX // 4
"""One address, such as a proxy's, cannot take all connections."""

LIMITS = ServerLimits(workers=1, request_timeout_s=30.0, header_timeout_s=10.0)
"""A client that takes nothing for 30 s is cut off by the kernel."""

STOP_S = 3.0


class ScreenServer:
    """Serves one screen.

    Args:
        is_local: Whether only this machine reaches the address.
        set_up: The set-up views; ``None`` where there are none.

    Raises:
        ConfigError: The address can't be used, or TLS files are no good.
    """

    def __init__(self, screen: ScreenState, *, is_local: bool, set_up: SetUpViews | None = None) -> None:
        self._screen = screen
        config = screen.config
        self._listener = listening_socket(
            config.address, config.port, setting="$.screen", connections_per_address=CONNECTIONS_PER_ADDRESS
        )
        self._listener.listen(CONNECTIONS_MAX)  # a browser that is early waits
        port = self._listener.getsockname()[1]
        scheme = "http" if config.tls_key is None else "https"
        host = f"[{config.address}]" if ":" in config.address else config.address
        self.url = f"{scheme}://{host}:{port}"
        self._config = http_config(
            make_app(screen, is_local=is_local, set_up=set_up),
            LIMITS,
            tls_key=config.tls_key,
            tls_certificate=config.tls_certificate,
            connections_max=CONNECTIONS_MAX,
        )
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            self._listener.close()
            raise ConfigError(
                f"$.screen.tls_certificate: {error}", expected="certificate and key that match"
            ) from error
        self._server = HttpServer(self._config)
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()
        log.info("the operator screen is at %s", self.url)

    def close(self) -> None:
        """Ends the streams and the thread."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._screen.viewers.attach(asyncio.get_running_loop())
        await self._server.serve(sockets=[self._listener])
