"""`Screen`: the operator screen of one agent, and its HTTP server in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lineside_agent.config import ScreenConfig
from lineside_agent.screen.people import NAME as PEOPLE_NAME
from lineside_agent.screen.people import read_people
from lineside_agent.screen.routes import make_app
from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_agent.screen.state import ScreenState
from lineside_link.config import is_loopback
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
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


class Screen:
    """Shows the line to browsers.

    Args:
        state: What the screen knows; the screen ends its threads.

    Raises:
        ConfigError: Other machines could reach the screen without TLS or without a PIN, or the address is taken.
    """

    def __init__(self, state: ScreenState, access: SetUpAccess) -> None:
        check_access(state.config, has_people=bool(read_people(state.agent.folder)))
        self._state = state
        self._set_up = SetUpViews(state, access)
        self._server = ScreenServer(state, is_local=is_loopback(state.config.address), set_up=self._set_up)

    def start(self) -> None:
        """Starts the server's thread."""
        self._server.start()
        self._state.start()

    def observe(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record and its images, after the line was told its verdict."""
        self._state.observe(row, frames)

    def show(self, status: Mapping[str, Any]) -> None:
        """Takes the agent's status, as for ``status.json``."""
        self._state.show(status)

    def close(self) -> None:
        """Ends streams and threads."""
        self._state.end()
        self._set_up.close()
        self._server.close()
        self._state.close()


def check_access(config: ScreenConfig, *, has_people: bool) -> None:
    """Checks that other machines need TLS and a PIN.

    Raises:
        ConfigError: They don't.
    """
    has_tls = config.tls_certificate is not None and config.tls_key is not None
    for path in filter(None, (config.tls_certificate, config.tls_key)):
        if not path.is_file():
            raise ConfigError(f"$.screen: {path} is not there", expected="a file in PEM")
    if not has_tls and (config.tls_certificate or config.tls_key):
        raise ConfigError("$.screen", expected="both tls_certificate and tls_key", actual="one of them")
    if is_loopback(config.address):
        return
    if not has_tls:
        raise ConfigError(
            f"$.screen.address {config.address} lets other machines in without TLS",
            expected="tls_certificate and tls_key, or a loopback address",
        )
    if not has_people:
        raise ConfigError(
            f"$.screen.address {config.address} lets other machines in, and nobody has a PIN ({PEOPLE_NAME})",
            expected="at least one person",
            action="Run: lineside agent person add NAME --role operate",
        )


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
