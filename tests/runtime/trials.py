"""Devices that were taken out and are loaded again by a thread."""

from __future__ import annotations

import threading

from tests.peers.waiting import wait_for


def wait_trials() -> None:
    """Waits until no device is being loaded again."""
    wait_for(lambda: all(thread.name != "lineside-trial" for thread in threading.enumerate()), 60)
