"""Whether a deployment must wait for its maintenance window. Pure.

A window is in the plant's local time, so a device whose clock is not set can't know whether it is open, and waits.
"""

from __future__ import annotations

from datetime import datetime

from lineside_link.maintenance_window import opening
from lineside_link.messages import Desired
from lineside_runtime.errors import ConfigError


def closed(desired: Desired | None, now: datetime | None, *, fetching: bool) -> str:
    """Returns what the deployment waits for; empty if for nothing.

    Args:
        now: The time, with its zone; ``None`` while the clock is not set.
        fetching: Before a fetch; otherwise before the change.
    """
    window = desired.window if desired is not None else None
    if window is None or (fetching and window.fetch == "at_once"):
        return ""
    if now is None:
        return f"the clock is not set, so whether the maintenance window ({window.timezone}) is open can't be told"
    try:
        opens = opening(window, now)
    except ConfigError as error:
        return f"the maintenance window can't be followed: {error.message}; push again with another one"
    return f"the maintenance window opens {opens:%Y-%m-%d %H:%M} ({window.timezone})" if opens is not None else ""
