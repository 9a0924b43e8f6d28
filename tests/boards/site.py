"""A site of one board: a hub and a broker with mutual TLS on this machine, and what the hub knows of the board."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lineside_hub.fleet.listing import list_devices
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle
from lineside_runtime.errors import AgentUpdateError
from tests.boards.emulator import HOST
from tests.peers.waiting import wait_for
from tests.worlds.hub import query
from tests.worlds.secure_site import SecureSite, lineside

NAME, GROUP = "cam-07", "line-3"


def say(text: str) -> None:
    """A line of the log that is kept."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def shipped(name: str) -> str:
    """Returns ``name@version`` of a shipped bundle, as its manifest has it."""
    return open_bundle(zoo.path(name)).manifest.identity


class BoardSite(SecureSite):
    """The hub and the broker of a board `NAME`; the broker runs.

    Args:
        folder: For their files; what is there of an earlier site goes on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, groups=[GROUP], hosts=["127.0.0.1", HOST])
        self.start_broker()

    def device(self) -> dict[str, Any]:
        """What ``lineside fleet ls`` says of the board; empty before it was ever there."""
        listed = json.loads(lineside("fleet", "ls", "--hub", self.folder, "--json"))["devices"]
        return next((row for row in listed if row["name"] == NAME), {})

    def verdicts(self) -> list[tuple[str, str]]:
        """Verdict and error of each result of the board's, oldest first, as they stand in the hub's database."""
        statement = "SELECT verdict, error FROM results WHERE device = ? ORDER BY seq"
        return query(self.folder, statement, NAME)

    def states(self, bundle: str, *, since_ns: int) -> dict[str, int]:
        """Returns the states of the board's update to a bundle, and when the hub received each first.

        Args:
            bundle: ``name@version``.
            since_ns: Unix time; earlier reports are not looked at.
        """
        statement = "SELECT kind, min(at_ns) FROM events WHERE device = ? AND bundle = ? AND at_ns > ? GROUP BY kind"
        return dict(query(self.folder, statement, NAME, bundle, since_ns))

    def agents_taken_back(self, *, since_ns: int) -> list[str]:
        """Returns what the board said of new agents that it took back, oldest first.

        Args:
            since_ns: Unix time; earlier reports are not looked at.
        """
        statement = (
            "SELECT detail FROM events WHERE device = ? AND kind = 'agent' AND code = ? AND at_ns > ? ORDER BY id"
        )
        return [detail for (detail,) in query(self.folder, statement, NAME, AgentUpdateError.code, since_ns)]

    def wait_until(self, timeout_s: float, *, what: str, **wanted: Any) -> None:
        """Returns when the hub's row of the board has these values; a number may be larger.

        Args:
            timeout_s: The test fails after this long.
            what: Was waited for, for the message.
            wanted: Fields of the row.
        """

        def there() -> bool:
            rows = [row for row in list_devices(self.folder) if row.name == NAME]
            found = {name: getattr(rows[0], name) for name in wanted} if rows else {}
            return bool(rows) and all(_reached(found[name], value) for name, value in wanted.items())

        wait_for(there, timeout_s, what=f"{what}: {wanted}", every_s=1.0)
        assert all(_reached(self.device()[name], value) for name, value in wanted.items()), "fleet ls says the same"


def _reached(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return bool(found >= wanted)
    return bool(found == wanted)
