"""Connection of the hub to its broker, for people: `hub status`, `fleet ls` and the dashboard show what is wrong.

They read the hub's database, which shows devices as they were when the hub last heard of them. So the running hub
writes whether it hears anything into a file beside the database.

A broker may drop subscriptions while the connection stands, and tells nobody. Agents repeat their birth every five
minutes: a hub with connected devices that hears none of them connects again, which subscribes again.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_hub.folder_lock import is_running
from lineside_link.client.client import LinkClient
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import DiskFullError
from lineside_runtime.files import write_atomic

log = logging.getLogger("lineside.hub")

NAME = "link.json"

LOOK_S = 1.0

GRACE_S = 5.0
"""So long without a connection is no problem yet: at the start, and while the client connects again."""

LOSSES_MAX, LOSSES_S = 4, 300.0
"""A connection that ends more often in this time is pushed off, or breaks down all the time."""

SILENT_S = 900.0
"""So long no message of connected devices means that the broker passes none on."""


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """What the running hub says of its connection.

    Attributes:
        problem: Why devices are not heard; empty if they are.
    """

    problem: str


class LinkMonitor:
    """Watches the hub's connection. Call `check` again and again, and `close` at the end, in one thread.

    Args:
        expects: Returns whether a device is connected, as far as the hub knows.
    """

    def __init__(self, link: LinkClient, folder: Path, *, expects: Callable[[], bool] = lambda: False) -> None:
        self._link, self._path, self._expects = link, folder / NAME, expects
        self._received = 0
        self._message_s = time.monotonic()
        self._silent = ""
        self._losses: collections.deque[float] = collections.deque(maxlen=LOSSES_MAX + 1)
        self._counted = 0
        self._error = ""
        self._heard_s = time.monotonic()
        self._look_s = 0.0
        self._written: str | None = None

    def check(self) -> None:
        """Looks at the connection once in `LOOK_S`, and writes what has changed."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        problem = self._problem(now_s)
        if problem != self._written:
            try:
                write_atomic(self._path, msgspec.json.encode(LinkState(problem=problem)))
                self._written = problem
            except (OSError, DiskFullError) as error:
                log.warning("%s is not written: %s", self._path, error)

    def close(self) -> None:
        """Deletes the file: a hub that was ended by a person is no problem."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _problem(self, now_s: float) -> str:
        link, url = self._link, self._link.config.url
        losses = link.counters.get("disconnects", 0)
        self._losses.extend([now_s] * min(losses - self._counted, LOSSES_MAX + 1))
        self._counted = losses
        error = str(link.last_error or "")
        self._error = error or self._error
        self._check_messages(now_s)
        if link.connected:
            self._heard_s = now_s
        elif now_s - self._heard_s > GRACE_S:
            return f"the hub has no connection to {url}, and hears no device: {error or 'it connects'}"
        if len(self._losses) > LOSSES_MAX and now_s - self._losses[0] < LOSSES_S:
            return (
                f"the hub's connection to {url} ended more than {LOSSES_MAX} times in {LOSSES_S / 60:.0f} minutes: "
                f"{self._error} Is there a second hub of this site, or another client called {link.client_id}?"
            )
        return error or self._silent

    def _check_messages(self, now_s: float) -> None:
        """Connects again if the broker passes on no message of devices that are connected."""
        link, received = self._link, self._link.counters.get("received", 0)
        if received != self._received:
            self._received, self._message_s, self._silent = received, now_s, ""
        elif not link.connected:
            self._message_s = now_s
        elif now_s - self._message_s > SILENT_S and self._expects():
            self._message_s = now_s
            self._silent = (
                f"{link.config.url} has passed on no message for {SILENT_S / 60:.0f} minutes, though devices were "
                "connected: the hub connects again. Check the broker's access list (ACL)"
            )
            log.error("%s", self._silent)
            link.reconnect()


def link_warning(folder: Path) -> str:
    """Returns why the hub of a folder hears no device; empty if it does, or if a person ended it."""
    try:
        state = decode_json((folder / NAME).read_bytes(), type=LinkState)
    except (OSError, msgspec.DecodeError):
        return ""
    if not is_running(folder):
        return "the hub was killed, and shows devices as they were then: start it"
    return state.problem
