"""Waiting for what must happen, with a deadline and without sleeping longer than needed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

_POLL_S = 0.01
_POLL_MAX_S = 0.05
_PAUSE_PER_LOOK = 10
"""Pause after a look, in multiples of its duration: looks take at most a tenth of a core from what is waited for."""


def wait_for(
    predicate: Callable[[], object], timeout_s: float = 10.0, *, what: str = "", every_s: float = _POLL_S
) -> None:
    """Returns as soon as ``predicate()`` is true.

    Args:
        predicate: Is looked at.
        timeout_s: The test fails after this long.
        what: Was waited for, for the message.
        every_s: Least pause between two looks; it is longer, up to 0.05 s, where a look itself takes long.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        began_s = time.monotonic()
        if predicate():
            return
        ended_s = time.monotonic()
        if ended_s > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or predicate}")
        pause.wait(max(every_s, min(_POLL_MAX_S, _PAUSE_PER_LOOK * (ended_s - began_s))))


def free_port() -> int:
    """Returns a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
