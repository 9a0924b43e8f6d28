"""`Screen`: the operator screen of one agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lineside_agent.config import ScreenConfig
from lineside_agent.screen.people import NAME as PEOPLE_NAME
from lineside_agent.screen.people import read_people
from lineside_agent.screen.server import ScreenServer
from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_agent.screen.set_up.views import SetUpViews
from lineside_agent.screen.state import ScreenState
from lineside_link.config import is_loopback
from lineside_link.messages import ResultRow
from lineside_models.frame import Frame
from lineside_runtime.errors import ConfigError


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

    @property
    def url(self) -> str:
        """Where browsers on this machine find it."""
        return self._server.url

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
