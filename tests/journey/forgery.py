"""Desired states that nobody has signed for, and with which code a device refuses them."""

from __future__ import annotations

from collections.abc import Callable

from lineside_hub.results.database import Database
from lineside_link.messages import BundleRef, ConfigRef, Desired, Reported, decode
from tests.peers.waiting import wait_for
from tests.worlds.agent import DEVICE
from tests.worlds.hub import query
from tests.worlds.site import GROUP, Site


def desire_unsigned(site: Site, *, config: ConfigRef | None = None, bundle: BundleRef | None = None) -> int:
    """Writes a desired state past the repository, as whoever holds the broker can; returns its generation."""
    database = Database.open(site.hub_folder)
    try:
        with database.transaction():
            wish = Desired(epoch=0, gen=0, config=config, bundle=bundle)
            return database.add_desired(f"g/{GROUP}", wish, artifact="bundle" if config is None else "config").gen
    finally:
        database.close()


def reported(site: Site) -> Reported | None:
    """Returns what the device has reported."""
    rows = query(site.hub_folder, "SELECT reported FROM devices WHERE device = ?", DEVICE)
    return decode(rows[0][0].encode(), Reported) if rows and rows[0][0] else None


def bundle_refusal(site: Site, gen: int) -> int | None:
    """Returns the code with which the device refused a generation's bundle, if it has."""
    report = reported(site)
    if report is None or report.gen != gen or report.state not in ("failed", "rolled_back"):
        return None
    return report.error.code if report.error is not None else None


def config_refusal(site: Site, gen: int) -> int | None:
    """Returns the code with which the device refused a generation's configuration, if it has."""
    report = reported(site)
    config = report.configuration if report is not None else None
    return config.error.code if config is not None and config.gen == gen and config.error is not None else None


def wait_refusal(site: Site, read: Callable[[Site, int], int | None], gen: int, what: str) -> int:
    """Waits until a generation is refused, and returns the code that was seen then.

    It is read once: the hub, which sees the refusal too, may have gone on to another one right after it.
    """
    seen: list[int] = []

    def look() -> bool:
        code = read(site, gen)
        seen.extend(() if code is None else (code,))
        return bool(seen)

    wait_for(look, what=what)
    return seen[0]
