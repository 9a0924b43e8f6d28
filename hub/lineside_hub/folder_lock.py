"""Locks across processes: one writer at a time in a folder of the hub, and one hub that runs on it."""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager
from pathlib import Path

from lineside_runtime.errors import ConfigError
from lineside_runtime.files import file_lock

LOCK_NAME = "write.lock"
RUNNING_NAME = "running.lock"


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of ``folder``; see `file_lock`."""
    return file_lock(folder / LOCK_NAME)


def running_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock that the process of a hub holds; `ConfigError` on entry if another hub runs on the folder.

    Two hubs with one name push each other off the broker, and both step the same rollouts.
    """
    refusal = ConfigError(f"another hub runs on {folder}", action="End it first.")
    return file_lock(folder / RUNNING_NAME, refusal=refusal)


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
