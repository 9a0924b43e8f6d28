"""Locks across processes: one writer at a time in a folder of the hub, and one hub that runs on it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from lineside_runtime.errors import ConfigError
from lineside_runtime.files import file_lock

LOCK_NAME = "write.lock"
RUNNING_NAME = "running.lock"
REFUSED_AFTER_S = 1.0
"""`is_running` holds the lock for a moment: a hub that starts just then waits."""


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of ``folder``; see `file_lock`."""
    return file_lock(folder / LOCK_NAME)


@contextmanager
def running_lock(folder: Path) -> Iterator[None]:
    """Holds the lock of a hub's process; `ConfigError` on entry if another hub runs on the folder.

    Two hubs with one name push each other off the broker, and both step the same rollouts.
    """
    refusal = ConfigError(f"another hub runs on {folder}", action="End it first.")
    until = time.monotonic() + REFUSED_AFTER_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(file_lock(folder / RUNNING_NAME, refusal=refusal))
                break
            except ConfigError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        yield


def is_running(folder: Path) -> bool:
    """Returns whether a hub runs on the folder; the kernel knows that at once of one that was killed, too."""
    try:
        descriptor = os.open(folder / RUNNING_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
