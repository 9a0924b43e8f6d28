"""Waiting for what must happen, with a deadline and without sleeping longer than needed; ports for peers."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

_POLL_S = 0.01
_POLL_MAX_S = 0.05
_PAUSE_PER_LOOK = 40
"""Pause after a look, in multiples of its duration: looks at a hub's database took a tenth of a core for minutes."""

LIMIT_S = 60.0
"""Ends a hang. Two busy cores can stop a process for many seconds, so it is far above what anything takes."""

MACHINE_FOLDER = Path("/tmp")  # not $TMPDIR, which two runs of tests may have of their own
"""Of locks and counters for what a machine has once, such as its ports."""

_END_PORT = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
_FIRST_PORT = _END_PORT // 2


def wait_for(
    predicate: Callable[[], object],
    timeout_s: float = LIMIT_S,
    *,
    what: str | Callable[[], str] = "",
    every_s: float = _POLL_S,
) -> None:
    """Returns as soon as ``predicate()`` is true.

    Args:
        predicate: Is looked at.
        timeout_s: The test fails after this long.
        what: Was waited for, for the message; a function if it shows a state, such as a log, as it is at the end.
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
            waited_for = what() if callable(what) else what
            raise AssertionError(f"not within {timeout_s:g} s: {waited_for or predicate}")
        pause.wait(max(every_s, min(_POLL_MAX_S, _PAUSE_PER_LOOK * (ended_s - began_s))))


def free_port() -> int:
    """Returns a loopback port on which nothing listens.

    All test processes of a machine share a counter, so no two of them get the same port. The ports lie below the range
    from which the kernel takes those of outgoing connections, so none of these takes the port before the peer listens.
    """
    counter = MACHINE_FOLDER / f"lineside-tests-port-{os.getuid()}"
    with counter.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or _FIRST_PORT)
        while True:
            port = port + 1 if _FIRST_PORT <= port < _END_PORT - 1 else _FIRST_PORT
            if not _is_taken(port):
                break
        file.truncate(0)
        file.write(str(port))
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
