"""Locks across processes: one writer at a time in a folder of the hub, and one hub that runs on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from lineside_runtime.errors import ConfigError
from lineside_runtime.files import file_lock

LOCK_NAME = "write.lock"
RUNNING_NAME = "running.lock"


def folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Returns the lock of ``folder``; see `file_lock`."""
    return file_lock(folder / LOCK_NAME)


@contextlib.contextmanager
def running_lock(folder: Path) -> Iterator[None]:
    """Takes the folder for the process of a hub; the kernel gives it back at its end, however it ends.

    Two hubs with one name push each other off the broker, and both step the same rollouts.

    Raises:
        ConfigError: Another hub runs on the folder.
    """
    descriptor = os.open(folder / RUNNING_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another hub runs on {folder}", action="End it first.") from error
        yield
    finally:
        os.close(descriptor)
