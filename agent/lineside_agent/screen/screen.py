"""`Screen`: the operator screen of one agent, and its HTTP server in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
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
from lineside_runtime.server.page_server import PageAddress, PageServer

log = logging.getLogger("lineside.screen")

CONNECTIONS_MAX = 64


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
        self._server = make_server(state, is_local=is_loopback(state.config.address), set_up=self._set_up)

    def start(self) -> None:
        """Starts the server's thread."""
        self._server.start()
        log.info("the operator screen is at %s", self._server.url)
        self._state.start()

    def observe(self, row: ResultRow, frames: Sequence[Frame]) -> None:
        """Takes a record and its images, after the line was told its verdict."""
        self._state.observe(row, frames)

    def update_status(self, status: Mapping[str, Any]) -> None:
        """Takes the agent's status, as for ``status.json``."""
        self._state.update_status(status)

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
    is_local = is_loopback(config.address)
    _address(config).check_tls(is_local=is_local)
    if not is_local and not has_people:
        raise ConfigError(
            f"$.screen.address {config.address} lets other machines in, and nobody has a PIN ({PEOPLE_NAME})",
            expected="at least one person",
            action="Run: lineside agent person add NAME --role operate",
        )


def make_server(screen: ScreenState, *, is_local: bool, set_up: SetUpViews | None = None) -> PageServer:
    """Makes the server of one screen.

    Args:
        is_local: Whether only this machine reaches the address.
        set_up: The set-up views; ``None`` where there are none.

    Raises:
        ConfigError: The address can't be used, or TLS files are no good.
    """
    return PageServer(
        make_app(screen, is_local=is_local, set_up=set_up),
        _address(screen.config),
        name="screen",
        connections_max=CONNECTIONS_MAX,
        on_started=lambda: screen.viewers.attach(asyncio.get_running_loop()),
    )


def _address(config: ScreenConfig) -> PageAddress:
    return PageAddress(
        setting="$.screen",
        address=config.address,
        port=config.port,
        tls_certificate=config.tls_certificate,
        tls_key=config.tls_key,
    )
