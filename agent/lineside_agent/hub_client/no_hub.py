"""`NoHub`: stands in the place of `lineside_agent.hub_client.client.HubClient` in an agent without a ``[link]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from lineside_agent.hub_client.frame_uploads import UploadCounts
from lineside_runtime.errors import BrokerError


class NoHub:
    """A hub client that reports to nobody, waits for nothing and can fetch nothing."""

    upload_counts = UploadCounts()

    def start(self, *_: object) -> None:
        """Does nothing."""

    def threads(self) -> dict[str, Callable[[], None]]:
        """Returns no threads."""
        return {}

    def report(self, **_: Any) -> None:
        """Does nothing."""

    report_bundle = report_agent = start

    def fetch(self, *_: object) -> NoReturn:
        """Raises `BrokerError`."""
        raise _no_link("a bundle")

    def fetch_configuration(self, *_: object) -> NoReturn:
        """Raises `BrokerError`."""
        raise _no_link("a configuration")

    def fetch_agent(self, *_: object) -> NoReturn:
        """Raises `BrokerError`."""
        raise _no_link("an agent")

    def reason_to_wait(self, *_: object) -> str:
        """Returns no reason."""
        return ""

    def met_hub(self) -> bool:
        """Returns true: an agent without a link has no hub to meet."""
        return True

    def has_sent_everything(self) -> bool:
        """Returns true."""
        return True

    def check_connection(self) -> None:
        """Does nothing."""

    def report_free_disk(self) -> None:
        """Does nothing."""

    def status(self) -> dict[str, Any]:
        """As `lineside_agent.hub_client.client.HubClient.status`."""
        return {"connected": False, "link_problem": None, "certificate_problem": None, "resent": 0, "name_conflicts": 0}

    def close(self) -> None:
        """Does nothing."""


def _no_link(what: str) -> BrokerError:
    return BrokerError(f"no link to fetch {what} over", action="Add [link] to agent.toml.")
