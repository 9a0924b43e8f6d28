"""Waiting for what must happen, with a deadline and without sleeping longer than needed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

_POLL_S = 0.01


def wait_for(
    predicate: Callable[[], object], timeout_s: float = 10.0, *, what: str = "", every_s: float = _POLL_S
) -> None:
    """Returns as soon as ``predicate()`` is true.

    Args:
        predicate: Is looked at.
        timeout_s: The test fails after this long.
        what: Was waited for, for the message.
        every_s: Pause between two looks; longer where a look costs what is waited for its processor.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or predicate}")
        pause.wait(every_s)


def free_port() -> int:
    """Returns a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
